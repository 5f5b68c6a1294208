"""A run under a budget, with the scores of the intermediate sets: a curve of accuracy against seconds."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from distill_jax.axes.parameterisation import final_set
from distill_jax.cli.output.display import Bar
from distill_jax.cli.process.clock import Clock
from distill_jax.cli.process.interrupts import Interrupts
from distill_jax.cli.session.score import BASELINES
from distill_jax.cli.session.setup import Setup
from distill_jax.distill import Problem, State, init_state
from distill_jax.run import Block, BlockSize, prepare, run
from distill_jax.spec import Spec
from distill_jax.teachers import with_labels
from distill_jax.train_many import Sets
from distill_jax.types import Array, Model, RequestError, TrainSet, require_at_least

DRAWS = 20
"""minimum number of draws of random real images, because one draw says little and a draw is cheap"""
ENDLESS = 10**6
"""more inner steps than any budget of seconds allows"""


@dataclass(frozen=True)
class Budget:
    """The end of a run: after ``seconds`` of pretraining and distillation, after ``steps``, or (both 0) its own end."""

    seconds: float = 0.0
    steps: int = 0
    points: int = 1
    """number of sets to score, including the last; if there are several, the initial images are scored too"""

    def __post_init__(self) -> None:
        if not 0 <= self.seconds < math.inf or self.steps < 0 or (self.seconds and self.steps):
            raise RequestError("give --seconds or --steps above 0, or neither for each method's own budget")
        require_at_least(1, self, "points")

    def fitted(self, spec: Spec) -> Spec:
        """Return ``spec`` with enough outer steps for the budget. A method without steps is unchanged."""
        steps = ENDLESS if self.seconds else self.steps
        return replace(spec, outer_steps=-(-steps // spec.inner_steps)) if steps and spec.outer_steps else spec

    def share(self, seconds: float, step: int, steps: int) -> float:
        """Return the share of the budget, from 0 to 1, that is spent after ``step`` of the spec's ``steps``."""
        if self.seconds:
            return min(1.0, seconds / self.seconds)
        return min(1.0, step / max(1, min(steps, self.steps or steps)))

    def every(self, steps: int) -> int:
        """Return the number of steps whose multiples blocks end at, so that the sets of a run of ``steps`` are recorded
        at equal shares; 0 if any block will do."""
        if self.seconds:
            return 0
        if self.points == 1:
            return self.steps
        end = min(steps, self.steps or steps)
        # Rounded up, so that a block ends soon after each share and not just before it. Rounding would add up to more
        # than a share of very few steps.
        share = -(-end // self.points) if end >= self.points**2 else 1
        return share if end == steps else math.gcd(share, end)  # a run that goes on must have a block that ends there


class Point(NamedTuple):
    """The score of an intermediate set."""

    step: int
    seconds: float
    """seconds of pretraining and distillation so far, without compilation"""
    accuracies: list[float]
    """percent, one per network trained on the set"""
    random: list[float] | None = None
    """accuracies of random images with such labels, for the last set if its labels are not hard"""


def curve(setup: Setup, budget: Budget, repeats: int, interrupts: Interrupts) -> list[Point]:
    """Run ``setup`` until its budget is spent, and score its intermediate sets on the test data."""
    data = setup.real_data()
    scorer = setup.scorer(data.normaliser, interrupts)
    images, labels = setup.data.classes * setup.spec.ipc, setup.spec.labels
    clock = Clock()

    def baseline(name: str, draws: int, teachers: Model | None = None) -> list[float]:
        known = scorer._replace(teachers=teachers)
        return scorer.score(*BASELINES[name](known, data, setup.spec.ipc, images, draws, setup.keys.draw))["per_repeat"]

    if setup.method in ("random", "random_soft") and labels.from_teachers:
        problem = _prepared(setup, setup.spec, clock, interrupts)
        teachers = problem.spec.models.teachers(problem.pool)
        return [Point(0, clock.seconds["pretrain"], baseline("random_soft", max(repeats, DRAWS), teachers))]
    if setup.method in ("random", "full"):
        return [Point(0, 0.0, baseline(setup.method, max(repeats, DRAWS) if setup.method == "random" else repeats))]
    problem = _prepared(setup, budget.fitted(setup.spec), clock, interrupts)
    marks = _run(setup, problem, budget, clock, interrupts)
    if not bool(jnp.isfinite(marks[-1].set.images).all()):
        print(f"{setup.method}: the images are not finite, so their accuracy means nothing", file=sys.stderr)
    images_of_all = jnp.concatenate([mark.set.images for mark in marks])
    targets = jnp.concatenate([mark.set.targets for mark in marks])
    each = np.arange(len(images_of_all), dtype=np.int32).reshape(len(marks), -1)
    learned = [mark.rate for mark in marks if mark.rate is not None]
    rates = jnp.repeat(jnp.stack(learned), repeats) if learned else None
    sets = Sets(TrainSet(images_of_all, targets), jnp.asarray(np.repeat(each, repeats, axis=0)), rates)
    scored = np.asarray(scorer.score("scoring", sets)["per_repeat"]).reshape(len(marks), repeats)
    points: dict[int, Point] = {}
    for mark, row in zip(marks, scored.tolist(), strict=True):
        # If a block took more than one share of the budget, several marks have the same set.
        before = points.get(mark.step, Point(mark.step, mark.seconds, []))
        points[mark.step] = before._replace(accuracies=before.accuracies + row)
    *others, last = points.values()
    teachers = problem.spec.models.teachers(problem.pool) if labels.from_teachers or labels.learned else None
    if teachers is not None:
        last = last._replace(random=baseline("random_soft", repeats, teachers))
    return [*others, last]


class _Mark(NamedTuple):
    step: int
    seconds: float
    set: TrainSet
    rate: Array | None
    """float32 []: the learned rate, or None if the method learns none"""


def _prepared(setup: Setup, spec: Spec, clock: Clock, interrupts: Interrupts) -> Problem:
    """Return the problem of ``spec`` with its pretrained pool."""

    def tick(done: int, total: int) -> None:
        interrupts.check()

    problem = jax.block_until_ready(prepare(spec, setup.data, setup.seed, tick))
    clock.spent("pretrain")
    return problem


def _run(setup: Setup, problem: Problem, budget: Budget, clock: Clock, interrupts: Interrupts) -> list[_Mark]:
    """Return the sets at equal shares of the budget."""
    spec = problem.spec
    state = jax.block_until_ready(init_state(problem))
    clock.spent("distill")

    def mark(step: int, state: State) -> _Mark:
        recorded = training_set(problem, state), spec.objective.learned_rate(state.synthetic.learnable)
        made, rate = jax.block_until_ready(jax.tree.map(jnp.copy, recorded))  # the next block overwrites the state
        return _Mark(step, clock.seconds["pretrain"] + clock.seconds["distill"], made, rate)

    marks = [] if spec.steps and budget.points == 1 else [mark(0, state)]
    begun = len(marks)
    clock.spent(None)  # recording a set is not part of the run, here and below
    with Bar(f"{setup.method} {setup.seed}", 100, unit="%") as bar:

        def stop(block: Block) -> bool:
            """Record the sets that are due, and end the run when its budget is spent."""
            clock.spent("distill")
            spent = budget.share(clock.seconds["pretrain"] + clock.seconds["distill"], block.end, spec.steps)
            due = begun + int(spent * budget.points + 1e-9) - len(marks)
            marks.extend([mark(block.end, block.state)] * due if due else [])
            bar.update(int(100 * spent), {"loss": f"{block.losses[-1]:.4g}"})
            interrupts.check()
            clock.spent(None)
            return spent >= 1

        seconds = min(1.0, budget.seconds / budget.points / 4) if budget.seconds else 1.0
        run(problem, state, [stop], BlockSize(seconds, every=budget.every(spec.steps)))
    return marks


def training_set(problem: Problem, state: State) -> TrainSet:
    """Return the training set of ``state`` in network space, with the kind of labels that the spec names."""
    spec = problem.spec
    made = final_set(spec.parameterisation, state.synthetic, problem.data)
    return with_labels(made, spec, problem.net, problem.pool)
