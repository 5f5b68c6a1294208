"""Tests the option --subset of every command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from distill_jax.cli import ablate, distill, evaluate, explain, import_set, reproduce
from distill_jax.cli.ablation.swept import parse
from distill_jax.cli.request import arguments
from distill_jax.data import load
from distill_jax.distilled import DistilledSet
from tests.tiny import NET, PLAIN, POOL, SHORT

LINE = ["acc_dd", "digits", *NET, *POOL, *SHORT, *PLAIN, "--baselines", "random"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "finished"
    assert distill.main([*LINE, "--subset", "0", "1", "2", "--workdir", str(path)]) == 0
    return path


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def fails(capsys: pytest.CaptureFixture[str], main: Callable, argv: list[str], *said: str) -> None:
    assert main(argv) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: ") and shown.count("\n") == 1 and all(words in shown for words in said), shown


def test_a_run_on_a_subset(finished: Path) -> None:
    config, distilled = read(finished / "config.json"), DistilledSet.load(finished / "distilled.npz")
    assert list(config)[:4] == ["schema", "method", "dataset", "subset"]
    assert config["dataset"] == "digits" and config["subset"] == ["0", "1", "2"] and config["data"]["classes"] == 3
    assert config["data"]["fingerprint"] == load("digits", only=["0:3"]).fingerprint
    assert distilled.classes == 3 and distilled.card["class_names"] == ["0", "1", "2"]
    assert distilled.card["subset"] == ["0", "1", "2"] and distilled.card["dataset"] == "digits"


def test_resuming_with_another_subset_is_refused(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    same = [*LINE, "--workdir", str(finished), "--resume"]
    assert distill.main([*same, "--subset", "0", "1", "2"]) == 0
    capsys.readouterr()
    for other in (["--subset", "0", "1", "3"], ["--subset", "2", "1", "0"], []):
        fails(capsys, distill.main, [*same, *other], "subset was", "cannot resume")


def test_evaluating_on_the_same_subset_and_on_another(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [str(finished), "--dataset", "digits", "--repeats", "1", "--epochs", "1", "--subset"]
    assert evaluate.main([*argv, "0:3"]) == 0
    (entry,) = read(finished / "evaluation.json")["evaluations"]
    assert entry["dataset"]["subset"] == ["0:3"]
    assert entry["dataset"]["test_images"] == np.isin(load("digits").y_test, [0, 1, 2]).sum()
    capsys.readouterr()
    said = f"than {finished} (3: 0, 1, 2, ...): give the --dataset and --subset"
    fails(capsys, evaluate.main, [*argv, "0", "1", "3"], "digits[0,1,3] has other classes (3: 0, 1, 3, ...)", said)
    fails(capsys, evaluate.main, argv[:-1], "digits has other classes (10: 0, 1, 2, ...)", said)
    fails(capsys, evaluate.main, argv, "--subset has no value")
    fails(capsys, evaluate.main, [*argv, "0", "cat"], "digits has no class 'cat'")


@pytest.mark.parametrize(
    "line",
    [
        "acc_dd digits --subset 4 2 --ipc 2",
        "acc_dd digits --ipc 2 --subset 4 2",
        "--subset 4 2 --ipc 2 acc_dd digits",
        "acc_dd --subset 4 2 --ipc 2 digits",
    ],
)
def test_several_words_among_other_options(line: str) -> None:
    request = arguments.request(line.split(), distill.Distill)
    assert request.options.subset == ("4", "2") and request.data.class_names == ("4", "2")
    assert request.experiment.spec.ipc == 2


def test_an_empty_subset_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for main in (distill.main, explain.main):
        fails(capsys, main, ["acc_dd", "digits", "--subset"], "--subset has no value: give at least one")
    fails(capsys, reproduce.main, ["compare", "--dataset", "digits", "--subset"], "--subset has no value")
    fails(capsys, import_set.main, ["idc", "a.pt", "--out", str(tmp_path / "x"), "--subset", "a", "b"], "add --dataset")


def test_the_values_of_subset_are_not_a_sweep() -> None:
    line = ["acc_dd", "digits", "--subset", "0", "1", "2", "--perturb.max", "0", "0.1"]
    assert parse(line, ablate.Ablate)[:2] == ({"perturb.max": [0, 0.1]}, line[:6])


def test_comparing_on_a_subset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["compare", "--dataset", "digits", "--repeats", "1", "--workdir", str(tmp_path / "run"), "--methods"]
    shared = ["--", *NET, "--protocol.epochs", "1", *PLAIN[-2:]]
    own = "all methods are compared on the same classes"
    fails(capsys, reproduce.main, [*argv, "random --subset 0 1", "--subset", "0", "2", *shared], own)
    fails(capsys, reproduce.main, [*argv, "random", *shared, "--subset", "0", "2"], own)
    assert reproduce.main([*argv, "random", "--subset", "0", "2", *shared]) == 0
    (config,) = read(tmp_path / "run" / "config.json")["methods"].values()
    assert config["subset"] == ["0", "2"] and config["data"]["classes"] == 2


def test_explaining_a_subset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def shown(*argv: str) -> str:
        assert explain.main(["dm", *argv, "--net.width", "4"]) == 0
        return capsys.readouterr().out

    assert "uint8 [10000, 32, 32, 3] -> select [2, 256, 32, 32, 3]" in shown("cifar10", "--subset", "cat", "dog")
    assert "select [5, 256, 8, 8, 1]" in shown("zca:digits", "--subset", "0:5", "--net.depth", "1")
    assert "select [100, 256, 32, 32, 3]" in shown("cifar100", "--subset", "0:99", "apple")
    fails(
        capsys,
        explain.main,
        ["dm", "cifar10", "--subset", "imagenet10"],
        "imagenet10 lists classes of ImageNet",
        "which cifar10 is not",
    )
