"""Tests that the examples are short and run. All tests but the first start them as a user does."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path

import pytest

from tests.tiny import ROOT, python

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def output(*argv: str) -> str:
    process = python(*argv)
    out, err = process.communicate()
    assert process.returncode == 0, err
    return out


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 120 and f"python examples/{path.name}" in text
    if path.stem == "train_in_pytorch":
        trains = text[text.index("\n\n\ndef ") : text.index("\n# How good")]
        assert len([line for line in trains.splitlines() if line.strip()]) == 10 and "distill_jax" not in trains


@pytest.mark.slow
def test_pytorch_reaches_the_accuracy_of_evaluate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch = pytest.importorskip("torch")
    # This is a real distillation, so compile it with optimisation.
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    run, out = str(tmp_path / "run"), str(tmp_path / "out")
    output("-m", "experiments.distill", "acc_dd", "digits", "--ipc", "1", "--workdir", run, "--baselines")
    output("-m", "experiments.export", run, "png", out)
    expected = json.loads((tmp_path / "run" / "result.json").read_text())["accuracy"]["mean"]
    monkeypatch.syspath_prepend(out)
    monkeypatch.delitem(sys.modules, "use_in_pytorch", raising=False)
    start_at = torch.manual_seed
    for seed in range(5):  # a mean over as many networks as evaluate trains, instead of the example's one
        monkeypatch.setattr(torch, "manual_seed", lambda _, seed=seed: start_at(seed))
        runpy.run_path(str(ROOT / "examples" / "train_in_pytorch.py"))
    said = [float(line.split()[0]) for line in capsys.readouterr().out.splitlines()]
    assert abs(sum(said) / 5 - expected) < 2, f"{said}, evaluate says {expected:.2f}"


@pytest.mark.slow
def test_downstream_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    said = output(
        "examples/continual_learning.py", "--seeds", "1", "--outer-steps", "1", "--steps", "3", "--width", "4"
    )
    rows = [line.split("|")[1:-1] for line in said.splitlines()]
    assert [row[0].strip() for row in rows[2:]] == ["distilled", "random real", "none"]
    assert all(len(row) == 6 for row in rows) and all("±" in cell for row in rows[2:] for cell in row[1:])

    run = str(tmp_path / "run")
    line = ["acc_dd", "digits", "--outer-steps", "1", "--inner-steps", "1", "--models.size", "1", "--net.width", "4"]
    output("-m", "experiments.distill", *line, "--protocol.epochs", "1", "--repeats", "1", "--workdir", run)
    few = ["--networks", "3", "--repeats", "2", "--epochs", "1"]
    said = output("examples/architecture_search.py", f"{run}/distilled.npz", *few)
    assert len(re.findall(r"^\| \d", said, re.MULTILINE)) == 3
    assert len(re.findall(r"^- \w+, .*: -?\d\.\d\d$", said, re.MULTILINE)) == 3


@pytest.mark.slow
def test_the_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    said = run_notebook("quickstart", tmp_path, monkeypatch, capsys)
    assert said.count("of the held-out images") == 4 and (tmp_path / "digits.npz").exists()


@pytest.mark.slow
def test_the_ablation_notebook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = run_notebook("perturbation_ablation", tmp_path, monkeypatch, capsys)
    assert said.count("of the held-out images") == 6 and "programs compiled for all points: 1\n" in said


def run_notebook(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """Run the cells of a notebook in ``folder`` and return what they print."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MPLBACKEND", "agg")
    cells = json.loads((ROOT / "examples" / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    names: dict = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    return capsys.readouterr().out
