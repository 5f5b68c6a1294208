"""Tests the host loop of ``distill``: when it scores and saves, and which seconds it counts."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

from distill_jax.cli.process import clock as process_clock
from distill_jax.cli.process.clock import Clock
from distill_jax.cli.process.interrupts import Interrupted
from distill_jax.cli.session import optimise as session
from distill_jax.evaluation import PROTOCOLS, Protocol
from distill_jax.run import Block, BlockSize
from distill_jax.types import Synthetic


class Reached(NamedTuple):
    """The part of a state that the loop looks at."""

    synthetic: Synthetic


def state(step: int) -> Any:
    return Reached(Synthetic(np.full((1, 1, 1, 1, 1), np.float32(step))))  # type: ignore[arg-type]


@dataclass
class Course:
    """A run of four outer iterations of two steps, in which nothing is computed. An outer iteration takes 1 second, and
    scoring takes 7."""

    restored: Any = None
    """the checkpoint that the run finds"""
    lines: list[dict[str, Any]] = field(default_factory=list)
    """the lines of the log"""
    saved: list[tuple[int, float]] = field(default_factory=list)
    """step of each checkpoint, and the seconds of distillation in it"""
    protocols: list[Protocol] = field(default_factory=list)
    """the protocol of each score"""
    signalled: bool = False
    """whether a signal comes while a set is scored"""
    kept: int = 0
    """step to which the log is cut back"""
    now: float = 0.0

    def run(self, problem: Any, first: Any, callbacks: Sequence[Callable], size: BlockSize, begin: int, *_: Any) -> Any:
        assert size.every == 2, "blocks end where a set is saved or scored"
        for step in range(begin, 8, 2):
            self.now += 1
            for callback in callbacks:
                callback(Block(state(step + 2), step, step + 2, np.asarray([step + 1.0, step + 2.0]), 1.0))
        return state(8)

    def score(self, what: str, sets: Any, protocol: Protocol) -> dict[str, float]:
        self.now += 7
        if self.signalled:
            raise Interrupted(signal.SIGINT)
        self.protocols.append(protocol)
        return {"mean": 50.0}

    def save(self, step: int, state: Any, about: dict[str, Any]) -> None:
        self.saved.append((step, about["seconds"]["distill"]))
        self.restored = SimpleNamespace(step=step, state=state, about=json.loads(json.dumps(about)), skipped=())

    def cut(self, step: int) -> None:
        self.kept = step

    def optimise(self, monkeypatch: pytest.MonkeyPatch, path: Path) -> Clock:
        """Run from the checkpoint to the end, saving every third outer iteration and scoring every second one."""
        checkpoints = SimpleNamespace(restore=lambda like: self.restored, save=self.save)
        monkeypatch.setattr(process_clock, "time", SimpleNamespace(perf_counter=lambda: self.now))
        monkeypatch.setattr(process_clock, "_compiling", SimpleNamespace(total=lambda: 0.0))
        monkeypatch.setattr(session, "Checkpoints", lambda path: checkpoints)
        monkeypatch.setattr(session, "init_state", lambda problem: state(0))
        monkeypatch.setattr(session, "run", self.run)
        monkeypatch.setattr(session, "as_set", lambda *_: SimpleNamespace(card={"rate": 0.5}))
        monkeypatch.setattr(session, "repeated", lambda *_: None)
        monkeypatch.setattr(session, "_images_per_step", lambda setup: 1)
        spec, clock = SimpleNamespace(inner_steps=2, outer_steps=4, steps=8), Clock()
        setup: Any = SimpleNamespace(spec=spec, problem=lambda *_: None)
        data: Any = SimpleNamespace(at=lambda n: None)
        workdir: Any = SimpleNamespace(path=path, truncate_log=self.cut, log=self.lines.append)
        interrupts: Any = SimpleNamespace(pending=lambda: False, check=lambda: None)
        scorer: Any = SimpleNamespace(score=self.score, protocol=PROTOCOLS["dsa"])
        session.optimise(session.Session(setup, data, workdir, clock, interrupts), None, 3, 2, scorer)
        return clock


def test_sets_are_scored_at_their_learned_rate_and_scoring_is_no_part_of_the_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    course = Course()
    clock = course.optimise(monkeypatch, tmp_path)
    figures = [(line["outer"], line["step"], line["loss"], line["seconds"]) for line in course.lines]
    assert figures == [(1, 2, 2.0, 1.0), (2, 4, 4.0, 2.0), (3, 6, 6.0, 3.0), (4, 8, 8.0, 4.0)]
    assert [line.get("held_out_accuracy") for line in course.lines] == [None, 50.0, None, 50.0]
    assert [protocol.rate for protocol in course.protocols] == [0.5, 0.5]
    assert course.saved == [(0, 0.0), (6, 3.0), (8, 4.0)]
    assert (clock.seconds["distill"], clock.seconds["evaluate"]) == (4.0, 14.0)


def test_a_resumed_run_counts_the_seconds_up_to_its_checkpoint_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {"pretrain": 20.0, "distill": 3.0, "evaluate": 7.0}
    course = Course(SimpleNamespace(step=6, state=state(6), about={"seconds": before}, skipped=()))
    clock = course.optimise(monkeypatch, tmp_path)
    assert [(line["outer"], line["seconds"]) for line in course.lines] == [(4, 4.0)]
    assert course.saved == [(8, 4.0)]
    assert {phase: clock.seconds[phase] for phase in before} == {"pretrain": 20.0, "distill": 4.0, "evaluate": 14.0}


def test_a_signal_during_a_score_saves_the_set_and_the_resumed_run_scores_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a checkpoint there, all steps since the last one would be lost: here two outer iterations, and with
    ``--save-every 100 --eval-every 1`` up to 99."""
    course = Course(signalled=True)
    with pytest.raises(Interrupted):
        course.optimise(monkeypatch, tmp_path)
    assert course.saved == [(0, 0.0), (4, 2.0)] and [line["step"] for line in course.lines] == [2]
    assert course.restored.about["seconds"]["evaluate"] == 7.0
    with pytest.raises(Interrupted):
        course.optimise(monkeypatch, tmp_path)
    assert course.saved[2:] == [(4, 2.0)] and len(course.lines) == 1
    course.signalled = False
    course.optimise(monkeypatch, tmp_path)
    assert course.kept == 3, "a line that was logged after the checkpoint of its step would be there twice"
    assert course.saved[3:] == [(6, 3.0), (8, 4.0)] and "unscored" not in course.restored.about
    figures = [(line["step"], line["loss"], line.get("held_out_accuracy"), line["seconds"]) for line in course.lines]
    assert figures == [(2, 2.0, None, 1.0), (4, 4.0, 50.0, 2.0), (6, 6.0, None, 3.0), (8, 8.0, 50.0, 4.0)]
