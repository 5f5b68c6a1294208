"""The common parts of the pictures, and the curve of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from distill_jax.cli.output.display import setting

INK, ACCENT, FAINT = "#333333", "#1f5fa8", "#9db8d6"


def plain(axes: Axes, grid: Literal["both", "x", "y"] = "y") -> None:
    """Draw faint grid lines behind the data, and no frame at the top and on the right."""
    axes.grid(axis=grid, color="#e5e5e5")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def curve(axes: Axes, name: str, values: Sequence[float | str], accuracies: np.ndarray) -> None:
    """Draw a curve over numbers, or points side by side over names and flags."""
    named = any(isinstance(value, str | bool) for value in values)
    x = np.arange(len(values)) if named else np.asarray(values, float)
    order, seeds = np.argsort(x), accuracies.shape[1]
    x, accuracies = x[order], accuracies[order]
    axes.plot(np.repeat(x, seeds), accuracies.ravel(), "o", color=FAINT, markersize=4, zorder=1, label="one seed")
    label = f"mean ± standard deviation of {seeds} seeds" if seeds > 1 else "one seed"
    style = "o" if named else "o-"
    axes.errorbar(
        x,
        accuracies.mean(axis=1),
        deviations(accuracies),
        fmt=style,
        color=ACCENT,
        capsize=4,
        linewidth=1.5,
        label=label,
    )
    if named:
        axes.set_xticks(x, [setting(value) for value in values])
        axes.margins(x=0.2)
    else:
        ticks_at(axes, x)
    axes.set_xlabel(words(name))
    plain(axes)
    if seeds > 1:
        axes.legend(frameon=False, fontsize="small", loc="best")


def ticks_at(axes: Axes, values: np.ndarray) -> None:
    """Put a tick at each value. The axis is logarithmic if the values span a factor of 5; then 0 is drawn one step
    below the smallest value."""
    positive = values[values > 0]
    if values.min() >= 0 and len(positive) > 1 and positive[-1] >= 5 * positive[0]:
        if values.min() == 0:
            step = np.log10(positive[1] / positive[0])
            axes.set_xscale("symlog", linthresh=positive[0], linscale=step)
            axes.set_xlim(-positive[0] * 0.3, positive[-1] * (positive[1] / positive[0]) ** 0.3)
        else:
            axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(values.tolist()))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def deviations(accuracies: np.ndarray) -> np.ndarray:
    """Return the sample standard deviation over seeds for each point; 0 for one seed."""
    return accuracies.std(axis=1, ddof=1) if accuracies.shape[1] > 1 else np.zeros(len(accuracies))


def words(name: str) -> str:
    """Return the name of a field as words."""
    return name.replace("_", " ")


def draw_progress(lines: Sequence[Mapping[str, float]]) -> Figure:
    """Draw the lines of ``metrics.jsonl``: matching loss against inner steps, and held-out accuracy if it was
    measured."""
    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([line["step"] for line in lines], [line["loss"] for line in lines], color=ACCENT, linewidth=1.5)
    axes.set_xlabel("inner steps")
    axes.set_ylabel("matching loss, mean of an outer step", color=ACCENT)
    plain(axes)
    scored = [line for line in lines if "held_out_accuracy" in line]
    if scored:
        right = axes.twinx()
        steps, accuracies = [line["step"] for line in scored], [line["held_out_accuracy"] for line in scored]
        right.plot(steps, accuracies, "o-", color=INK, markersize=4)
        right.set_ylabel("accuracy on held-out images, %")
        right.spines["top"].set_visible(False)
    return figure
