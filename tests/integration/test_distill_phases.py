"""Tests what ``distill`` trains networks on after the distillation. No network is trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from distill_jax.axes.parameterisation import Pixels
from distill_jax.cli import distill
from distill_jax.cli.process.clock import Clock
from distill_jax.cli.process.interrupts import Interrupts
from distill_jax.cli.request import arguments
from distill_jax.cli.session import score
from distill_jax.cli.session.optimise import Session
from distill_jax.cli.session.score import Baseline, Scorer
from distill_jax.cli.session.setup import Setup, set_up
from distill_jax.cli.session.workdir import Workdir
from distill_jax.distilled import DistilledSet
from distill_jax.evaluation import Protocol
from distill_jax.train import real_train_set
from distill_jax.train_many import Sets
from distill_jax.types import RealData
from tests.tiny import NET

Trainings = dict[str, tuple[Sets, Protocol]]
"""the sets and the protocol of each score, by the label of its progress bar"""


def phases(line: str, path: Path, monkeypatch: pytest.MonkeyPatch, **card: Any) -> tuple[Setup, Trainings]:
    """Run ``distill`` on digits with one black image per class, and this ``card``, in place of its result."""
    argv, trainings = [*line.split(), *NET, "--repeats", "2"], Trainings()
    options = arguments.parse(argv, distill.Distill)[0]
    setup = set_up(arguments.request(argv, distill.Distill), options.eval_every, parts=True)
    names = setup.data.part("part", setup.spec.classes or range(10)).class_names
    images = jnp.zeros((len(names), 1, *setup.data.shape))
    made = DistilledSet.of(Pixels(), images, names, setup.real_data().normaliser, card)

    def scored(self: Scorer, what: str, sets: Sets, protocol: Protocol | None = None) -> dict[str, Any]:
        trainings[what] = sets, protocol or self.protocol
        return score.summary([50.0])

    monkeypatch.setattr(Scorer, "score", scored)
    monkeypatch.setattr(distill, "pool_for", lambda *_: None)
    monkeypatch.setattr(distill, "optimise", lambda *_: made)
    monkeypatch.setattr(distill, "draw", lambda of: Image.new("L", (1, 1)))
    with Interrupts() as interrupts:
        session = Session(setup, setup.feed(), Workdir(path), Clock(), interrupts)
        distill._run_phases(session, options, None)
    return setup, trainings


def test_the_baselines_of_a_part_use_no_held_out_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[RealData] = []

    def baseline(scorer: Scorer, real: RealData, *_: object) -> Baseline:
        seen.append(real)
        return Baseline("random images", Sets.same(real_train_set(real), 1), scorer.protocol)

    monkeypatch.setitem(score.BASELINES, "random", baseline)
    line = "dm digits --classes 5 2 --eval-every 1 --baselines random"
    setup, _ = phases(line, tmp_path, monkeypatch)
    part, whole = (data.part("part", (5, 2)) for data in (setup.data, setup.source))
    np.testing.assert_array_equal(seen[0].images, part.x_train)
    np.testing.assert_array_equal(seen[0].labels, part.y_train)
    assert len(part.y_train) < len(whole.y_train)


@pytest.mark.parametrize("line", ["full digits --baselines random", "random digits --baselines random full"])
def test_all_images_take_as_many_steps_beside_random_images(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten images are one batch, and all 1347 are 135 batches."""
    _, trainings = phases(f"{line} --protocol.epochs 270 --protocol.batch 10", tmp_path, monkeypatch)
    sets, protocol = trainings["all images"]
    assert sets.rows.shape == (2, 1347) and protocol.epochs == 2
    assert trainings["random images"][0].rows.shape == (2, 10)


@pytest.mark.parametrize(("protocol", "rate"), [("dsa", 0.3), ("idc", 0.01)])
def test_only_the_set_is_scored_at_its_learned_rate(
    protocol: str, rate: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = f"dm digits --protocol {protocol} --baselines random"
    setup, trainings = phases(line, tmp_path, monkeypatch, rate=0.3)
    (sets, own), (random, usual) = trainings["scoring"], trainings["random images"]
    assert own == replace(usual, rate=rate) and usual == setup.experiment.protocol and usual.rate == 0.01
    black, real = (np.asarray(of.store.images)[np.asarray(of.rows)] for of in (sets, random))
    np.testing.assert_allclose(black, np.full(black.shape, -setup.data.mean / setup.data.std), rtol=1e-5)
    assert black.shape == real.shape == (2, 10, 8, 8, 1) and float(np.ptp(real)) > 1
