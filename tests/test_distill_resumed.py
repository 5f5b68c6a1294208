"""Tests what ``distill --resume`` keeps of an earlier process: its result, or only its checkpoints."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from distill_jax.axes.optimiser import SGD
from distill_jax.cli import distill
from distill_jax.cli.distill import Distill
from distill_jax.cli.session.atomic import read_json, write_json
from distill_jax.cli.session.setup import Setup
from distill_jax.cli.session.workdir import CONFIG, REPORT, RESULT, Workdir
from distill_jax.recipes import resolve
from distill_jax.spec import Spec
from distill_jax.types import RequestError

CONTENT: dict[str, Any] = {
    "schema": 1,
    "spec": {"outer_steps": 4, "labels": {"choice": "HardLabels"}},
    "protocol": {"epochs": 3},
    "versions": {"jax": "1"},
}


def begin(
    path: Path, monkeypatch: pytest.MonkeyPatch, taken: int = 0, outer: int = 4, options: Any = None, **changes: Any
) -> Any:
    spec = Spec(optimiser=SGD(), outer_steps=outer, inner_steps=3)
    described = {**CONTENT, **changes, "spec": {**CONTENT["spec"], "outer_steps": outer}}
    setup: Any = SimpleNamespace(spec=spec, method="dm", describe=lambda: dict(described))
    found = SimpleNamespace(steps=lambda: (taken,) if taken else ())
    monkeypatch.setattr(distill, "Checkpoints", lambda path: found)
    options = options or Distill("dm", "digits", resume=True, workdir=path, repeats=5)
    return distill._begin(Workdir(path), setup, options)


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a run of 12 steps that has a result and a report."""
    assert begin(tmp_path, monkeypatch) is None
    write_json(tmp_path / RESULT, {"accuracy": 50.0, "config": read_json(tmp_path / CONFIG)})
    (tmp_path / REPORT).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ({}, {}),
        ({"save_every": 9}, {}),
        ({}, {"versions": {"jax": "2"}}),
    ],
)
def test_a_result_of_the_same_set_and_score_is_kept(
    options: dict[str, Any], changes: dict[str, Any], finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Distill("dm", "digits", resume=True, workdir=finished, **{"repeats": 5, **options})
    found = begin(finished, monkeypatch, 12, options=asked, **changes)
    assert found["accuracy"] == 50.0 and (finished / REPORT).exists()


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ({"repeats": 6}, {}),
        ({"uint8": True}, {}),
        ({"baselines": ()}, {}),
        ({}, {"protocol": {"epochs": 4}}),
        ({}, {"outer": 5}),
    ],
)
def test_a_result_of_another_set_or_score_is_removed_with_its_report(
    options: dict[str, Any], changes: dict[str, Any], finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is removed at once: an interruption must not leave it beside a configuration that it does not belong to."""
    asked = Distill("dm", "digits", resume=True, workdir=finished, **{"repeats": 5, **options})
    assert begin(finished, monkeypatch, 12, options=asked, **changes) is None
    assert not (finished / RESULT).exists() and not (finished / REPORT).exists()
    now = read_json(finished / CONFIG)
    assert all(now[name] == value for name, value in changes.items() if name != "outer")
    assert now["repeats"] == asked.repeats and now.get("uint8", False) == asked.uint8


def test_a_run_does_not_end_before_the_steps_that_it_has_taken(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match="has already taken 7 steps: give at least --outer-steps 3"):
        begin(finished, monkeypatch, 7, outer=2)
    assert read_json(finished / CONFIG)["spec"]["outer_steps"] == 4 and (finished / RESULT).exists()
    assert begin(finished, monkeypatch, 6, outer=2) is None


@pytest.mark.parametrize(
    ("dataset", "folder"),
    [
        ("digits", "dm-digits-ipc1-seed3"),
        ("zca:cifar10", "dm-cifar10-ipc1-seed3"),
        ("npz:some where/my data.v2.npz", "dm-my_data.v2-ipc1-seed3"),
        ("folder:../photos/", "dm-photos-ipc1-seed3"),
    ],
)
def test_a_folder_is_named_after_the_run(dataset: str, folder: str) -> None:
    nothing: Any = None
    setup = Setup("dm", dataset, "digits", 3, resolve("dm", "digits", shape=(8, 8, 1)), nothing, nothing, nothing)
    assert setup.folder == folder
