"""The picture of an analysis, with a panel for each kind of evidence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from distill_jax.cli.evidence.sentences import relative_norms
from distill_jax.cli.output.plot import ACCENT, FAINT, INK, curve, plain

COLOURS = {"random": "#c2703d", "representative": ACCENT}
"""colours of the selectors; the method's own selector is INK"""


def draw(title: str, found: Mapping[str, Any]) -> Figure:
    """Draw the content of ``analysis.json``, ``found``."""
    distances, batch = found["batches"]["distances"], found["samples"]
    panels: list[Callable[[Axes], None]] = [
        lambda axes: _norms(axes, found["batches"]["norms"]),
        lambda axes: _distances(axes, distances, "mean", f"Mean of {batch} images against mean of the class"),
        lambda axes: _distances(axes, distances, "cover", f"From an image to the nearest of {batch} selected"),
    ]
    if found["models"]:
        panels.append(lambda axes: _models(axes, found["models"]))
    if found["pretraining"]:
        panels.append(lambda axes: _pretraining(axes, found["pretraining"]))
    columns = 2 if len(panels) < 5 else 3
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(5.2 * columns, 3.9 * rows), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", color=INK)
    for place, panel in enumerate(panels):
        axes = figure.add_subplot(rows, columns, place + 1)
        panel(axes)
        plain(axes)
    return figure


def _band(axes: Axes, x: np.ndarray, of: np.ndarray, colour: str, label: str) -> None:
    """Draw the mean and standard deviation over classes of ``of`` [points, C]."""
    mean, std = of.mean(axis=1), of.std(axis=1, ddof=1)
    axes.plot(x, mean, color=colour, linewidth=1.6, label=label)
    axes.fill_between(x, mean - std, mean + std, color=colour, alpha=0.15, linewidth=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _norms(axes: Axes, norms: Mapping[str, Any]) -> None:
    relative = relative_norms(norms)
    tenths = relative.pop("tenths").T
    _band(axes, np.arange(1, len(tenths) + 1), tenths, INK, "all images")
    for name, of in relative.items():
        axes.axhline(of.mean(), color=COLOURS.get(name, FAINT), linestyle="--", linewidth=1.4, label=f"{name} batch")
    axes.set_title("Gradient norm of an image, over the class's mean", fontsize="medium", loc="left")
    axes.set_xlabel("tenth of the class, nearest to its centre first")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize="small")


def _distances(axes: Axes, distances: Mapping[str, Any], measure: str, title: str) -> None:
    for name, of in distances.items():
        seen = np.asarray(of[measure])
        _band(axes, np.arange(1, len(seen) + 1), seen, COLOURS.get(name, INK), name)
    axes.set_title(title, fontsize="medium", loc="left")
    axes.set_xlabel("inner step")
    axes.set_ylabel("distance, in spreads of the class")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize="small")


def _models(axes: Axes, kinds: Mapping[str, Any]) -> None:
    for place, of in enumerate(kinds.values()):
        mean = of["cosine"]["mean"]
        low, high = of["interval"] or (mean, mean)
        axes.errorbar(place, mean, [[mean - low], [high - mean]], fmt="o", color=ACCENT, capsize=4)
        axes.annotate(f"{mean:.2f}", (place, mean), (8, 0), textcoords="offset points", va="center", color=INK)
    axes.set_xticks(range(len(kinds)), [name.replace(", ", ",\n") for name in kinds])
    axes.set_xlim(-0.5, len(kinds) - 0.3)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.set_title("Cosine of two models' gradients of the images", fontsize="medium", loc="left")
    axes.set_ylabel("mean over pairs, 95 % interval")


def _pretraining(axes: Axes, found: Mapping[str, Any]) -> None:
    curve(axes, "epochs of pretraining", found["epochs"], np.asarray(found["accuracy"]))
    axes.set_title("Accuracy on held-out training images", fontsize="medium", loc="left")
    axes.set_ylabel("%")
