"""Compares methods on a data set under one budget, with several seeds.

    python -m experiments.reproduce compare --dataset digits --methods idc acc_dd dream --seconds 20 --points 5
    python -m experiments.reproduce compare --dataset digits --methods all --ipc 1 10

Writes ``compare.csv`` (one line per method, seed and point), ``compare.md`` (a table) and, if there are several points,
``compare.png`` (accuracy against seconds).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from distill_jax.cli.output import display
from distill_jax.cli.process.clock import environment
from distill_jax.cli.process.interrupts import Interrupts
from distill_jax.cli.request.parser import parsed_with_shared
from distill_jax.cli.session.resume import command_line, resumable
from distill_jax.cli.session.score import summary
from distill_jax.cli.session.setup import Setup
from distill_jax.cli.session.workdir import (
    COMPARED,
    COMPARED_PLOT,
    COMPARED_RUNS,
    COMPARED_TABLE,
    CONFIG,
    Workdir,
    check_same,
    open_workdir,
)
from distill_jax.cli.tables.curve import Point, curve
from distill_jax.cli.tables.entrants import Compare, entrant


class Curves(dict[tuple[str, int], list[list[Point]]]):
    """(method, ipc) -> the points of the run with each seed."""


class Comparison(NamedTuple):
    """A resolved request."""

    options: Compare
    setups: Mapping[tuple[str, int], Setup]
    """(method, ipc) -> the setup, which is run with every seed"""
    path: Path
    """the workdir"""
    command: str


def run(argv: list[str]) -> None:
    comparison = resolve_request(argv)
    path = comparison.path
    with Interrupts() as interrupts, resumable("reproduce", argv, path):
        execute(comparison, interrupts)
    print((path / COMPARED_TABLE).read_text(encoding="utf-8"))
    print(
        f"figures {path / COMPARED}, table {path / COMPARED_TABLE}"
        + (f", picture {path / COMPARED_PLOT}" if comparison.options.points > 1 else "")
    )


def resolve_request(argv: list[str]) -> Comparison:
    """Resolve ``argv``. Raise RequestError, before anything is written, if it is invalid."""
    options, shared = parsed_with_shared(Compare, argv, "reproduce compare")
    options.validate_options()
    setups = {(name, ipc): entrant(line, ipc, options, shared) for name, ipc, line in options.lines}
    path = options.folder(f"compare-{next(iter(setups.values())).folder}")
    return Comparison(options, setups, path, command_line("reproduce", argv))


def execute(comparison: Comparison, interrupts: Interrupts) -> Curves:
    """Execute all runs that an earlier process did not finish, and return the curves of all runs."""
    options, setups, path, command = comparison
    curves = Curves()
    with open_workdir(path) as workdir:
        finished = _begin(workdir, options, setups)
        for (line, ipc), setup in setups.items():
            runs = curves.setdefault((line, ipc), [])
            for seed in range(options.seeds):
                name = f"{line}, ipc {ipc}, seed {seed}"
                if name not in finished:
                    finished[name] = curve(replace(setup, seed=seed), options.budget, options.repeats, interrupts)
                    workdir.write(COMPARED_RUNS, finished)
                runs.append([Point(*point) for point in finished[name]])
                last = runs[-1][-1]
                accuracy, took = display.plus_minus(summary(last.accuracies)), display.duration(last.seconds)
                print(f"{name}: {accuracy} % after {last.step} steps, {took}", flush=True)
                # Written after every run, so that nothing is lost if a later run fails.
                _write(workdir, options, curves, command)
    say_left_out(finished, {f"{line}, ipc {ipc}, seed {seed}" for line, ipc in setups for seed in range(options.seeds)})
    return curves


def say_left_out(finished: Mapping[str, Any], shown: Set[str]) -> None:
    """Print the names of the finished runs that are not ``shown`` in the tables."""
    if others := [name for name in finished if name not in shown]:
        print(f"kept, but not named by this command and so not in its tables: {'; '.join(others)}", file=sys.stderr)


def _begin(workdir: Workdir, options: Compare, setups: Mapping[tuple[str, int], Setup]) -> dict[str, Any]:
    """Prepare the workdir and return the finished runs of an earlier process by name.

    A resumed comparison may have other methods and sizes. Those that it had before must be the same.
    """
    described = {f"{line}, ipc {ipc}": setup.describe() for (line, ipc), setup in setups.items()}
    versions = {name: version for of in described.values() for name, version in of.pop("versions").items()}
    before = ((workdir.read(CONFIG) or {}) if options.resume else {}).get("methods", {})
    for name in before.keys() & described.keys():
        check_same({name: before[name]}, {name: described[name]})
    budget = {"seconds": options.seconds, "steps": options.steps, "points": options.points}
    about = {"repeats_of_each": options.repeats, "held_out": options.held_out, "versions": versions}
    # Methods that this process leaves out stay on record, because their runs do.
    config = {"schema": 1, "methods": before | described, "budget": budget, **about}
    begun = workdir.begin(config, options.resume, options.overwrite)
    return (workdir.read(COMPARED_RUNS) if begun else None) or {}


# ------------------------------------------------------------------ output


def _write(workdir: Workdir, options: Compare, curves: Curves, command: str) -> None:
    rows: list[list[Any]] = [["method", "ipc", "seed", "step", "seconds", "accuracy", "std", "random_same_labels"]]
    for (line, ipc), runs in curves.items():
        rows += [[line, ipc, seed, *_figures(point)] for seed, points in enumerate(runs) for point in points]
    workdir.write_rows(COMPARED, rows)
    workdir.write_text(COMPARED_TABLE, _report(options, curves, command))
    if options.points > 1:
        from distill_jax.cli.tables.picture import draw  # matplotlib takes half a second to import

        title = f"{display.last_part(options.dataset)}, {options.seeds} seed{'s' * (options.seeds > 1)}"
        scored = f"{'held-out' if options.held_out else 'test'} accuracy, %"
        workdir.write_picture(COMPARED_PLOT, draw(title, scored, curves))


def _figures(point: Point) -> list[Any]:
    """Return step, seconds, accuracy, its deviation, and the accuracy of random images with the same kind of labels."""
    of, random = summary(point.accuracies), None if point.random is None else float(np.mean(point.random))
    figures = [point.seconds, of["mean"], of["std"], random]
    return [point.step, *(None if figure is None else round(figure, 3) for figure in figures)]


def _report(options: Compare, curves: Curves, command: str) -> str:
    about = environment()
    scored = "held-out training images" if options.held_out else "the test images"
    how = f"protocol {options.protocol} for all"
    lines = [f"`{command}`", "", f"Accuracy on {scored}, {how}; {about['device']}, jax {about['jax']}.", ""]
    for ipc in options.ipc:
        of_ipc = {line: runs for (line, i), runs in curves.items() if i == ipc}
        if of_ipc:
            lines += [f"{ipc} image{'s' * (ipc > 1)} per class", "", *_table(of_ipc), ""]
    return "\n".join(lines)


def _table(curves: dict[str, list[list[Point]]]) -> list[str]:
    """Format a table in Markdown. "Above random" comes with twice its standard error. If labels are soft or learned, a
    column shows random images with such labels."""
    finals = {line: _finals([points[-1] for points in runs]) for line, runs in curves.items()}
    same_labels = {line: [p for points in runs for p in points[-1].random or ()] for line, runs in curves.items()}
    random = finals.get("random")
    head = [
        "method",
        "accuracy %",
        *["above random"] * (random is not None),
        "seconds",
        "steps",
        *["random, same labels %"] * any(same_labels.values()),
    ]
    rows = []
    for line, runs in curves.items():
        last = [points[-1] for points in runs]
        accuracies = finals[line]
        above = ""
        if random is not None and line != "random":
            error = np.hypot(_standard_error(accuracies), _standard_error(random))
            above = f"{np.mean(accuracies) - np.mean(random):+.1f} ± {2 * error:.1f}"
        seconds = np.mean([point.seconds for point in last])
        beyond = [above] * (random is not None)
        row = [line, display.plus_minus(summary(accuracies)), *beyond, f"{seconds:.1f}", str(last[0].step)]
        same = display.plus_minus(summary(same_labels[line])) if same_labels[line] else ""
        rows.append([*row, same][: len(head)])
    return display.markdown(head, rows)


def _finals(points: list[Point]) -> list[float]:
    """Return the accuracy of each run, or, for a single run, of each network trained on its set."""
    return points[0].accuracies if len(points) == 1 else [float(np.mean(point.accuracies)) for point in points]


def _standard_error(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 0.0
