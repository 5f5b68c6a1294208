"""Tunes numbers for a data set by successive halving on held-out training images, and writes the best as settings.

    python -m experiments.tune acc_dd folder:photos --seconds 600
    python -m experiments.tune dm digits --tune optimiser.lr optimiser.momentum --reach 5

Writes ``tuned.json`` (for ``--config``), ``tune.csv`` (a line per rung and candidate) and ``tune.png``. ``halving.py``
plans the rungs from the speed that is measured first. ``schedule.json`` keeps the plan for a resumed process.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from distill_jax.cli.output import display
from distill_jax.cli.process.interrupts import Interrupts
from distill_jax.cli.process.run_command import run_command
from distill_jax.cli.request import arguments
from distill_jax.cli.session.pool import given_pool, has_pool, pool_for, pool_of_run
from distill_jax.cli.session.resume import Resumable, resumable
from distill_jax.cli.session.setup import set_up
from distill_jax.cli.session.workdir import SCHEDULE, open_workdir
from distill_jax.cli.tuning import result as tuned
from distill_jax.cli.tuning.race import Race, halve, measure_speed
from distill_jax.halving import Rung, Schedule, candidates, scheduled
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

    def validate_options(self) -> None:
        super().validate_options()
        if len(set(self.tune)) < len(self.tune):
            raise RequestError("--tune names a number twice: name each once, as in --tune optimiser.lr perturb.max")
        if not 0 < self.seconds < float("inf"):
            raise RequestError(f"seconds is {self.seconds:g}: give a number above 0")
        if not 1 < self.reach < float("inf"):
            raise RequestError(f"reach is {self.reach:g}: it must be above 1")
        require_at_least(1, self, "repeats")
        if self.candidates and (self.candidates < 3 or self.candidates % 2 == 0):
            raise RequestError(
                f"candidates is {self.candidates}: give an odd number from 3; the recipe's value is in the middle"
            )


def run(argv: list[str]) -> None:
    began = time.monotonic()
    request = arguments.request(argv, Tune)
    options = request.options
    setup = set_up(request, eval_every=1)
    if setup.spec.steps == 0:
        raise RequestError(f"{setup.method} takes no steps, so there is nothing to tune: choose another METHOD")
    count = options.candidates or {1: 7, 2: 5}.get(len(options.tune), 3)
    points = candidates(setup.spec, options.tune, count, options.reach)
    settings = tuned.settings(argv, Tune, request)
    path = options.folder(f"tune-{setup.folder}")
    source = pool_of_run(options, path)
    given = None if options.resume and has_pool(path) else given_pool(setup, source)
    with open_workdir(path) as workdir, Interrupts() as interrupts, resumable("tune", argv, path):
        tuning = {"points": points, "seconds": options.seconds, "repeats": options.repeats}
        figures = setup.describe_figures(pool=None if source is None else str(source))
        config = {**setup.describe(), "tune": tuning, **figures}
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


main = partial(run_command, run)
