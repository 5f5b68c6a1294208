"""The pictures of docs/method.md, made anew from scikit-learn's digits in a few minutes on two CPU cores.

python docs/pictures.py
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from distill_jax import load, resolve
from distill_jax.axes.init import tile
from distill_jax.axes.models import EarlyStagePool, train_pool
from distill_jax.axes.parameterisation import MultiFormation
from distill_jax.axes.perturb import Directions, direction, move, normal_like
from distill_jax.data import Dataset
from distill_jax.distill import init_state
from distill_jax.evaluation import test_accuracies
from distill_jax.run import Block, BlockSize, no_tick, prepare, run
from distill_jax.spec import Spec
from distill_jax.train import NetworkSGD, Pipeline
from distill_jax.types import Model

SHOWN = (0, 1, 3, 10)
"""outer steps after which the images are shown"""


def outer_steps(spec: Spec, data: Dataset) -> Figure:
    """The synthetic images of each class as the run goes on."""
    problem = prepare(spec, data)
    state = init_state(problem)
    kept = {0: np.array(state.synthetic.images)}

    def keep(block: Block) -> None:
        # A copy, because the next block reuses the memory.
        kept[block.end // spec.inner_steps] = np.array(block.state.synthetic.images)

    run(problem, state, [keep], BlockSize(every=spec.inner_steps))
    shown = [outer for outer in SHOWN if outer in kept]
    figure, rows = _grid(len(shown), data.classes)
    for row, outer in zip(rows, shown, strict=True):
        row[0].set_title(f"outer steps: {outer}", loc="left", fontsize="medium")
        _show(row, kept[outer].reshape(-1, *data.shape[:2]))
    return figure


def multi_formation(data: Dataset, side: int = 32, classes: Sequence[int] = (2, 5)) -> Figure:
    """Four real images of a class, enlarged to ``side``; the stored image that holds them; what it decodes to."""
    figure, rows = _grid(len(classes), 5)
    for row, c in zip(rows, classes, strict=True):
        four = data.x_train[data.y_train == c][:4] / np.float32(255)
        stored = tile(jax.image.resize(four, (4, side, side, 1), "cubic"), ipc=1, factor=2)
        _show(row, np.concatenate([stored, MultiFormation(2).decode(stored)])[..., 0])
    rows[0][0].set_title("stored")
    rows[0][1].set_title("decoded", loc="left")
    return figure


def early_stage(spec: Spec, data: Dataset, pool: Model) -> Figure:
    """Accuracy of the networks of ``pool`` [P, T] after each epoch of training."""
    models = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), pool)
    size, epochs = jax.tree.leaves(pool)[0].shape[:2]
    figure, axes = _plot("epochs of training on the real images")
    axes.plot(range(epochs), np.reshape(_accuracies(spec, data, models), (size, epochs)).T, marker="o", markersize=3)
    if isinstance(spec.models, EarlyStagePool):
        axes.axvline(spec.models.epochs, color="0.4", linestyle="--")
        axes.text(spec.models.epochs, axes.get_ylim()[0], " the pool is taken here", va="bottom")
    return figure


def perturbation(spec: Spec, data: Dataset, model: Model, count: int = 6) -> Figure:
    """Accuracy of one early-stage network moved along ``count`` random directions."""
    sizes = np.linspace(0, 1, 21, dtype=np.float32)
    figure, axes = _plot("size of the step, relative to the norm of each filter")
    if isinstance(spec.perturb, Directions):
        axes.axvspan(float(spec.perturb.min), float(spec.perturb.max), color="0.85")
    for key in jax.random.split(jax.random.key(2), count):
        along = direction(model.params, normal_like(key, model.params))
        moved = jax.vmap(lambda size, along=along: model._replace(params=move(model.params, along, size)))(sizes)
        axes.plot(sizes, _accuracies(spec, data, moved))
    return figure


def _accuracies(spec: Spec, data: Dataset, models: Model) -> list[float]:
    net, real = spec.net.build(data.shape, data.classes), data.real_data()
    return test_accuracies(net, models, data.test_arrays(), real.normaliser)


def _grid(rows: int, columns: int) -> tuple[Figure, list[list[Axes]]]:
    figure = Figure(figsize=(0.7 * columns + 0.2, 0.9 * rows + 0.2), dpi=100, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False).tolist()


def _show(row: Sequence[Axes], images: Sequence[np.ndarray] | np.ndarray) -> None:
    for axes, image in zip(row, images, strict=True):
        axes.imshow(image, cmap="gray", vmin=0, vmax=1)
        axes.set_axis_off()


def _plot(below: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6, 3.4), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(below)
    axes.set_ylabel("accuracy on held-out images, %")
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def main(folder: Path = Path(__file__).parent / "pictures", epochs: int = 12, **changes: int) -> None:
    """Write the pictures into ``folder``. ``changes`` are fields of the spec: fewer steps make a test of this short."""
    data = load("digits")
    spec = replace(resolve("acc_dd", "digits", shape=data.shape).spec, **changes)
    held = data.withhold(0.1, seed=0)
    net, real = spec.net.build(data.shape, data.classes), held.real_data()
    pool = train_pool(net, real, 5, epochs, Pipeline(64), NetworkSGD(), jax.random.key(1), no_tick)
    pictures = {
        "outer_steps": outer_steps(spec, data),
        "multi_formation": multi_formation(data),
        "early_stage": early_stage(spec, held, pool),
        "perturbation": perturbation(spec, held, jax.tree.map(lambda a: a[0, min(2, epochs)], pool)),
    }
    for name, figure in pictures.items():
        figure.savefig(folder / f"{name}.png")


if __name__ == "__main__":
    main()
