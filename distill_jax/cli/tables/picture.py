"""The picture of a comparison: accuracy against seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from distill_jax.cli.output.plot import INK, deviations, plain
from distill_jax.cli.tables.curve import Point


def draw(title: str, scored: str, curves: Mapping[tuple[str, int], Sequence[Sequence[Point]]]) -> Figure:
    """Draw accuracy against seconds, with a panel per number of images per class. ``scored`` is the label of the
    accuracies. Each method shows the points of its runs, and their mean with the standard deviation. A method without
    steps shows dots and a dotted line at the mean."""
    sizes, methods = list(dict.fromkeys(ipc for _, ipc in curves)), list(dict.fromkeys(name for name, _ in curves))
    figure = Figure(figsize=(1.2 + 6 * len(sizes), 4.6), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", color=INK)
    panels = dict(zip(sizes, np.atleast_1d(figure.subplots(1, len(sizes))), strict=True))
    lines = {}
    for (name, ipc), runs in curves.items():
        place = methods.index(name)
        colour, dashes = f"C{place % 10}", "-" if place < 10 else "--"
        lines[name] = _runs(panels[ipc], runs, colour, dashes)
    for ipc, axes in panels.items():
        axes.set_title(f"{ipc} image{'s' * (ipc > 1)} per class", fontsize="medium", loc="left", color=INK)
        axes.set_xlabel("seconds of pretraining and distillation, without compiling")
        plain(axes, "both")
    panels[sizes[0]].set_ylabel(scored)
    columns = 3 if len(sizes) == 1 else 6
    figure.legend(lines.values(), lines, frameon=False, fontsize="small", loc="outside lower center", ncols=columns)
    return figure


def _runs(axes: Axes, runs: Sequence[Sequence[Point]], colour: str, dashes: str) -> Line2D:
    """Draw the runs of one method and return its line for the legend."""
    seconds = [[point.seconds for point in points] for points in runs]
    accuracies = [[float(np.mean(point.accuracies)) for point in points] for points in runs]
    axes.plot(np.concatenate(seconds), np.concatenate(accuracies), "o", color=colour, markersize=3, alpha=0.5)
    if max(map(len, seconds)) == 1:
        return axes.axhline(float(np.mean(accuracies)), color=colour, linewidth=1.2, linestyle=":")
    if len(set(map(len, seconds))) > 1:  # a slow block passed several shares of the budget in some of the runs
        lines = [
            axes.plot(s, a, dashes, linewidth=1.2, color=colour)[0] for s, a in zip(seconds, accuracies, strict=True)
        ]
        return lines[0]
    # The n-th points of all runs belong to the same share of the budget.
    x, mean, std = np.mean(seconds, axis=0), np.mean(accuracies, axis=0), deviations(np.asarray(accuracies).T)
    (line,) = axes.plot(x, mean, dashes, linewidth=1.8, color=colour)
    axes.fill_between(x, mean - std, mean + std, color=colour, alpha=0.12, linewidth=0)
    return line
