"""Sweep one or two settings of a method over several seeds, in one compiled program if the settings allow it.

    python -m experiments.ablate acc_dd digits --perturb.max 0 0.03 0.09 0.27 --seeds 3

Writes ``ablation.csv`` (one line per point and seed) and ``ablation.png`` (mean and standard deviation over seeds).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from tyro.conf import FlagCreatePairsOff

from distill_jax import sweep
from distill_jax.check_spec import check
from distill_jax.cli.ablation.measure import Row, Runs, measure
from distill_jax.cli.ablation.swept import Value, fitting, only_numbers, parse
from distill_jax.cli.output import display
from distill_jax.cli.process.interrupts import Interrupts
from distill_jax.cli.process.run_command import run_command
from distill_jax.cli.request import arguments
from distill_jax.cli.request.choices import choose
from distill_jax.cli.session.pool import given_pool, has_pool, pool_of_run
from distill_jax.cli.session.resume import Resumable, resumable
from distill_jax.cli.session.score import summary
from distill_jax.cli.session.setup import Setup, set_up
from distill_jax.cli.session.workdir import (
    POINTS,
    SWEPT,
    SWEPT_PLOT,
    Workdir,
    open_workdir,
)
from distill_jax.spec import CHOICES, Spec, to_json
from distill_jax.types import RequestError, require_at_least


@dataclass(frozen=True)
class Ablate(Resumable, arguments.Common):
    """Sweep one or two settings. To sweep an option, give it two or more values, as in --perturb.max 0 0.03 0.09 0.27.

    Number fields of choices, including your own, are swept in one compiled program that shares one pool of models.
    Values that change shapes or the pool (--models.epochs, --live, --factor, --ipc, ...) run one after the other, and
    so do names (--init random mix, --objective.metric mse cos) and flags (--objective.head true false). Of several
    swept choices on an axis, each takes the options that it has.
    """

    seeds: int = 3
    """runs per point, with the seeds SEED, SEED + 1, ..."""
    repeats: int = 3
    """networks trained from scratch on the images of each run; the accuracy of a run is their mean"""
    pool: arguments.Pool = None
    held_out: FlagCreatePairsOff[bool] = False
    """score on a tenth of the training data, which is withheld from distillation, instead of on the test set; use it to
    choose a value"""

    def validate_options(self) -> None:
        super().validate_options()
        require_at_least(1, self, "seeds", "repeats")

    @property
    def scoring_split(self) -> str:
        return "held-out" if self.held_out else "test"


def run(argv: list[str]) -> None:
    swept, rest, options, default = parse(argv, Ablate)
    _check(swept)
    numbers = {name: only_numbers(name, values) for name, values in swept.items() if _is_number(default.spec, name)}
    structural = {name: values for name, values in swept.items() if name not in numbers}
    groups = sweep.combinations(structural)
    setups = [_setup(rest, group, numbers) for group in groups]
    if default.spec.steps == 0:
        raise RequestError(f"{options.method} takes no steps, so there is nothing to sweep: choose another METHOD")
    for setup in setups:
        for spec in sweep.specs_of(setup.spec, numbers):
            check(spec, setup.data.shape, setup.data.counts.tolist())
    first = setups[0]
    if options.pool is not None and any(name.partition(".")[0] in ("models", "net") for name in structural):
        raise RequestError("a swept setting changes the pool, but --pool names a single one: leave out --pool")
    path = options.folder(f"ablate-{first.folder}")
    options = replace(options, pool=pool_of_run(options, path))
    copied = path / POINTS / "0"  # --pool itself may have moved since
    resumed = options.resume and options.pool is not None and has_pool(copied)
    given = given_pool(first, copied if resumed else options.pool)
    with open_workdir(path) as workdir, Interrupts() as interrupts, resumable("ablate", argv, path):
        config = {**first.describe(), "swept": swept, "seeds": options.seeds, "repeats": options.repeats}
        # The figures of an earlier process are in the order in which the settings were given.
        others = {str(number): to_json(setup.spec) for number, setup in enumerate(setups[1:], 1)}
        pool = None if options.pool is None else str(options.pool)
        figures = first.describe_figures(repeats=options.repeats, order=list(swept), specs=others, pool=pool)
        config |= {"held_out": options.held_out, **figures}
        workdir.begin(config, options.resume, options.overwrite)
        print(display.configuration(first.title, first.experiment))
        print(*_describe_sweep(numbers, structural), sep="\n", flush=True)
        rows: list[Row] = []
        runs = Runs(range(options.seed, options.seed + options.seeds), options.repeats)
        for number, (group, setup) in enumerate(zip(groups, setups, strict=True)):
            part = workdir.subfolder(f"{POINTS}/{number}")
            rows += measure(setup, runs, group, numbers, part, given, interrupts)
        _write(workdir, first, options, swept, rows)
    print("\n".join(_table(options, swept, rows)))
    print(f"figures {path / SWEPT}, picture {path / SWEPT_PLOT}")


def _is_number(spec: Spec, name: str) -> bool:
    return name != "factor" and sweep.is_traced(spec, name)


def _setup(rest: list[str], group: Mapping[str, Value], numbers: Mapping[str, Sequence[float]]) -> Setup:
    """Return the run with the settings of ``group``. Raise RequestError if it lacks one of ``numbers``."""
    words = []
    for name, value in group.items():
        rest = fitting(rest, name, choose(name, str(value))) if name in CHOICES else rest
        axis, _, field = name.replace("_", "-").rpartition(".")
        flag = f"--{axis}.{'' if value else 'no-'}{field}"
        words += [flag] if isinstance(value, bool) else [f"--{name.replace('_', '-')}", str(value)]
    request = arguments.request([*rest, *words], Ablate)
    for name in numbers:
        if not _is_number(request.experiment.spec, name):
            raise RequestError(f"{name} is no number with {' '.join(words)}: sweep one of them at a time")
    return set_up(request, eval_every=int(request.options.held_out))


# ------------------------------------------------------------------ validation and output


def _check(swept: Mapping[str, Sequence[Value]]) -> None:
    """Raise RequestError unless one or two settings are swept."""
    if not 1 <= len(swept) <= 2:
        raise RequestError(
            f"{len(swept)} settings are swept: give one or two options several values, as in --perturb.max 0 0.09"
        )


def _describe_sweep(numbers: Mapping[str, Any], structural: Mapping[str, Any]) -> list[str]:
    lines = []
    for swept, how in ((numbers, "one compiled program"), (structural, "one after the other")):
        for name, values in swept.items():
            lines.append(f"  swept             {name}: {' '.join(map(display.setting, values))} ({how})")
    return lines


def _write(
    workdir: Workdir, setup: Setup, options: Ablate, swept: Mapping[str, list[Value]], rows: Sequence[Row]
) -> None:
    rows = _sorted(swept, rows)
    figures = [
        [*(_plain(row.point[name]) for name in swept), row.seed, round(row.accuracy, 4), row.loss] for row in rows
    ]
    workdir.write_rows(SWEPT, [[*swept, "seed", "accuracy", "loss"], *figures])
    accuracies = np.asarray([row.accuracy for row in rows]).reshape(-1, options.seeds)
    title = f"{setup.method} on {setup.dataset}, {setup.spec.ipc} per class"
    from distill_jax.cli.ablation.picture import draw  # matplotlib takes half a second to import

    workdir.write_picture(SWEPT_PLOT, draw(title, f"{options.scoring_split} accuracy, %", swept, accuracies))


def _plain(value: Value) -> float | str:
    """Return ``value`` for a CSV file: numbers with all digits."""
    return display.setting(value) if isinstance(value, bool) else value


def _sorted(swept: Mapping[str, list[Value]], rows: Sequence[Row]) -> list[Row]:
    """Sort rows by the values in the order given on the command line (the last setting varies fastest), then seed."""
    return sorted(rows, key=lambda row: (*(swept[name].index(row.point[name]) for name in swept), row.seed))


def _table(options: Ablate, swept: Mapping[str, list[Value]], rows: Sequence[Row]) -> list[str]:
    lines = [[*swept, f"{options.scoring_split} accuracy %", "seeds", "loss"]]
    rows = _sorted(swept, rows)
    for first in range(0, len(rows), options.seeds):
        of_point = rows[first : first + options.seeds]
        values = [display.setting(of_point[0].point[name]) for name in swept]
        accuracy = display.plus_minus(summary([row.accuracy for row in of_point]))
        loss = np.mean([row.loss for row in of_point])
        lines.append([*values, accuracy, str(len(of_point)), f"{loss:.4g}"])
    return display.table(lines)


main = partial(run_command, run)
