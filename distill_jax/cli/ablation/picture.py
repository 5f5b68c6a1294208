"""The picture of an ablation: a curve for one swept setting, a map for two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from distill_jax.cli.output.display import setting
from distill_jax.cli.output.plot import INK, curve, deviations, words


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


def _map(axes: Axes, swept: Mapping[str, Sequence[float | str]], accuracies: np.ndarray) -> AxesImage:
    (down, rows), (across, columns) = swept.items()
    mean, std = (a.reshape(len(rows), len(columns)) for a in (accuracies.mean(axis=1), deviations(accuracies)))
    image = axes.imshow(mean, cmap="viridis", aspect="auto", origin="lower")
    middle = (mean.min() + mean.max()) / 2
    for (i, j), value in np.ndenumerate(mean):
        text = f"{value:.1f}\n± {std[i, j]:.1f}" if accuracies.shape[1] > 1 else f"{value:.1f}"
        axes.text(j, i, text, ha="center", va="center", color="black" if value > middle else "white", fontsize="small")
    axes.set_xticks(range(len(columns)), [setting(value) for value in columns])
    axes.set_yticks(range(len(rows)), [setting(value) for value in rows])
    axes.set_xlabel(words(across))
    axes.set_ylabel(words(down))
    return image
