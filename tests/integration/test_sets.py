"""Tests the sets that come with the library: they load, have a card, and reach the score in the card."""

import os
from pathlib import Path

import numpy as np
import pytest

from distill_jax import DistilledSet, evaluate, load, sets
from distill_jax.cli import distill
from distill_jax.cli import evaluate as runner
from distill_jax.cli.session.score import interval, summary
from distill_jax.data import SHAPES
from distill_jax.distilled import content_hash
from distill_jax.evaluation import Protocol
from distill_jax.spec import from_json
from distill_jax.types import RequestError
from tests.tiny import TINY

NAMES = sets.names()
DATA = os.environ.get("DISTILL_JAX_TEST_DATA", "")
"""a folder with mnist.npz and cifar10.npz, as described in docs/sets.md"""


def test_the_list_of_sets() -> None:
    assert {"digits-ipc1", "digits-ipc10", "mnist-ipc1", "mnist-ipc10", "cifar10-ipc1", "cifar10-ipc10"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_card_of_a_set(name: str) -> None:
    dataset, _, ipc = name.partition("-ipc")
    made, (shape, classes) = DistilledSet.load(name), SHAPES[dataset]
    card = made.card
    assert (made.shape, made.classes, card["ipc"]) == (shape, classes, int(ipc)) and card["recipe"] == dataset
    assert made.images.shape == (classes * int(ipc), *shape)
    assert card["hash"] == content_hash(made.images, made.labels, made.soft)
    assert (card["bits"], card["space"]) == (8, "pixel")
    np.testing.assert_array_equal(np.rint(made.images * 255).astype(np.float32) / np.float32(255), made.images)
    assert isinstance(from_json(card["protocol"], Protocol()), Protocol) and from_json(card["net"]) is not None
    assert len(card["score"]["per_repeat"]) >= 5 and card["score"] == summary(card["score"]["per_repeat"])
    assert Path(sets.located(Path(name))).stat().st_size < 2 * 2**20


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n == "digits-ipc10")) for n in NAMES])
def test_a_set_reaches_its_score(name: str) -> None:
    """Trains new networks. The difference of their mean from the mean in the card, which is of few networks, lies
    within its 99.9 % interval (with equal deviations).
    """
    dataset = name.partition("-ipc")[0]
    source = "digits" if dataset == "digits" else f"npz:{DATA}/{dataset}.npz"
    if dataset != "digits" and not DATA:
        pytest.skip("DISTILL_JAX_TEST_DATA does not say where the data is")
    made, data = DistilledSet.load(name), load(source)
    known = made.card["score"]
    # Another seed gives other networks than those in the card.
    again = evaluate(made, data, from_json(made.card["protocol"], Protocol()), from_json(made.card["net"]), 2, seed=1)
    limits = interval(known, 0.999)
    assert limits is not None
    half = (limits[1] - limits[0]) / 2 * (1 + len(known["per_repeat"]) / len(again)) ** 0.5
    assert abs(np.mean(again) - known["mean"]) <= half, f"{np.mean(again)} is not {known['mean']} within {half}"


def test_a_misspelt_name_lists_the_sets(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RequestError, match="no distilled set in digits-ipc2: .* or one of .*digits-ipc1, digits-ipc10"):
        DistilledSet.load("digits-ipc2")
    assert runner.main(["digit-ipc1", "--dataset", "digits"]) == 2
    assert "digits-ipc1" in capsys.readouterr().err


def test_a_file_of_the_user_has_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    DistilledSet.load("digits-ipc10").save(tmp_path / "digits-ipc1")
    assert DistilledSet.load("digits-ipc1").card["ipc"] == 10


def test_a_run_rounds_its_images_before_they_are_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [*TINY, "--workdir", str(tmp_path)]
    assert distill.main(argv) == 0
    exact = DistilledSet.load(tmp_path / "distilled.npz")
    assert distill.main([*argv, "--resume", "--uint8"]) == 0
    rounded = DistilledSet.load(tmp_path / "distilled.npz")
    assert "bits" not in exact.card and rounded.card["bits"] == 8
    np.testing.assert_array_equal(rounded.images, np.rint(exact.images * np.float32(255)) / np.float32(255))
    assert rounded.card["score"] is not None and rounded.card["hash"] != exact.card["hash"]
    assert distill.main(["dc", "digits", "--uint8", "--workdir", str(tmp_path / "dc")]) == 2
    assert "leave out --uint8" in capsys.readouterr().err
