"""Count what each device computes, moves and sends in an inner step of acc_dd as classes and devices grow.

python -m benchmarks.scaling --devices 8 --classes 10 100 1000
python -m benchmarks.scaling --devices 64 --classes 1000 --dataset imagenet2012

The program is traced for the given number of devices and not run. The share of a sweep that one device computes is the
part of the program inside the map over devices. ``docs/scaling.md`` has the counts, and times modelled from them.
"""

from __future__ import annotations

import argparse
from typing import Any

import jax

from distill_jax.cli import explain
from distill_jax.cli.cost.jaxpr import Cost, cost
from distill_jax.cli.cost.memory import real_shapes, shapes
from distill_jax.cli.output import display
from distill_jax.cli.process.backend import share_processors
from distill_jax.data.known import SHAPES, TRAINING_IMAGES
from distill_jax.platform import compiled_for
from distill_jax.recipes import RECIPE_OF, resolve
from distill_jax.tree import nbytes


def main() -> None:
    parser = argparse.ArgumentParser(description="counts per device of an inner step of acc_dd, ipc 10")
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--dataset", choices=sorted(SHAPES), default="cifar10", help="source of image shape and recipe")
    options = parser.parse_args()
    share_processors(["--devices", str(options.devices)])
    rows: list[tuple[str, ...]] = [("classes", "sweep", "", "update", "", "reduced", "gathered", "held")]
    for classes in options.classes:
        sweep, update, *sizes = counts(options.dataset, classes)
        rows.append((str(classes), *_amounts(sweep), *_amounts(update), *map(display.size, sizes)))
    print(f"per device of {options.devices}, {options.dataset}: arithmetic and bytes moved, bytes sent and held\n")
    print("\n".join(display.table(rows, numbers=True)))


GATHERED = 1
"""number of arrays of the size of the synthetic set that a step gathers if the number of devices does not divide the
number of classes; read from the compiled program (``tests/integration/test_mesh.py``)"""


def counts(dataset: str, classes: int) -> tuple[Cost, Cost, int, int, int]:
    """Return for one device: the cost of the matching sweep, the cost of the model update, the bytes of gradient that
    the update reduces in a step, the bytes of the synthetic set that the step gathers, and the bytes of the synthetic
    set and its momentum that the device holds."""
    n, shape = jax.device_count(), SHAPES[dataset][0]
    per_class = TRAINING_IMAGES[dataset] // SHAPES[dataset][1]
    spec = resolve("acc_dd", RECIPE_OF[dataset], ipc=10, shape=shape).spec
    data = real_shapes(per_class * classes, shape, [per_class] * classes)
    with compiled_for("gpu"):
        problem, state = shapes(spec, data)
        sweep, update = (
            cost(part, problem, state, problem.root) for part in (explain.matching_sweep, explain.model_update)
        )
    rule: Any = spec.update
    rounds, shared = -(-rule.images // rule.batch), rule.batch % n == 0
    sent = rounds * nbytes(state.models.params) * (shared and n > 1)
    even, whole = classes % n == 0, -(-classes // n) * n
    gathered = 0 if even else GATHERED * nbytes(state.synthetic.images) * whole // classes
    held = nbytes((state.synthetic.images, state.optimiser.images)) // (n if even else 1)
    return sweep, update, sent, gathered, held


def _amounts(cost: Cost) -> tuple[str, str]:
    return display.arithmetic(cost.flops), display.size(cost.bytes)


if __name__ == "__main__":
    main()
