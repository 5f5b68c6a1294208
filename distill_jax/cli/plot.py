"""The pictures of ablations (a curve for one swept number, a map for two), comparisons, tuning and training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from distill_jax.cli.comparison import Point
from distill_jax.cli.display import setting
from distill_jax.cli.tuned import Row

INK, ACCENT, FAINT = "#333333", "#1f5fa8", "#9db8d6"


def draw(title: str, scored: str, swept: Mapping[str, Sequence[float | str]], accuracies: np.ndarray) -> Figure:
    """Draw ``accuracies`` [points, seeds], with the points in the order of ``sweep.combinations(swept)``.

    For one swept setting: the mean with the standard deviation over seeds as bars, and a dot per seed. For two: a map
    with both figures in its cells. ``scored`` is the label of the accuracies.
    """
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", color=INK)
    if len(swept) == 1:
        ((name, values),) = swept.items()
        curve(axes, name, values, accuracies)
        axes.set_ylabel(scored)
    else:
        figure.colorbar(_map(axes, swept, accuracies), ax=axes, label=scored)
    return figure


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
        x, accuracies.mean(axis=1), _std(accuracies), fmt=style, color=ACCENT, capsize=4, linewidth=1.5, label=label
    )
    if named:
        axes.set_xticks(x, [setting(value) for value in values])
        axes.margins(x=0.2)
    else:
        _spread(axes, x)
    axes.set_xlabel(_label(name))
    axes.grid(axis="y", color="#e5e5e5")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if seeds > 1:
        axes.legend(frameon=False, fontsize="small", loc="best")


def _spread(axes: Axes, values: np.ndarray) -> None:
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


def _map(axes: Axes, swept: Mapping[str, Sequence[float | str]], accuracies: np.ndarray) -> AxesImage:
    (down, rows), (across, columns) = swept.items()
    mean, std = (a.reshape(len(rows), len(columns)) for a in (accuracies.mean(axis=1), _std(accuracies)))
    image = axes.imshow(mean, cmap="viridis", aspect="auto", origin="lower")
    middle = (mean.min() + mean.max()) / 2
    for (i, j), value in np.ndenumerate(mean):
        text = f"{value:.1f}\n± {std[i, j]:.1f}" if accuracies.shape[1] > 1 else f"{value:.1f}"
        axes.text(j, i, text, ha="center", va="center", color="black" if value > middle else "white", fontsize="small")
    axes.set_xticks(range(len(columns)), [setting(value) for value in columns])
    axes.set_yticks(range(len(rows)), [setting(value) for value in rows])
    axes.set_xlabel(_label(across))
    axes.set_ylabel(_label(down))
    return image


def _std(accuracies: np.ndarray) -> np.ndarray:
    """Return the sample standard deviation over seeds for each point; 0 for one seed."""
    return accuracies.std(axis=1, ddof=1) if accuracies.shape[1] > 1 else np.zeros(len(accuracies))


def _label(name: str) -> str:
    return name.replace("_", " ")


def draw_curves(title: str, scored: str, curves: Mapping[tuple[str, int], Sequence[Sequence[Point]]]) -> Figure:
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
        axes.grid(color="#e5e5e5")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
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
    x, mean, std = np.mean(seconds, axis=0), np.mean(accuracies, axis=0), _std(np.asarray(accuracies).T)
    (line,) = axes.plot(x, mean, dashes, linewidth=1.8, color=colour)
    axes.fill_between(x, mean - std, mean + std, color=colour, alpha=0.12, linewidth=0)
    return line


def draw_rungs(title: str, rows: Sequence[Row]) -> Figure:
    """Draw the result of ``tune``: for each tuned number, held-out accuracy against its value at the end of each rung.

    Bars are the standard deviation over networks. With several tuned numbers, several candidates share a value.
    """
    names = list(rows[0].point)
    figure = Figure(figsize=(6.4 * len(names), 4.2), layout="constrained")
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(names), sharey=True)), names, strict=True):
        for rung in sorted({row.rung for row in rows}):
            of_rung = sorted((row for row in rows if row.rung == rung), key=lambda row: row.point[name])
            x, y = ([row.point[name] for row in of_rung], [row.accuracy for row in of_rung])
            spread = [float(_std(np.asarray([row.accuracies]))[0]) for row in of_rung]
            label = f"rung {rung}, {of_rung[0].step} steps"
            axes.errorbar(x, y, spread, fmt="o-" if len(names) == 1 else "o", capsize=4, linewidth=1.5, label=label)
        _spread(axes, np.unique([row.point[name] for row in rows]))
        axes.set_xlabel(_label(name))
        axes.set_ylabel("accuracy on held-out images, %")
        axes.grid(axis="y", color="#e5e5e5")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize="small", loc="best")
    figure.suptitle(title, x=0.02, ha="left", color=INK)
    return figure


def draw_progress(lines: Sequence[Mapping[str, float]]) -> Figure:
    """Draw the lines of ``metrics.jsonl``: matching loss against inner steps, and held-out accuracy if it was
    measured."""
    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([line["step"] for line in lines], [line["loss"] for line in lines], color=ACCENT, linewidth=1.5)
    axes.set_xlabel("inner steps")
    axes.set_ylabel("matching loss, mean of an outer step", color=ACCENT)
    axes.grid(axis="y", color="#e5e5e5")
    axes.set_axisbelow(True)
    axes.spines["top"].set_visible(False)
    scored = [line for line in lines if "held_out_accuracy" in line]
    if scored:
        right = axes.twinx()
        steps, accuracies = [line["step"] for line in scored], [line["held_out_accuracy"] for line in scored]
        right.plot(steps, accuracies, "o-", color=INK, markersize=4)
        right.set_ylabel("accuracy on held-out images, %")
        right.spines["top"].set_visible(False)
    else:
        axes.spines["right"].set_visible(False)
    return figure
