"""Tests the curve of one run in a comparison: its budget, and the sets that are recorded and scored on the way."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax.cli.process import clock as process_clock
from distill_jax.cli.tables import curve as curves
from distill_jax.cli.tables.curve import Budget, Point
from distill_jax.methods import BASELINES, METHODS
from distill_jax.run import Block
from distill_jax.train_many import Sets
from distill_jax.types import RequestError, TrainSet


def test_each_set_of_a_curve_has_its_own_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Image and rate of a set are its number. The last two sets are of one step, because a block took two shares of
    the budget."""
    moments = [(0, 1.0), (5, 2.0), (9, 3.0), (9, 3.0)]
    marks = [
        curves._Mark(*moment, TrainSet(jnp.full((2, 1, 1, 1), i), jnp.full((2, 2), i)), jnp.float32(i))
        for i, moment in enumerate(moments)
    ]
    monkeypatch.setattr(curves, "_prepared", lambda *_: None)
    monkeypatch.setattr(curves, "_run", lambda *_: marks)

    def score(what: str, sets: Sets) -> dict[str, list[float]]:
        numbers = [np.unique(np.asarray(part)[sets.rows], axis=None) for part in sets.store]
        assert all(number.tolist() == [0, 1, 2, 3] for number in numbers) and sets.rates is not None
        of_set = np.asarray(sets.store.images)[sets.rows][:, :, 0, 0, 0]
        np.testing.assert_array_equal(of_set, np.tile(sets.rates[:, None], (1, 2)))
        return {"per_repeat": [10 * float(first) + n % 3 for n, first in enumerate(of_set[:, 0])]}

    hard = SimpleNamespace(from_teachers=False, learned=False)
    setup: Any = SimpleNamespace(
        method="mtt",
        real_data=lambda: SimpleNamespace(normaliser=None),
        scorer=lambda *_: SimpleNamespace(score=score),
        data=SimpleNamespace(classes=2),
        spec=SimpleNamespace(ipc=1, labels=hard, outer_steps=0),
    )
    interrupts: Any = None
    first, second, last = curves.curve(setup, Budget(), 3, interrupts)
    assert first == Point(0, 1.0, [0.0, 1.0, 2.0]) and second == Point(5, 2.0, [10.0, 11.0, 12.0])
    assert last == Point(9, 3.0, [20.0, 21.0, 22.0, 30.0, 31.0, 32.0])


@pytest.mark.parametrize(
    ("budget", "moments"),
    [
        (Budget(seconds=14.0, points=2), [(0, 4.0), (2, 8.0), (5, 14.0)]),
        (Budget(steps=8, points=2), [(0, 4.0), (4, 12.0), (8, 20.0)]),
        (Budget(steps=7, points=3), [(0, 4.0), (3, 10.0), (5, 14.0), (7, 18.0)]),
        (Budget(steps=6), [(6, 16.0)]),
    ],
)
def test_sets_are_recorded_at_equal_shares_of_the_budget_and_recording_takes_none_of_it(
    budget: Budget, moments: list[tuple[int, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pretraining takes 4 seconds, a step 2, and recording a set 7."""
    now = 0.0

    def passes(seconds: float) -> None:
        nonlocal now
        now += seconds

    def training_set(problem: Any, state: Any) -> None:
        passes(7.0)

    def run(problem: Any, state: Any, callbacks: Any, size: Any) -> None:
        steps = size.every or 1
        for first in range(0, 100, steps):
            passes(2.0 * steps)
            if callbacks[0](Block(state, first, first + steps, np.ones(steps), 2.0 * steps)):
                return

    monkeypatch.setattr(process_clock, "time", SimpleNamespace(perf_counter=lambda: now))
    monkeypatch.setattr(curves, "training_set", training_set)
    state = SimpleNamespace(synthetic=SimpleNamespace(learnable=None))
    monkeypatch.setattr(curves, "init_state", lambda problem: state)
    monkeypatch.setattr(curves, "run", run)
    clock = process_clock.Clock()
    passes(4.0)
    clock.spent("pretrain")
    spec = SimpleNamespace(steps=10**6, objective=SimpleNamespace(learned_rate=lambda _: None))
    setup, problem, interrupts = cast(
        Any, (SimpleNamespace(method="dm", seed=0), SimpleNamespace(spec=spec), SimpleNamespace(check=lambda: None))
    )
    marks = curves._run(setup, problem, budget, clock, interrupts)
    assert [mark[:2] for mark in marks] == moments


def test_recorded_sets_outlast_the_arrays_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop donates its state to the next block, which overwrites the images and the learned rate."""

    def state(number: int) -> Any:
        return SimpleNamespace(synthetic=SimpleNamespace(learnable=jnp.full((), number), images=jnp.full((2,), number)))

    def run(problem: Any, first: Any, callbacks: Any, size: Any) -> None:
        states = [first, state(1), state(2)]
        for number in (1, 2):
            callbacks[0](Block(states[number], number - 1, number, np.ones(1), 1.0))
        for donated in states:
            donated.synthetic.learnable.delete()
            donated.synthetic.images.delete()

    monkeypatch.setattr(curves, "training_set", lambda problem, state: TrainSet(state.synthetic.images, jnp.ones(2)))
    monkeypatch.setattr(curves, "init_state", lambda problem: state(0))
    monkeypatch.setattr(curves, "run", run)
    spec = SimpleNamespace(steps=2, objective=SimpleNamespace(learned_rate=lambda learnable: learnable))
    setup, problem, interrupts = cast(
        Any, (SimpleNamespace(method="mtt", seed=0), SimpleNamespace(spec=spec), SimpleNamespace(check=lambda: None))
    )
    marks = curves._run(setup, problem, Budget(steps=2, points=2), process_clock.Clock(), interrupts)
    assert [(mark.set.images.tolist(), float(cast(Any, mark.rate))) for mark in marks] == [
        ([0, 0], 0.0), ([1, 1], 1.0), ([2, 2], 2.0)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("budget", "steps", "found"),
    [
        (Budget(points=3), 500, [167, 334, 500]),
        (Budget(points=3), 100, [34, 68, 100]),
        (Budget(points=4), 5, [2, 3, 4, 5]),
        (Budget(points=5), 1000, [200, 400, 600, 800, 1000]),
        (Budget(steps=100, points=3), 102, [34, 68, 100]),
        (Budget(steps=100, points=4), 100, [25, 50, 75, 100]),
        (Budget(steps=1000, points=7), 1000, [143, 286, 429, 572, 715, 858, 1000]),
        (Budget(steps=30), 40, [30]),
    ],
)
def test_blocks_end_soon_after_each_share_of_the_steps(budget: Budget, steps: int, found: list[int]) -> None:
    """Blocks that end just before a share would record its set a whole block later."""
    every = budget.every(steps)
    ends = [*range(every, budget.steps or steps, every), budget.steps or steps]
    shares = [int(budget.share(0.0, end, steps) * budget.points + 1e-9) for end in ends]
    assert [ends[shares.index(n)] for n in sorted(set(shares) - {0})] == found


def test_blocks_are_short_only_if_the_run_would_go_on_after_its_budget() -> None:
    budget = Budget(steps=1000, points=7)
    assert budget.every(1000) == 143 and 1000 % budget.every(1008) == 0


def test_a_budget_of_seconds_lets_blocks_end_anywhere() -> None:
    assert Budget(seconds=5.0, points=3).every(10**6) == 0 and Budget().every(100) == 0


def test_a_budget_of_seconds_ends_a_run() -> None:
    budget = Budget(seconds=10, points=2)
    endless = budget.fitted(METHODS["dm"])
    assert endless.steps >= 10**6 and budget.fitted(BASELINES["random"]).steps == 0
    assert Budget(steps=7).fitted(replace(METHODS["dm"], inner_steps=3)).steps == 9
    assert [budget.share(s, 7, endless.steps) for s in (0, 5, 11)] == [0, 0.5, 1]
    assert Budget().share(99.0, 5, 10) == 0.5
    with pytest.raises(RequestError, match="--seconds or --steps"):
        Budget(seconds=1, steps=1)
