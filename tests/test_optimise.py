"""Tests the host loop of ``distill``: when it scores and saves, and which seconds it counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

from distill_jax.cli.process import clock as process_clock
from distill_jax.cli.session import optimise as session
from distill_jax.evaluation import PROTOCOLS
from distill_jax.run import Block, BlockSize
from distill_jax.types import Synthetic


class Reached(NamedTuple):
    """The part of a state that the loop looks at."""

    synthetic: Synthetic


def test_sets_are_scored_at_their_learned_rate_and_scoring_is_no_part_of_the_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block of two steps takes 1 second, and scoring 7. Nothing is computed."""
    now, lines, saved, protocols = 0.0, [], [], []

    def passes(seconds: float) -> None:
        nonlocal now
        now += seconds

    def state(step: int) -> Any:
        return Reached(Synthetic(np.full((1, 1, 1, 1, 1), np.float32(step))))  # type: ignore[arg-type]

    def run(problem: Any, first: Any, callbacks: Sequence[Callable], size: BlockSize, *_: Any) -> Any:
        assert size.every == 2, "blocks end where a set is saved or scored"
        for step in (0, 2, 4, 6):
            passes(1.0)
            for callback in callbacks:
                callback(Block(state(step + 2), step, step + 2, np.asarray([step + 1.0, step + 2.0]), 1.0))
        return state(8)

    def score(what: str, sets: Any, protocol: Any) -> dict[str, float]:
        passes(7.0)
        protocols.append(protocol)
        return {"mean": 50.0}

    checkpoints = SimpleNamespace(
        restore=lambda like: None,
        save=lambda step, state, about: saved.append((step, about["seconds"]["distill"])),
    )
    monkeypatch.setattr(process_clock, "time", SimpleNamespace(perf_counter=lambda: now))
    monkeypatch.setattr(process_clock, "_compiling", SimpleNamespace(total=lambda: 0.0))
    monkeypatch.setattr(session, "Checkpoints", lambda path: checkpoints)
    monkeypatch.setattr(session, "init_state", lambda problem: state(0))
    monkeypatch.setattr(session, "run", run)
    monkeypatch.setattr(session, "as_set", lambda *_: SimpleNamespace(card={"rate": 0.5}))
    monkeypatch.setattr(session, "repeated", lambda *_: None)
    monkeypatch.setattr(session, "_images_per_step", lambda setup: 1)
    spec = SimpleNamespace(inner_steps=2, outer_steps=4, steps=8)
    of_run: Any = session.Session(
        SimpleNamespace(spec=spec, problem=lambda *_: None),  # type: ignore[arg-type]
        SimpleNamespace(at=lambda n: None),  # type: ignore[arg-type]
        SimpleNamespace(path=tmp_path, truncate_log=lambda step: None, log=lines.append),  # type: ignore[arg-type]
        process_clock.Clock(),
        SimpleNamespace(pending=lambda: False, check=lambda: None),  # type: ignore[arg-type]
    )
    scorer: Any = SimpleNamespace(score=score, protocol=PROTOCOLS["dsa"])
    session.optimise(of_run, None, save_every=3, eval_every=2, scorer=scorer)

    figures = [(line["outer"], line["step"], line["loss"], line["seconds"]) for line in lines]
    assert figures == [(1, 2, 2.0, 1.0), (2, 4, 4.0, 2.0), (3, 6, 6.0, 3.0), (4, 8, 8.0, 4.0)]
    assert [line.get("held_out_accuracy") for line in lines] == [None, 50.0, None, 50.0]
    assert [protocol.rate for protocol in protocols] == [0.5, 0.5]
    assert saved == [(0, 0.0), (6, 3.0), (8, 4.0)]
    assert (of_run.clock.seconds["distill"], of_run.clock.seconds["evaluate"]) == (4.0, 14.0)
