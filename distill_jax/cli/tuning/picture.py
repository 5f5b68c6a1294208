"""The picture of ``tune``: a panel for each tuned number."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from distill_jax.cli.output.plot import INK, deviations, plain, ticks_at, words
from distill_jax.cli.tuning.result import Row


def draw(title: str, rows: Sequence[Row]) -> Figure:
    """Draw the result of ``tune``: for each tuned number, held-out accuracy against its value at the end of each rung.

    Bars are the standard deviation over networks. With several tuned numbers, several candidates share a value.
    """
    names = list(rows[0].point)
    figure = Figure(figsize=(6.4 * len(names), 4.2), layout="constrained")
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(names), sharey=True)), names, strict=True):
        for rung in sorted({row.rung for row in rows}):
            of_rung = sorted((row for row in rows if row.rung == rung), key=lambda row: row.point[name])
            x, y = ([row.point[name] for row in of_rung], [row.accuracy for row in of_rung])
            spread = [float(deviations(np.asarray([row.accuracies]))[0]) for row in of_rung]
            label = f"rung {rung}, {of_rung[0].step} steps"
            axes.errorbar(x, y, spread, fmt="o-" if len(names) == 1 else "o", capsize=4, linewidth=1.5, label=label)
        ticks_at(axes, np.unique([row.point[name] for row in rows]))
        axes.set_xlabel(words(name))
        axes.set_ylabel("accuracy on held-out images, %")
        plain(axes)
        axes.legend(frameon=False, fontsize="small", loc="best")
    figure.suptitle(title, x=0.02, ha="left", color=INK)
    return figure
