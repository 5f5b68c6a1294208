"""The race of ``tune``: all candidates run as one compiled program, and the better half of each rung goes on."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from distill_jax import sweep
from distill_jax.checkpoint import Checkpoints
from distill_jax.cli.output.display import Bar
from distill_jax.cli.process.run_command import Broken
from distill_jax.cli.session.resume import saving
from distill_jax.cli.session.score import Scorer
from distill_jax.cli.session.setup import Setup
from distill_jax.cli.session.workdir import CHECKPOINTS, POINTS, Workdir
from distill_jax.cli.tuning.result import Row
from distill_jax.distill import Problem, State
from distill_jax.evaluation import test_accuracies, train_networks
from distill_jax.halving import Schedule, Speed, survivors
from distill_jax.run import Block


class Race(NamedTuple):
    """The constants of the successive halving."""

    setup: Setup
    points: list[dict[str, float]]
    """the numbers of each candidate, by field path"""
    problem: Problem
    scorer: Scorer
    workdir: Workdir

    def stacked(self, alive: Sequence[int]) -> Problem:
        """Stack the candidates ``alive`` as one problem. They share the root key and therefore all random numbers."""
        specs = [sweep.at(self.setup.spec, self.points[i]) for i in alive]
        return sweep.stacked(self.problem, specs, [self.problem.root])


def measure_speed(race: Race, repeats: int) -> Speed:
    """Measure the speed of all candidates in a few steps and epochs, whose results are discarded."""
    began, scorer = time.perf_counter(), race.scorer
    problems = race.stacked(range(len(race.points)))
    blocks: list[tuple[float, int]] = []

    def enough(block: Block) -> bool:
        scorer.interrupts.check()
        blocks.append((block.seconds, block.end - block.first))
        return len(blocks) > 2 and block.seconds > 0.5

    def lap() -> tuple[float, float]:
        """Return (seconds of one step, seconds not spent on steps) since the last call."""
        nonlocal began
        now, (seconds, count) = time.perf_counter(), blocks[-1]
        overhead = now - began - sum(seconds for seconds, _ in blocks[1:])
        began = now
        blocks.clear()
        return seconds / count, overhead

    states = sweep.run(problems, sweep.init_states(problems, sweep.automatic_chunk(problems)), [enough])
    step, compilation = lap()
    sets = sweep.training_sets(problems, states, repeats)
    networks = train_networks(scorer.net, scorer.protocol, sets, scorer.key, scorer.normaliser, [enough])
    test_accuracies(scorer.net, networks, scorer.test, scorer.normaliser)
    epoch, scoring = lap()
    return Speed(step / len(race.points), epoch, compilation, scoring)


def halve(race: Race, schedule: Schedule) -> list[Row]:
    """Run all rungs and return a row for each candidate in each rung. Finished rungs of an earlier process are read."""
    alive = [list(range(len(race.points)))]
    rows: list[Row] = []
    for k, rung in enumerate(schedule.rungs):
        part = race.workdir.subfolder(f"{POINTS}/{k}")
        found = part.read("rows.json")
        if found is None:
            found = _scored(race, schedule, alive, k)
            part.write("rows.json", found)
        rows += [Row(k + 1, rung.stop, race.points[i], *of) for i, of in zip(alive[k], found, strict=True)]
        if k + 1 < len(schedule.rungs):
            means = [float(np.mean(accuracies)) for accuracies, _ in found]
            alive.append([alive[k][i] for i in survivors(means, schedule.rungs[k + 1].candidates)])
    return rows


def _scored(race: Race, schedule: Schedule, alive: list[list[int]], k: int) -> list[tuple[list[float], float]]:
    """Return (held-out accuracy of each network in percent, matching loss) for each candidate of rung ``k``. The
    accuracy of a diverged set is 0."""
    rung, problems = schedule.rungs[k], race.stacked(alive[k])
    states = _states(race, schedule, alive, k)
    finite = np.asarray(jnp.isfinite(states.synthetic.images).all(axis=(1, 2, 3, 4, 5)))
    if not finite.all():
        print(f"{np.sum(~finite)} of {finite.size} candidates diverged: their images are not finite", file=sys.stderr)
    if not finite.any():
        raise Broken("every candidate diverged: tune around a smaller value of --optimiser.lr, or check the objective")
    protocol = replace(race.scorer.protocol, epochs=schedule.epochs)
    sets = sweep.training_sets(problems, states, rung.repeats)
    scored = np.asarray(race.scorer.score(f"scoring rung {k + 1}", sets, protocol)["per_repeat"])
    accuracies = np.where(finite[:, None], scored.reshape(-1, rung.repeats), 0.0)
    return list(zip(accuracies.tolist(), np.asarray(states.loss, np.float64).tolist(), strict=True))


def _states(race: Race, schedule: Schedule, alive: list[list[int]], k: int) -> State:
    """Return the states [S, ...] at the end of rung ``k``, from its last checkpoint or from the end of rung ``k -
    1``."""
    problems, stop = race.stacked(alive[k]), schedule.rungs[k].stop
    checkpoints = Checkpoints(race.workdir.path / POINTS / str(k) / CHECKPOINTS)
    restored = checkpoints.restore(jax.eval_shape(sweep.init_states, problems))
    if restored is not None:
        states = restored.state
    elif k == 0:
        states = sweep.init_states(problems, sweep.automatic_chunk(problems))
    else:
        rows = np.searchsorted(alive[k - 1], alive[k])
        states = jax.tree.map(lambda a: a[rows], _states(race, schedule, alive, k - 1))
    with Bar(f"rung {k + 1}", stop, start=int(states.step[0]), unit=f"steps of {len(alive[k])} candidates") as bar:

        def show(block: Block) -> None:
            bar.update(block.end, {"loss": f"{np.nanmean(block.losses[:, -1]):.4g}"})

        return sweep.run(problems, states, [show, saving(checkpoints, stop, race.scorer.interrupts)], stop=stop)
