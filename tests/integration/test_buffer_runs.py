"""Tests ``distill --resident-images``: killed runs resume with the same bits, and wrong requests are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distill_jax import run as loop
from distill_jax.axes.models import pools
from distill_jax.cli import distill
from tests.kills import Killed, dies
from tests.tiny import NET, PLAIN, POOL, SHORT, TINY, outcome

FEW = ["acc_dd", "digits", *NET, *POOL, *SHORT, *PLAIN, "--save-every", "1", "--baselines", "--resident-images", "20"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("runs") / "uninterrupted"
    assert distill.main([*FEW, "--workdir", str(path)]) == 0
    return outcome(path)


@pytest.mark.parametrize(
    ("module", "name", "call"), [(pools, "train_epochs", 9), (loop, "run_block", 2), (loop, "run_block", 5)]
)
def test_a_killed_run_goes_on_with_the_same_bits(
    module: Any, name: str, call: int, uninterrupted: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    function: Callable[..., Any] = getattr(module, name)
    monkeypatch.setattr(module, name, dies(function, call, after=True))
    with pytest.raises(Killed):
        distill.main([*FEW, "--workdir", str(tmp_path)])
    monkeypatch.setattr(module, name, function)
    assert distill.main([*FEW, "--workdir", str(tmp_path), "--resume"]) == 0
    assert outcome(tmp_path) == uninterrupted


def test_bad_requests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        (["--resident-images", "-1"], "resident_images is -1: give at least 1 (--ipc), or 0 for all"),
        (["--resident-images", "2", "--ipc", "3"], "resident_images is 2: give at least 3 (--ipc)"),
        (
            ["--resident-images", "9", "--baselines", "full"],
            "full trains on all images at once: leave out either --resident",
        ),
        (["--resident-images", "9", "--selector", "representative"], "--selector.batch 9 or less"),
    ):
        assert distill.main([*TINY, *words, "--workdir", str(tmp_path / "run")]) == 2
        assert message in capsys.readouterr().err.replace("\n", " ")
