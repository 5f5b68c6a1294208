"""The output of ``tune``: the schedule, the table, the figures, the picture, and the best settings."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from distill_jax.cli.output import display
from distill_jax.cli.request import arguments, config
from distill_jax.cli.request.arguments import Request
from distill_jax.cli.request.parser import invocation
from distill_jax.cli.session.score import summary
from distill_jax.cli.session.setup import Setup
from distill_jax.cli.session.workdir import TUNED, TUNING, TUNING_PLOT, Workdir, flat
from distill_jax.halving import Schedule
from distill_jax.spec import CHOICES, to_json


class Row(NamedTuple):
    """The result of a candidate in a rung."""

    rung: int
    """number of the rung, from 1"""
    step: int
    point: Mapping[str, float]
    accuracies: Sequence[float]
    """accuracy of each network on held-out images in percent"""
    loss: float
    """mean matching loss of the last outer iteration"""

    @property
    def accuracy(self) -> float:
        return float(np.mean(self.accuracies))


def settings(argv: Sequence[str], runner: type[Any], request: Request[Any]) -> dict[str, Any]:
    """Return the settings in which ``argv`` differs from METHOD and DATASET, for ``--config``."""
    options, _, experiment, data = request
    given, _ = arguments.scan(argv, runner)
    chosen = {**config.read(given.get("config")), **given}
    stage = ("recipe", "factor", "parameterisation.factor", "protocol", *CHOICES)
    first = {name: value for name, value in chosen.items() if name in stage or name.endswith(".augment")}
    first |= {"ipc": experiment.spec.ipc}
    words = [options.method, options.dataset, *config.words(first, ())]
    default = arguments.parse(words, runner, data.shape)[2]
    now, before = ({**flat(to_json(e.spec)), **flat({"protocol": to_json(e.protocol)})} for e in (experiment, default))
    changed = {name: value for name, value in now.items() if value != before.get(name)}
    subset = {"subset": list(options.subset)} if options.subset else {}
    return first | subset | changed


def announced(schedule: Schedule, setup: Setup, images: int) -> list[str]:
    """Format the schedule before the first rung."""
    protocol, last = setup.experiment.protocol, schedule.rungs[-1].stop
    lines = [["rung", "candidates", "inner steps", "networks each"]]
    lines += [[str(k + 1), *map(str, rung)] for k, rung in enumerate(schedule.rungs)]
    said = f"scored on {images} held-out training images, protocol {protocol.name}, {schedule.epochs} epochs"
    said += f" of its {protocol.epochs}" if schedule.epochs < protocol.epochs else ""
    notes = []
    if last < setup.spec.steps:
        notes.append(f"tuning ends after {last} of {setup.spec.steps} steps: give more --seconds to tune for all steps")
    return [*display.table(lines, numbers=True), said, *notes]


def written(
    workdir: Workdir, setup: Setup, rows: Sequence[Row], settings: Mapping[str, Any], side: Sequence[str] = ()
) -> list[str]:
    """Write all files, and return the table and the next command as lines. ``side``: the words of --side, which no
    file of settings can set."""
    names, last = list(rows[0].point), max(row.rung for row in rows)
    best = max((row for row in rows if row.rung == last), key=lambda row: row.accuracy)
    lines: list[list[Any]] = [["rung", "step", *names, "networks", "accuracy", "std", "loss"]]
    for row in rows:
        of = summary(list(row.accuracies))
        figures = [len(row.accuracies), round(of["mean"], 4), None if of["std"] is None else round(of["std"], 4)]
        lines.append([row.rung, row.step, *(row.point[name] for name in names), *figures, row.loss])
    workdir.write_rows(TUNING, lines)
    workdir.write(TUNED, {**settings, **best.point})
    title = f"{setup.method} on {display.last_part(setup.dataset)}, {setup.spec.ipc} per class"
    from distill_jax.cli.tuning.picture import draw  # matplotlib takes half a second to import

    workdir.write_picture(TUNING_PLOT, draw(title, rows))
    file = workdir.path / TUNED
    command = [*invocation("distill"), setup.method, setup.dataset, *side, "--config", str(file)]
    won = ", ".join(f"{name} {value:g}" for name, value in best.point.items())
    return [
        *_table(rows, names),
        *_edges(rows, best),
        *_doubt([row for row in rows if row.rung == last], best),
        f"best: {won}, {display.plus_minus(summary(list(best.accuracies)))} % of held-out images",
        f"settings {file}, figures {workdir.path / TUNING}, picture {workdir.path / TUNING_PLOT}",
        f"next: {shlex.join(command)}",
    ]


def _table(rows: Sequence[Row], names: Sequence[str]) -> list[str]:
    """Format a line per candidate and a column per rung."""
    rungs = sorted({(row.rung, row.step) for row in rows})
    lines = [[*names, *(f"held-out % after {step}" for _, step in rungs)]]
    for point in [row.point for row in rows if row.rung == 1]:
        found = {row.rung: display.plus_minus(summary(list(row.accuracies))) for row in rows if row.point == point}
        lines.append([*(f"{point[name]:g}" for name in names), *(found.get(rung, "") for rung, _ in rungs)])
    return display.table(lines)


def _doubt(finalists: Sequence[Row], best: Row) -> list[str]:
    """Return a hint if the best of the last rung leads the second by less than twice the standard error."""
    others = sorted((row for row in finalists if row is not best), key=lambda row: row.accuracy)
    if not others or min(len(best.accuracies), len(others[-1].accuracies)) < 2:
        return []
    second = others[-1]
    error = np.hypot(*(np.std(row.accuracies, ddof=1) / len(row.accuracies) ** 0.5 for row in (best, second)))
    if best.accuracy - second.accuracy >= 2 * error:
        return []
    values = ", ".join(f"{name} {value:g}" for name, value in second.point.items())
    return [f"{values} is as good within twice the standard error: more --seconds or --repeats would tell them apart"]


def _edges(rows: Sequence[Row], best: Row) -> list[str]:
    """Return a hint for each best value that is the smallest or largest tried, because a better one may lie beyond."""
    lines = []
    for name, value in best.point.items():
        tried = [row.point[name] for row in rows]
        which = "smallest" if value == min(tried) else "largest" if value == max(tried) else ""
        hint = f"{name} {value:g} is the {which} value tried: to tune around it, add --{name} {value:g}"
        lines += [hint] if which else []
    return lines
