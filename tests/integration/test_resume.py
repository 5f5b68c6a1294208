"""Tests that a run that was stopped in any way and resumed ends with the bits of an uninterrupted run."""

import json
import os
import random
import re
import shlex
import signal
import time
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest

from distill_jax import run as loop
from distill_jax.cli import distill
from distill_jax.distill import run_block
from tests.kills import Killed, dies
from tests.tiny import TINY, outcome, python

LONGER = ["--outer-steps", "12"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("runs") / "uninterrupted"
    assert distill.main([*TINY, "--workdir", str(path)]) == 0
    return outcome(path)


@pytest.fixture(scope="module")
def longer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("runs") / "longer"
    assert distill.main([*TINY, *LONGER, "--workdir", str(path)]) == 0
    return outcome(path)


def run(workdir: Path, *more: str) -> int:
    return distill.main([*TINY, "--workdir", str(workdir), *more])


@pytest.mark.parametrize(
    "owner, name, call, after",
    [
        ("distill_jax.cli.distill.Workdir", "write", 1, True),  # config.json
        ("distill_jax.cli.session.pool", "make_pool", 1, True),
        ("distill_jax.run", "run_block", 3, True),
        ("distill_jax.cli.session.optimise.Checkpoints", "save", 1, True),
        ("distill_jax.cli.session.optimise.Checkpoints", "save", 3, False),
        ("distill_jax.cli.session.optimise.Checkpoints", "save", 3, True),
        ("distill_jax.cli.session.workdir.Workdir", "log", 2, False),
        ("distill_jax.cli.distill", "_save", 1, False),
        ("distill_jax.cli.session.score.Scorer", "score", 4, False),
        ("distill_jax.cli.distill", "draw", 2, False),
        ("distill_jax.cli.distill.Workdir", "write", 2, False),  # result.json
    ],
)
def test_killed_anywhere(owner, name, call, after, uninterrupted, tmp_path: Path, monkeypatch) -> None:
    with monkeypatch.context() as patched:
        target = f"{owner}.{name}"
        module, _, attribute = target.rpartition(".")
        original = getattr(_resolve(module), attribute)
        patched.setattr(target, dies(original, call, after))
        with pytest.raises(Killed):
            run(tmp_path)
    assert not (tmp_path / "result.json").exists()
    assert run(tmp_path, "--resume") == 0
    assert outcome(tmp_path) == uninterrupted


def _resolve(name: str) -> Any:
    from importlib import import_module

    try:
        return import_module(name)
    except ModuleNotFoundError:
        module, _, attribute = name.rpartition(".")
        return getattr(import_module(module), attribute)


def test_killed_again_and_again(uninterrupted, tmp_path: Path, monkeypatch) -> None:
    for call in (2, 2, 3):
        with monkeypatch.context() as patched:
            patched.setattr(loop, "run_block", dies(run_block, call, True))
            with pytest.raises(Killed):
                run(tmp_path, *["--resume"][: (tmp_path / "config.json").exists()])
    assert run(tmp_path, "--resume") == 0
    assert outcome(tmp_path) == uninterrupted


@pytest.mark.parametrize("signum, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_after_the_block_and_saves(
    signum, code, uninterrupted, tmp_path: Path, monkeypatch, capsys
) -> None:
    def run_and_signal(*args):
        result = run_block(*args)
        if args[2] > 0:
            os.kill(os.getpid(), signum)
            time.sleep(0.2)
        return result

    with monkeypatch.context() as patched:
        patched.setattr(loop, "run_block", run_and_signal)
        assert distill.main([*TINY, "--workdir", str(tmp_path), "--save-every", "0"]) == code
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == ["0", "1"]
    command = re.search("to resume: (.*)", capsys.readouterr().err)
    assert command is not None
    python, *argv = shlex.split(command[1])
    assert argv[:2] == ["-m", "experiments.distill"] and argv[-1] == "--resume"
    assert distill.main(argv[2:]) == 0
    assert outcome(tmp_path) == uninterrupted


@pytest.mark.parametrize("phase", ["pretraining", "held-out accuracy", "scoring", "random images"])
def test_a_phase_that_a_signal_interrupts_runs_again(phase, uninterrupted, tmp_path: Path, monkeypatch) -> None:
    from distill_jax.cli.output import display as show

    class Signalled(show.Bar):
        def __init__(self, what: str, *args, **kwargs) -> None:
            super().__init__(what, *args, **kwargs)
            if what == phase:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.2)

    with monkeypatch.context() as patched:
        for module in ("pool", "score"):
            patched.setattr(f"distill_jax.cli.session.{module}.Bar", Signalled)
        assert run(tmp_path) == 143
    assert run(tmp_path, "--resume") == 0
    assert outcome(tmp_path) == uninterrupted


@pytest.mark.parametrize("hits", ["newest", "all"])
def test_a_damaged_checkpoint(hits, uninterrupted, tmp_path: Path, monkeypatch, capsys) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(loop, "run_block", dies(run_block, 4, True))
        with pytest.raises(Killed):
            run(tmp_path)
    steps = sorted((tmp_path / "checkpoints").iterdir(), key=lambda path: int(path.name))
    for step in steps if hits == "all" else steps[-1:]:
        for path in step.rglob("*"):
            if path.is_file():
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    capsys.readouterr()
    code = run(tmp_path, "--resume")
    said = capsys.readouterr().err
    if hits == "all":
        assert code == 2 and "damaged" in said and "Traceback" not in said
        return
    assert (
        code == 0
        and f"the checkpoint of step {steps[-1].name} is damaged: continuing from step {steps[-2].name}" in said
    )
    assert outcome(tmp_path) == uninterrupted


def test_resuming_an_empty_folder_starts_a_run(uninterrupted, tmp_path: Path, capsys) -> None:
    assert run(tmp_path / "new", "--resume") == 0
    assert "no run" in capsys.readouterr().err
    assert outcome(tmp_path / "new") == uninterrupted


def test_a_finished_run_can_be_scored_again(uninterrupted, tmp_path: Path, monkeypatch, capsys) -> None:
    assert run(tmp_path) == 0
    capsys.readouterr()
    config, never = tmp_path / "config.json", dies(run_block, 1, False)
    config.write_text(before := config.read_text().replace('"devices": "', '"devices": "1'))
    assert run(tmp_path, "--resume") == 0
    assert "bits may differ" not in capsys.readouterr().err and config.read_text() == before, "nothing was computed"
    with monkeypatch.context() as patched:
        patched.setattr(loop, "run_block", never)
        assert run(tmp_path, "--resume", "--repeats", "1") == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert len(result["accuracy"]["per_repeat"]) == 1
    assert outcome(tmp_path)["images"] == uninterrupted["images"]


@pytest.mark.slow
def test_a_finished_run_can_be_extended(longer, tmp_path: Path, capsys) -> None:
    assert run(tmp_path) == 0
    assert run(tmp_path, "--resume", *LONGER) == 0
    assert outcome(tmp_path) == longer
    assert json.loads((tmp_path / "result.json").read_text())["steps"]["outer"] == 12
    assert run(tmp_path, "--resume") == 2
    assert "12" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path, monkeypatch, capsys) -> None:
    calls = iter(range(100))

    def explode(problem, state, steps):
        state, losses = run_block(problem, state, steps)
        return state, losses if next(calls) < 3 else losses * jnp.nan

    monkeypatch.setattr(loop, "run_block", explode)
    assert run(tmp_path) == 1
    said = capsys.readouterr().err
    assert "--optimiser.lr" in said and "no longer finite" in said and "Traceback" not in said
    kept = {int(path.name) for path in (tmp_path / "checkpoints").iterdir()}
    assert kept == {0, 3} and "of step 3" in said
    assert not (tmp_path / "distilled.npz").exists()


ENDLESS = """
import time
from distill_jax.cli.process.interrupts import Interrupts
with Interrupts():
    print("ready", flush=True)
    while True:
        time.sleep(60)
"""


def test_a_second_interrupt_ends_at_once() -> None:
    process = python("-c", ENDLESS)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert "Ctrl-C" in process.communicate()[1]


def killed(workdir: Path, lines: int, *more: str) -> None:
    """Start or resume a run in ``workdir``, and SIGKILL it when ``lines`` outer steps are logged."""
    metrics = workdir / "metrics.jsonl"
    process = python("-m", "experiments.distill", *TINY, *more, "--workdir", str(workdir), "--resume")
    while process.poll() is None and not (metrics.exists() and metrics.read_text().count("\n") >= lines):
        time.sleep(0.001)
    time.sleep(random.uniform(0, 0.05))
    process.kill()
    process.communicate()


def test_sigkill(uninterrupted: dict[str, Any], tmp_path: Path) -> None:
    killed(tmp_path, 2)
    assert not (tmp_path / "result.json").exists()
    assert run(tmp_path, "--resume") == 0
    assert outcome(tmp_path) == uninterrupted


@pytest.mark.slow
def test_sigkill_at_ten_moments(longer: dict[str, Any], tmp_path: Path) -> None:
    for number in range(10):
        workdir = tmp_path / str(number)
        killed(workdir, random.randint(0, 12), *LONGER)
        assert run(workdir, *LONGER, "--resume") == 0
        assert outcome(workdir) == longer
