"""Tunes numbers for a data set by successive halving on held-out training images, and writes the best as settings.

    python -m experiments.tune acc_dd folder:photos --seconds 600
    python -m experiments.tune dm digits --tune optimiser.lr optimiser.momentum --reach 5

Writes ``tuned.json`` (for ``--config``), ``tune.csv`` (a line per rung and candidate) and ``tune.png``. ``halving.py``
plans the rungs from the speed that is measured first. ``schedule.json`` keeps the plan for a resumed process.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tyro.conf import arg

from distill_jax import sweep
from distill_jax.checkpoint import Checkpoints
from distill_jax.cli import arguments, display, tuned
from distill_jax.cli.display import Bar
from distill_jax.cli.process import Broken, Interrupts, run_command
from distill_jax.cli.resume import Resumable, resumable, saving
from distill_jax.cli.score import Scorer
from distill_jax.cli.setup import Setup, given_pool, pool_for, set_up
from distill_jax.cli.workdir import CHECKPOINTS, POINTS, SCHEDULE, Workdir, open_workdir
from distill_jax.distill import Problem, State
from distill_jax.evaluation import test_accuracies, train_networks
from distill_jax.halving import Rung, Schedule, Speed, at, candidates, scheduled, survivors
from distill_jax.run import Block
from distill_jax.types import RequestError, require_at_least


@dataclass(frozen=True)
class Tune(Resumable, arguments.Common):
    """Choose numbers of a method for a data set, by successive halving on a tenth of the training images.

    The candidates are multiples of the value that METHOD, the recipe and the command line set. All candidates run as
    one compiled program, the better half continues, and the best is written as settings for --config. The test set is
    not used.
    """

    tune: Annotated[tuple[str, ...], arg(metavar="FIELD [FIELD ...]")] = ("optimiser.lr",)
    """numbers to choose, by field path"""
    seconds: float = 600.0
    """wall-clock budget for pretraining, compilation, distillation and scores together"""
    candidates: int = 0
    """odd number of values of each number; 0: 7 for one number, 5 each for two, 3 each for more"""
    reach: float = 30.0
    """range of the values: from the recipe's value divided by this factor to the value times this factor"""
    repeats: int = 3
    """R: networks trained from scratch on the set of each candidate in the first rung; more in later rungs"""
    pool: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """pool from experiments.pretrain --eval-every 1; default: pretrain one"""


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
        specs = [at(self.setup.spec, self.points[i]) for i in alive]
        return sweep.stacked(self.problem, specs, [self.problem.root])


def run(argv: list[str]) -> None:
    began = time.monotonic()
    request = arguments.request(argv, Tune)
    options = request.options
    _check(options)
    setup = set_up(request, eval_every=1)
    _check_method(setup)
    count = options.candidates or {1: 7, 2: 5}.get(len(options.tune), 3)
    points = candidates(setup.spec, options.tune, count, options.reach)
    settings = tuned.settings(argv, Tune, request)
    given, path = given_pool(setup, options.pool), options.folder(f"tune-{setup.folder}")
    with open_workdir(path) as workdir, Interrupts() as interrupts, resumable("tune", argv, path):
        tuning = {"points": points, "seconds": options.seconds, "repeats": options.repeats}
        config = {**setup.describe(), "tune": tuning, **setup.describe_figures()}
        workdir.begin(config, options.resume, options.overwrite)
        print(display.configuration(setup.title, setup.experiment), flush=True)
        data = setup.real_data()
        pool = pool_for(setup, workdir, data, given, interrupts)
        scorer = setup.scorer(data.normaliser, interrupts)
        race = Race(setup, points, setup.problem(data, pool), scorer, workdir)
        if not workdir.has(SCHEDULE):
            speed = measure_speed(race, options.repeats)
            left = options.seconds - (time.monotonic() - began)
            steps, epochs = setup.spec.steps, scorer.protocol.epochs
            workdir.write(SCHEDULE, scheduled(len(points), options.repeats, steps, epochs, speed, left)._asdict())
        plan = workdir.read(SCHEDULE)
        schedule = Schedule([Rung(*rung) for rung in plan["rungs"]], plan["epochs"])
        print(*tuned.announced(schedule, setup, len(scorer.test[1])), sep="\n", flush=True)
        rows = halve(race, schedule)
        side = () if options.side is None else ("--side", str(options.side))
        print(*tuned.written(workdir, setup, rows, settings, side), sep="\n")
    print(f"this process took {display.duration(time.monotonic() - began)} of {display.duration(options.seconds)}")


def _check(options: Tune) -> None:
    """Raise RequestError for invalid options, before anything is written."""
    options.check_folder()
    if not options.tune or len(set(options.tune)) < len(options.tune):
        raise RequestError("--tune needs one or several different numbers, as in --tune optimiser.lr perturb.max")
    if not 0 < options.seconds < float("inf"):
        raise RequestError(f"seconds is {options.seconds:g}: give a number above 0")
    if not 1 < options.reach < float("inf"):
        raise RequestError(f"reach is {options.reach:g}: it must be above 1")
    require_at_least(1, options, "repeats")
    if options.candidates and (options.candidates < 3 or options.candidates % 2 == 0):
        raise RequestError(
            f"candidates is {options.candidates}: give an odd number from 3; the recipe's value is in the middle"
        )


def _check_method(setup: Setup) -> None:
    """Raise RequestError for methods that cannot be tuned."""
    if setup.spec.steps == 0:
        raise RequestError(f"{setup.method} takes no steps, so there is nothing to tune: choose another METHOD")


# ------------------------------------------------------------------ successive halving


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


def halve(race: Race, schedule: Schedule) -> list[tuned.Row]:
    """Run all rungs and return a row for each candidate in each rung. Finished rungs of an earlier process are read."""
    alive = [list(range(len(race.points)))]
    rows: list[tuned.Row] = []
    for k, rung in enumerate(schedule.rungs):
        part = race.workdir.subfolder(f"{POINTS}/{k}")
        found = part.read("rows.json")
        if found is None:
            found = _scored(race, schedule, alive, k)
            part.write("rows.json", found)
        rows += [tuned.Row(k + 1, rung.stop, race.points[i], *of) for i, of in zip(alive[k], found, strict=True)]
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


main = partial(run_command, run)
