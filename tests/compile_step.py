"""Compiles an inner step of acc_dd with 10 images per class for an H100. ``test_device`` runs it.

python -m tests.compile_step RECIPE SIDE CLASSES IMAGES DTYPE [DEVICES]
"""

import json
import sys
import time
from dataclasses import replace

import jax

from distill_jax import mesh
from distill_jax.cli.cost import fit
from distill_jax.cli.cost.devices import DEVICES
from distill_jax.cli.cost.hlo import parsed
from distill_jax.cli.cost.memory import shapes
from distill_jax.cli.cost.roofline import Roofline
from distill_jax.cli.cost.shapes import real_shapes
from distill_jax.platform import compiled_for
from distill_jax.recipes import resolve

H100 = DEVICES["h100"]


def measure(recipe: str, side: int, classes: int, images: int, dtype: str, count: int = 1) -> dict[str, float]:
    """Return the memory, kernels, time and bytes sent of a step on one of ``count`` devices, and the CPU seconds of its
    compilation."""
    shape = (side, side, 3)
    spec = resolve("acc_dd", recipe, ipc=10, shape=shape).spec
    spec = replace(spec, net=replace(spec.net, dtype=dtype))
    data = real_shapes(images, shape, [images // classes] * classes)
    with compiled_for("gpu"), mesh.over(fit.topology(H100, count)):
        problem, state = shapes(spec, data)
        began = time.process_time()
        compiled = fit.compiled_block(problem, state)
        seconds = time.process_time() - began
    memory, step = fit.memory_of(compiled), Roofline(parsed(compiled.as_text()), H100, count=count).step()[0]
    return {
        "temporaries": 1e-9 * memory.temporaries,
        "total": 1e-9 * memory.total,
        "milliseconds": 1e3 * step.seconds,
        "kernels": step.kernels,
        "sent": step.sent,
        "compile_s": seconds,
    }


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    recipe, side, classes, images, dtype, *count = sys.argv[1:]
    print(json.dumps(measure(recipe, int(side), int(classes), int(images), dtype, *map(int, count))))
