"""What each device computes, moves and sends in an inner step of acc_dd as classes and devices grow: counted, not run.

python -m benchmarks.scaling --devices 8 --classes 10 100 1000
python -m benchmarks.scaling --devices 64 --classes 1000 --dataset imagenet2012

The program is traced for so many devices and read: the share of a sweep that a device has is what stands within the
map over the devices. ``docs/scaling.md`` has the result, and times modelled from it.
"""

from __future__ import annotations

import argparse
from typing import Any

import jax

from distill_jax.cli import display, explain
from distill_jax.cli.backend import share_processors
from distill_jax.cli.cost import Cost, cost, nbytes
from distill_jax.data.known import SHAPES, TRAINING_IMAGES
from distill_jax.platform import compiled_for
from distill_jax.recipes import RECIPE_OF, resolve


def main() -> None:
    parser = argparse.ArgumentParser(description="counts per device of an inner step of acc_dd, ipc 10")
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--dataset", choices=sorted(SHAPES), default="cifar10", help="whose images and recipe")
    options = parser.parse_args()
    share_processors(["--devices", str(options.devices)])
    rows: list[tuple[str, ...]] = [("classes", "sweep", "", "update", "", "reduced", "gathered", "held")]
    for classes in options.classes:
        sweep, update, *sizes = counts(options.dataset, classes)
        rows.append((str(classes), *_amounts(sweep), *_amounts(update), *map(display.size, sizes)))
    print(f"per device of {options.devices}, {options.dataset}: arithmetic and bytes moved, bytes sent and held\n")
    print("\n".join(display.table(rows, numbers=True)))


GATHERED = 1
"""arrays as large as the synthetic set that a step gathers where the devices do not divide the classes: read off the
compiled program (``tests/test_mesh.py``)"""


def counts(dataset: str, classes: int) -> tuple[Cost, Cost, int, int, int]:
    """Of one device: the matching sweep, the model update, bytes of gradient that the update reduces in a step,
    bytes of the synthetic set that are gathered, and bytes of it, with its momentum, that are held."""
    n, shape = jax.device_count(), SHAPES[dataset][0]
    each = TRAINING_IMAGES[dataset] // SHAPES[dataset][1]
    spec = resolve("acc_dd", RECIPE_OF[dataset], ipc=10, shape=shape).spec
    data = explain.real_shapes(each * classes, shape, [each] * classes)
    with compiled_for("gpu"):
        problem, state = explain.shapes(spec, data)
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
