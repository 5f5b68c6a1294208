"""The runs of a sweep: distilled and scored as one compiled program, at every point with every seed."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from distill_jax import sweep
from distill_jax.checkpoint import Checkpoints
from distill_jax.cli.ablation.swept import Value
from distill_jax.cli.output.display import Bar
from distill_jax.cli.process.interrupts import Interrupts
from distill_jax.cli.session.pool import pool_for
from distill_jax.cli.session.resume import saving
from distill_jax.cli.session.setup import Setup
from distill_jax.cli.session.workdir import CHECKPOINTS, Workdir
from distill_jax.distill import Problem, State
from distill_jax.run import Block, Keys
from distill_jax.types import PyTree


class Runs(NamedTuple):
    """The runs at each point of a sweep."""

    seeds: range
    """one run for each seed"""
    repeats: int
    """networks trained from scratch on the set of each run; the accuracy of the run is their mean"""


class Row(NamedTuple):
    """The figures of one run."""

    point: dict[str, Value]
    seed: int
    accuracy: float
    """percent: mean over the repeats"""
    loss: float
    """mean matching loss of the last outer iteration"""


def measure(
    setup: Setup,
    runs: Runs,
    group: Mapping[str, Value],
    numbers: Mapping[str, Sequence[float]],
    workdir: Workdir,
    given: PyTree,
    interrupts: Interrupts,
) -> list[Row]:
    """Distil at every point of ``numbers`` with every seed and score all sets, or read the rows of an earlier process.

    ``group``: the structural settings of ``setup``, which complete the point of each row.
    """
    figures = workdir.read("rows.json")
    if figures is None:
        figures = _run_sweep(setup, runs, numbers, workdir, given, interrupts)
        workdir.write("rows.json", figures)
    points = [{**group, **point} for point in sweep.combinations(numbers)]
    each = [(point, seed) for point in points for seed in runs.seeds]
    return [Row(point, seed, *of_run) for (point, seed), of_run in zip(each, figures, strict=True)]


def _run_sweep(
    setup: Setup,
    runs: Runs,
    numbers: Mapping[str, Sequence[float]],
    workdir: Workdir,
    given: PyTree,
    interrupts: Interrupts,
) -> list[tuple[float, float]]:
    """Return (accuracy, loss) of each point and seed; the seed varies fastest."""
    data = setup.real_data()
    pool = pool_for(setup, workdir, data, given, interrupts)
    roots = [Keys.of(seed).run for seed in runs.seeds]
    problems = sweep.stacked(setup.problem(data, pool), sweep.specs_of(setup.spec, numbers), roots)
    states = _distil(problems, workdir, interrupts)
    sets = sweep.training_sets(problems, states, runs.repeats)
    scorer = setup.scorer(data.normaliser, interrupts)
    accuracies = np.asarray(scorer.score("scoring", sets)["per_repeat"]).reshape(-1, runs.repeats).mean(axis=1)
    finite = np.asarray(jnp.isfinite(states.synthetic.images).all(axis=(1, 2, 3, 4, 5)))
    if not finite.all():
        print(f"{np.sum(~finite)} of {finite.size} runs diverged: their images are not finite", file=sys.stderr)
    losses = np.asarray(states.loss, np.float64)
    return list(zip(accuracies.tolist(), losses.tolist(), strict=True))


def _distil(problems: Problem, workdir: Workdir, interrupts: Interrupts) -> State:
    """Return the states [S, ...] after the last step, resuming from the last checkpoint if one exists."""
    checkpoints = Checkpoints(workdir.path / CHECKPOINTS)
    chunk = sweep.automatic_chunk(problems)
    restored = checkpoints.restore(jax.eval_shape(sweep.init_states, problems))
    states = sweep.init_states(problems, chunk) if restored is None else restored.state
    steps, runs = problems.spec.steps, problems.root.shape[0]
    with Bar("distilling", steps, unit=f"steps of {runs} runs") as bar:

        def show(block: Block) -> None:
            bar.update(block.end, {"loss": f"{block.losses[:, -1].mean():.4g}"})

        return sweep.run(problems, states, [show, saving(checkpoints, steps, interrupts)], chunk=chunk)
