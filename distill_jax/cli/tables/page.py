"""The output of ``reproduce TABLE``: a page in Markdown, and the same figures as CSV."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distill_jax.cli.output.display import markdown, plus_minus
from distill_jax.cli.process.clock import environment
from distill_jax.cli.request.parser import invocation
from distill_jax.cli.session.score import interval, summary
from distill_jax.cli.tables.curve import Point
from distill_jax.published.tables import Acceleration, Cell, Table

CLOSE = 1.0
"""largest difference, in points of accuracy, for which a published figure counts as reproduced"""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a cell so far."""

    cell: Cell
    words: list[str]
    """METHOD DATASET and options of ``experiments.distill``, without the seed"""
    protocol: str
    runs: tuple[Mapping[str, Any], ...] = ()
    """for each seed: accuracy of each network (percent), inner steps, seconds by phase, device"""
    problem: str = ""
    """the reason why runs are missing"""

    @property
    def accuracy(self) -> Mapping[str, Any] | None:
        """Summary over the seeds, each of which is the mean of its networks."""
        return summary([float(np.mean(run["accuracy"])) for run in self.runs]) if self.runs else None

    @property
    def difference(self) -> float | None:
        """Difference from the published figure in points."""
        accuracy, published = self.accuracy, self.cell.published
        return None if accuracy is None or published is None else accuracy["mean"] - published

    def seconds(self, phase: str) -> float | None:
        """Return the mean seconds of a phase over the seeds."""
        return float(np.mean([run["seconds"][phase] for run in self.runs])) if self.runs else None


@dataclass(frozen=True)
class Gain:
    """The outcome of an acceleration so far."""

    of: Acceleration
    curves: Mapping[tuple[str, int], list[list[Point]]] | None = None
    """(method, ipc) -> the points of the run with each seed"""
    problem: str = ""


# ------------------------------------------------------------------ CSV


def figures(outcomes: Sequence[Outcome], budget: float) -> list[list[Any]]:
    """Return a header and one row per cell. Figures are in percent, points and seconds; missing figures are None."""
    rows = [_row(outcome, budget) for outcome in outcomes]
    return [list(rows[0]) if rows else ["cell"], *(list(row.values()) for row in rows)]


def _row(outcome: Outcome, budget: float) -> dict[str, Any]:
    cell, accuracy, runs = outcome.cell, outcome.accuracy, outcome.runs
    low, high = (interval(accuracy) if accuracy else None) or (None, None)
    difference = outcome.difference
    return {
        "cell": cell.key,
        "method": cell.name,
        "dataset": cell.dataset,
        "ipc": cell.ipc,
        "accuracy": _rounded(accuracy["mean"] if accuracy else None),
        "std": _rounded(accuracy["std"] if accuracy else None),
        "low": _rounded(low),
        "high": _rounded(high),
        "seeds": len(runs),
        "networks": sum(len(run["accuracy"]) for run in runs),
        "per_seed": " ".join(f"{value:.3f}" for value in (accuracy["per_repeat"] if accuracy else ())),
        "published": cell.published,
        "difference": _rounded(difference),
        "within_1": None if difference is None else abs(difference) <= CLOSE,
        "problem": outcome.problem,
        "steps": runs[0]["steps"] if runs else None,
        "budget": budget,
        "pretrain_seconds": _rounded(outcome.seconds("pretrain")),
        "distill_seconds": _rounded(outcome.seconds("distill")),
        "device": runs[0]["device"] if runs else None,
        "protocol": outcome.protocol,
        "note": cell.note,
        "command": _command(outcome),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _command(outcome: Outcome) -> str:
    return shlex.join([*invocation("distill"), *outcome.words])


# ------------------------------------------------------------------ Markdown


def page(
    table: Table, outcomes: Sequence[Outcome], gains: Sequence[Gain], budget: float, command: str
) -> str:  # fmt: skip
    """Format the table, the accelerations, notes on comparability, and the command of each cell."""
    about = environment()
    lines = [f"# {table.title}", "", f"`{command}`", "", table.note, ""]
    if budget != 1:
        lines += [
            f"**Budget {budget:g}**: every cell takes {budget:g} times the outer steps of the table. Pretraining, rates"
            " and evaluation are unchanged. The published figures belong to the full number of steps.", "",
        ]  # fmt: skip
    lines += [
        "Test accuracy in percent: mean ± standard deviation over the seeds, each of which is the mean of its networks,"
        f" and the 95 % interval of the mean over seeds. Seconds are means over the runs; jax {about['jax']}.",
        "",
        *_cells(outcomes),
        *_accelerations(gains),
    ]
    notes = {outcome.cell.name: outcome.cell.note for outcome in outcomes if outcome.cell.note}
    lines += ["## Notes", "", *[f"- {name}: {note}" for name, note in notes.items()], ""] if notes else []
    commands = ["## Commands", "", "Each command is followed by `--seed 0`, `--seed 1`, ...", "", "```sh"]
    commands += [*map(_command, outcomes), "```", ""]
    return "\n".join([*lines, *(commands if outcomes else [])])


def _cells(outcomes: Sequence[Outcome]) -> list[str]:
    if not outcomes:
        return []
    head = ["cell", "ours", "95 % interval", "seeds × networks", "published", "difference", f"within ±{CLOSE:g}"]
    head += ["steps", "pretraining s", "distillation s", "device", "protocol"]
    rows, problems = [], []
    for outcome in outcomes:
        cell, accuracy, runs, difference = outcome.cell, outcome.accuracy, outcome.runs, outcome.difference
        if outcome.problem:
            problems.append(f"- {cell.key}: {outcome.problem}")
        missing = "no data" if outcome.problem.startswith("no data") else "failed" if outcome.problem else "not yet"
        seconds = ["" if s is None else f"{s:.1f}" for s in map(outcome.seconds, ("pretrain", "distill"))]
        rows.append([
            cell.key,
            plus_minus(accuracy) if accuracy else missing,
            _interval(interval(accuracy) if accuracy else None),
            f"{len(runs)} × {len(runs[0]['accuracy'])}" if runs else "",
            "" if cell.published is None else f"{cell.published:.1f}",
            "" if difference is None else f"{difference:+.1f}",
            "" if difference is None else "yes" if abs(difference) <= CLOSE else "no",
            str(runs[0]["steps"]) if runs else "",
            *seconds,
            runs[0]["device"] if runs else "",
            outcome.protocol,
        ])  # fmt: skip
    unfinished = ["", "Not finished:", "", *problems] if problems else []
    return [*markdown(head, rows), *unfinished, ""]


def _accelerations(gains: Sequence[Gain]) -> list[str]:
    """Format how many times fewer steps and seconds the faster method needs: the geometric mean over the seeds."""
    if not gains:
        return []
    head = ["data, ipc", "accuracy", "method", "reached by", "steps", "seconds", "fewer steps", "fewer seconds"]
    rows, problems = [], []
    for gain in gains:
        of = gain.of
        if gain.curves is None:
            problems.append(f"- {of.key}: {gain.problem or 'not yet'}")
            continue
        slow, fast = ([reached(points, of.target) for points in gain.curves[name, of.ipc]] for name in of.names)
        for name, each in zip(of.names, (slow, fast), strict=True):
            moments = [moment for moment in each if moment is not None]
            means = [f"{np.mean(part):.1f}" for part in zip(*moments, strict=True)] or ["", ""]
            fewer = [_times_fewer(slow, fast, part) for part in (0, 1)] if name == of.names[1] else ["", ""]
            seeds = f"{len(moments)} of {len(each)} seeds"
            rows.append([f"{of.data}, {of.ipc}", f"{of.target:g} %", name, seeds, *means, *fewer])
    lines = [
        "## Acceleration", "",
        "Inner steps, and seconds of pretraining and distillation without compilation, until the test accuracy is "
        "reached, interpolated between two scored sets; means over the seeds that reach it. \"Fewer\" is the geometric "
        "mean over the seeds of how many times fewer, with its 95 % interval. The curves and their commands are in "
        "`cells/acceleration-*/compare`.", "",
    ]  # fmt: skip
    return [*lines, *markdown(head, rows), *(["", *problems] if problems else []), ""]


def reached(points: Sequence[Point], target: float) -> tuple[float, float] | None:
    """Return (inner steps, seconds) when the accuracy first reaches ``target`` percent, interpolated linearly; None if
    it never does."""
    before: tuple[float, float, float] | None = None
    for point in points:
        now = float(np.mean(point.accuracies)), float(point.step), point.seconds
        if now[0] >= target:
            share = 1.0 if before is None else (target - before[0]) / (now[0] - before[0])
            begin = before or now
            return begin[1] + share * (now[1] - begin[1]), begin[2] + share * (now[2] - begin[2])
        before = now
    return None


def _times_fewer(slow: Sequence[Any], fast: Sequence[Any], part: int) -> str:
    """Format how many times less the fast method takes; empty if no seed has both figures, or one of them is 0."""
    pairs = [(a[part], b[part]) for a, b in zip(slow, fast, strict=True) if a is not None and b is not None]
    if not pairs or min(min(pair) for pair in pairs) <= 0:
        return ""
    logs = summary([float(np.log(a / b)) for a, b in pairs])
    limits = interval(logs)
    return f"{np.exp(logs['mean']):.2f}" + ("" if limits is None else f" ({_interval(np.exp(limits), 2)})")


def _interval(limits: Any, digits: int = 1) -> str:
    return "" if limits is None else f"{limits[0]:.{digits}f} to {limits[1]:.{digits}f}"
