"""What a method does with a data set: shapes, parameter counts, arithmetic and bytes. Computes nothing.

    python -m experiments.explain acc_dd cifar10 --ipc 10

Named data sets are not read: their shapes are known. Those of ``npz:`` and ``folder:`` are read.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from configs.recipe import Experiment
from distill_jax import tree
from distill_jax.data import load
from distill_jax.distill import Problem, State, init_state, inner_step, matching
from distill_jax.spec import Hyper, Spec, check, with_chunks
from distill_jax.synthetic import decoded_set
from distill_jax.types import RealData
from experiments.cli import SHAPES, Common, parse
from experiments.cost import Cost, cost, nbytes
from experiments.entry import enter

TRAINING_IMAGES = {
    "digits": 1347,
    "mnist": 60_000,
    "fashion_mnist": 60_000,
    "svhn_cropped": 73_257,
    "cifar10": 50_000,
    "cifar100": 50_000,
    "imagenette": 9_469,
    "imagenet2012": 1_281_167,
}
"""of named data sets; their classes are counted as equally large"""


@dataclass(frozen=True)
class Explain(Common):
    """Print what a method does with a data set: shapes, parameter counts, arithmetic and bytes. Computes nothing."""


def run(argv: list[str]) -> None:
    options, recipe, experiment = parse(argv, Explain)
    if options.dataset in TRAINING_IMAGES:
        shape, classes = SHAPES[options.dataset]
        images = TRAINING_IMAGES[options.dataset]
        counts = [images // classes] * classes
    else:
        data = load(options.dataset)
        options, recipe, experiment = parse(argv, Explain, data.shape)
        shape, images, counts = data.shape, len(data.x_train), data.counts.tolist()
    check(experiment.spec, shape, counts)
    print(f"{options.method} on {options.dataset} (recipe {recipe}), {experiment.spec.ipc} images per class\n")
    print(explained(experiment, real_shapes(images, shape, counts)))


def explained(experiment: Experiment, data: RealData) -> str:
    """The walk of one inner step as text; ``data`` may be made of ``jax.ShapeDtypeStruct``."""
    spec = with_chunks(experiment.spec, data.classes, jax.default_backend())
    _, height, width, channels = data.images.shape
    net = spec.net.build((height, width, channels), data.classes)
    key = jax.eval_shape(jax.random.key, 0)

    def pretrain(data: RealData, hyper: Hyper, key: jax.Array):
        return spec.models.pretrain(net, data, hyper, key, lambda done, total: None)

    pool = jax.eval_shape(pretrain, data, experiment.hyper, key)
    problem = Problem(spec, net, experiment.hyper, data, pool, key)
    state = jax.eval_shape(init_state, problem)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.models.params)) // spec.models.live
    return "\n".join(
        [
            *_walk(problem, state),
            "",
            *_choices(spec),
            "",
            *_table(["on the device", "bytes", ""], _residents(problem, state, parameters)),
            "",
            *_costs(problem, state, cost(pretrain, data, experiment.hyper, key)),
        ]
    )


def real_shapes(images: int, shape: tuple[int, int, int], counts: list[int]) -> RealData:
    """Shapes of a real training set of ``images`` images of ``shape`` (H, W, c)."""

    def of(dtype: type, *dims: int) -> jax.Array:
        return jax.ShapeDtypeStruct(dims, jnp.dtype(dtype))  # type: ignore[return-value]

    return RealData(
        images=of(jnp.uint8, images, *shape),
        labels=of(jnp.int32, images),
        index=of(jnp.int32, len(counts), max(counts)),
        counts=of(jnp.int32, len(counts)),
        mean=of(jnp.float32, shape[2]),
        std=of(jnp.float32, shape[2]),
    )


def _walk(problem: Problem, state: State) -> list[str]:
    """The data flow of one inner step, drawn as in the design."""
    spec, data = problem.spec, problem.data
    stored, real = state.synthetic.images, state.selection.shape + data.images.shape[1:]
    decoded = jax.eval_shape(jax.vmap(spec.parameterisation.decode), stored)
    augment = "" if type(spec.augment).__name__ == "NoAugment" else " --augment"
    source = f"pool [{spec.models.size}, ...] -> sample" if spec.models.size else "random init"
    moved = ", perturb" if getattr(spec.models, "perturb", False) else ""
    clip = " -> clip" if spec.parameterisation.space == "pixel" else ""
    left = [
        f"{data.images.dtype} {_dims(data.images.shape)} -> select {_dims(real)}{augment} ",
        f"images {_dims(stored.shape)} -> decode {_dims(decoded.shape)}{augment} ",
        f"{source}{moved} -> params [{spec.models.live}, ...] ",
    ]
    right = [
        "\\",
        f"> {type(spec.objective).__name__}(model k) -> mean over {spec.models.live} -> d/d images -> SGD{clip}",
        f"/   params -- {type(spec.update).__name__} --> next inner step",
    ]
    width = max(map(len, left)) + 2
    return [a.ljust(width, "-") + b for a, b in zip(left, right, strict=True)]


def _choices(spec: Spec) -> list[str]:
    axes = ["net", "models", "selector", "parameterisation", "augment", "objective", "update", "init"]
    return [f"{axis:17} {getattr(spec, axis)!r}" for axis in axes]


def _residents(problem: Problem, state: State, parameters: int) -> list[tuple[str, str, str]]:
    size = problem.spec.models.size
    pool = [("pool", _binary(nbytes(problem.pool)), f"{size} x {parameters:,} parameters")] if size else []
    return [
        ("real data", _binary(nbytes(problem.data)), f"{problem.data.images.shape[0]:,} images"),
        *pool,
        ("state", _binary(nbytes(state)), f"images, {problem.spec.models.live} x {parameters:,} parameters, momenta"),
    ]


def _costs(problem: Problem, state: State, pretrain: Cost) -> list[str]:
    spec = problem.spec
    key = problem.root
    sweep = cost(lambda p, s, k: matching(p, s.models, s.synthetic, s.selection, k), problem, state, key)
    whole = cost(inner_step, problem, state, key)
    update = _update_cost(problem, state)
    rest = Cost(whole.flops - sweep.flops - update.flops, max(0, whole.bytes - sweep.bytes - update.bytes))
    shown = f"{problem.data.classes} classes, {spec.models.live} x {spec.selector.batch} real each and their synthetic"
    rows = [
        ("matching sweep", *_amounts(sweep), shown),
        ("model update", *_amounts(update), type(spec.update).__name__),
        ("decoding, selection", *_amounts(rest), ""),
        ("inner step", *_amounts(whole), ""),
        ("the run", *_amounts(whole.times(spec.steps)), f"{spec.outer_steps} outer x {spec.inner_steps} inner steps"),
        ("pool, before it", *_amounts(pretrain), ""),
    ]
    lines = _table(["", "arithmetic", "bytes moved", ""], rows if spec.models.size else rows[:-1])
    said = [
        "",
        "Arithmetic and bytes are those of convolutions and matrix products; what is between them can be fused.",
    ]
    if whole.open_loops or pretrain.open_loops:
        said.append("A loop whose length depends on the data is counted as one round.")
    return lines + said


def _update_cost(problem: Problem, state: State) -> Cost:
    """Of the model update of all live models."""
    spec = problem.spec

    def update(problem: Problem, state: State, key: jax.Array):
        syn = decoded_set(spec.parameterisation, state.synthetic.images, problem.data)
        model, optimiser, watch = tree.take((state.models, state.model_optimisers, state.watch), 0)
        return spec.update.update(problem.net, model, optimiser, watch, problem.data, syn, problem.hyper, key)

    return cost(update, problem, state, problem.root).times(spec.models.live)


def _table(head: list[str], rows: list[tuple[str, ...]]) -> list[str]:
    cells = [tuple(head), *rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    last = len(head) - 1

    def line(row: tuple[str, ...]) -> str:
        aligned = (c.rjust(w) if 0 < i < last else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        return "  ".join(aligned).rstrip()

    return [line(row) for row in cells]


def _amounts(amount: Cost) -> tuple[str, str]:
    return _scaled(amount.flops, 1000, ["FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP"]), _binary(
        amount.bytes
    )


def _binary(amount: int) -> str:
    return _scaled(amount, 1024, ["B", "KiB", "MiB", "GiB", "TiB", "PiB"])


def _scaled(amount: float, step: int, units: list[str]) -> str:
    place = 0
    while amount >= step and place < len(units) - 1:
        amount, place = amount / step, place + 1
    return f"{amount:.0f} {units[place]}" if place == 0 or amount >= 100 else f"{amount:.1f} {units[place]}"


def _dims(shape: tuple[int, ...]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"


if __name__ == "__main__":
    sys.exit(enter(run))
