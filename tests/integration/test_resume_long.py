"""Tests that long commands resume after a kill and end with the same pool and figures, bit for bit."""

import csv
import json
import random
import time
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax.axes.parameterisation import Pixels
from distill_jax.checkpoint import load_pool
from distill_jax.cli import ablate, evaluate, pretrain, reproduce
from distill_jax.cli.session import workdir
from distill_jax.cli.session.score import Scorer
from distill_jax.data import load
from distill_jax.distilled import DistilledSet
from tests.integration.test_ablate import SMALL
from tests.integration.test_reproduce_table import OWN
from tests.kills import Killed
from tests.tiny import NET, python

PRETRAIN = ["acc_dd", "digits", *NET, "--models.size", "4", "--models.epochs", "2"]
ABLATE = [*SMALL.split(), "--outer-steps", "6", "--perturb.max", "0", "0.09", "--models.epochs", "0", "1"]
COMPARE = [
    "compare", "--dataset", "digits", "--methods", "random", "dm", "fast: dm --optimiser.lr 2", "--steps", "4",
    "--points", "2", "--seeds", "2", "--repeats", "1",
]  # fmt: skip
SHARED = [
    "--", "--selector.batch", "4", "--protocol.epochs", "2", "--augment", "none", "--protocol.augment.strategy", "",
    *NET,
]  # fmt: skip

EVALUATE = ["--dataset", "digits", "--nets", "mlp", "convnet", "lenet", "--repeats", "2", "--epochs", "3"]


def killed(*argv: str, after: float) -> None:
    """Start a command and SIGKILL it after ``after`` seconds."""
    process = python("-m", *argv)
    deadline = time.monotonic() + after
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.communicate()


def dies_at_the_second_score(patched: pytest.MonkeyPatch) -> list[int]:
    """Raise Killed when a set is scored for the second time. The returned list grows with each score."""
    scored: list[int] = []

    def dies(self, *args, _score=Scorer.score):
        scored.append(1)
        if len(scored) == 2:
            raise Killed
        return _score(self, *args)

    patched.setattr(Scorer, "score", dies)
    return scored


def pool(path: Path) -> list[bytes]:
    import jax

    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(load_pool(path / "pool")[0])]


def rows(path: Path, *clocks: str) -> list[dict[str, str]]:
    """Return the rows of a CSV without its wall-clock columns."""
    with path.open() as file:
        return [{name: value for name, value in row.items() if name not in clocks} for row in csv.DictReader(file)]


@pytest.mark.slow
@pytest.mark.parametrize("moments", [(4.0, 5.0, 6.0)])
def test_pretraining(moments: tuple[float, ...], tmp_path: Path) -> None:
    assert pretrain.main([*PRETRAIN, "--workdir", str(tmp_path / "whole")]) == 0
    part = ["--workdir", str(tmp_path / "part"), "--resume"]
    for moment in moments:
        killed("experiments.pretrain", *PRETRAIN, *part, after=moment + random.random())
    assert pretrain.main([*PRETRAIN, *part]) == 0
    assert pool(tmp_path / "part") == pool(tmp_path / "whole")
    assert sorted(path.name for path in (tmp_path / "part").iterdir()) == ["pool"]


def test_members_that_are_finished_are_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import jax
    from jax.core import Tracer

    from distill_jax.axes.models import pools as training

    assert pretrain.main([*PRETRAIN, "--workdir", str(tmp_path / "whole")]) == 0
    calls, epoch = [], training.train_epochs

    def counted(*args):
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(args[3])):
            return epoch(*args)  # only shapes are computed, before the run starts
        calls.append(1)
        if len(calls) == 6:  # the fourth of four members would end with the eighth
            raise Killed
        return epoch(*args)

    monkeypatch.setattr(training, "train_epochs", counted)
    with pytest.raises(Killed):
        pretrain.main([*PRETRAIN, "--workdir", str(tmp_path / "part")])
    assert pretrain.main([*PRETRAIN, "--workdir", str(tmp_path / "part")]) == 2, "--resume or --overwrite is needed"
    assert pretrain.main([*PRETRAIN, "--workdir", str(tmp_path / "part"), "--resume"]) == 0
    assert len(calls) == 6 + 4, "two finished members are kept"
    assert pool(tmp_path / "part") == pool(tmp_path / "whole")


@pytest.mark.slow
def test_an_ablation(tmp_path: Path) -> None:
    assert ablate.main([*ABLATE, "--workdir", str(tmp_path / "whole")]) == 0
    part = ["--workdir", str(tmp_path / "part"), "--resume"]
    for moment in (6.0, 9.0, 12.0):
        killed("experiments.ablate", *ABLATE, *part, after=moment + random.random())
    assert ablate.main([*ABLATE, *part]) == 0
    assert rows(tmp_path / "part" / workdir.SWEPT) == rows(tmp_path / "whole" / workdir.SWEPT)


@pytest.mark.slow
def test_a_comparison(tmp_path: Path) -> None:
    assert reproduce.main([*COMPARE, "--workdir", str(tmp_path / "whole"), *SHARED]) == 0
    part = [*COMPARE, "--workdir", str(tmp_path / "part"), "--resume", *SHARED]
    for moment in (6.0, 9.0, 12.0):
        killed("experiments.reproduce", *part, after=moment + random.random())
    assert reproduce.main(part) == 0
    whole, resumed = (rows(tmp_path / name / workdir.COMPARED, "seconds") for name in ("whole", "part"))
    assert resumed == whole


@pytest.mark.slow
def test_a_table(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(OWN)
    argv = [str(tmp_path / "own.toml"), "--seeds", "2", "--repeats", "1"]
    assert reproduce.main([*argv, "--workdir", str(tmp_path / "whole")]) == 0
    part = [*argv, "--workdir", str(tmp_path / "part"), "--resume"]
    for moment in (6.0, 9.0, 12.0):
        killed("experiments.reproduce", *part, after=moment + random.random())
    assert reproduce.main(part) == 0
    clocks = ("pretrain_seconds", "distill_seconds")
    whole, resumed = (rows(tmp_path / name / workdir.REPRODUCED, *clocks) for name in ("whole", "part"))
    assert resumed == whole


@pytest.mark.parametrize("runner", ["ablate", "reproduce"])
def test_a_killed_command_resumes(runner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    argv, shared, module = (ABLATE, [], ablate) if runner == "ablate" else (COMPARE, SHARED, reproduce)
    figures = workdir.SWEPT if runner == "ablate" else workdir.COMPARED
    assert module.main([*argv, "--workdir", str(tmp_path / "whole"), *shared]) == 0
    with monkeypatch.context() as patched:
        dies_at_the_second_score(patched)
        with pytest.raises(Killed):
            module.main([*argv, "--workdir", str(tmp_path / "part"), *shared])
    assert module.main([*argv, "--workdir", str(tmp_path / "part"), "--resume", *shared]) == 0
    whole, resumed = (rows(tmp_path / name / figures, "seconds") for name in ("whole", "part"))
    assert resumed == whole


@pytest.fixture
def digits_set(tmp_path: Path) -> str:
    """Return the path of a set of ten real digits."""
    data = load("digits")
    first = [int(np.flatnonzero(data.y_train == c)[0]) for c in range(data.classes)]
    images = jnp.asarray(data.x_train[first][:, None] / np.float32(255))
    made = DistilledSet.of(Pixels(), images, data.class_names, data.real_data().normaliser, {"dataset": "digits"})
    made.save(tmp_path / "set.npz")
    return str(tmp_path / "set.npz")


def figures(path: Path) -> dict[str, Any]:
    """Return the accuracies of the networks in the only evaluation of a file."""
    (evaluation,) = json.loads(path.read_text())["evaluations"]
    kept = ("net", "accuracy", "interval_95")
    return {name: {key: of[key] for key in kept} for name, of in evaluation["nets"].items()}


@pytest.mark.slow
def test_an_evaluation(digits_set: str, tmp_path: Path) -> None:
    whole, part = tmp_path / "whole.json", tmp_path / "part.json"
    assert evaluate.main([digits_set, *EVALUATE, "--out", str(whole)]) == 0
    for moment in (5.0, 7.0, 9.0):
        killed(
            "experiments.evaluate",
            digits_set,
            *EVALUATE,
            "--out",
            str(part),
            "--resume",
            after=moment + random.random(),
        )
    assert evaluate.main([digits_set, *EVALUATE, "--out", str(part), "--resume"]) == 0
    assert figures(part) == figures(whole)


def test_networks_that_are_scored_are_not_trained_again(
    digits_set: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, part = tmp_path / "whole.json", tmp_path / "part.json"
    assert evaluate.main([digits_set, *EVALUATE, "--out", str(whole)]) == 0

    scored = dies_at_the_second_score(monkeypatch)
    with pytest.raises(Killed):
        evaluate.main([digits_set, *EVALUATE, "--out", str(part)])
    assert evaluate.main([digits_set, *EVALUATE, "--out", str(part), "--resume"]) == 0
    assert len(scored) == 2 + 2, "the first network is kept"
    assert figures(part) == figures(whole)
