"""How many classes and models a step visits at once: a rule from shapes, for each platform."""

from __future__ import annotations

from dataclasses import replace

from distill_jax.spec import Spec
from distill_jax.types import Shape

PIXELS_AT_ONCE = 2**19
"""pixels of real and synthetic images that an accelerator matches at once: enough to fill it, and few enough that what
the network makes of them, two to eight kilobytes a pixel at width 128, stays within a few gigabytes"""


def with_chunks(spec: Spec, shape: Shape, classes: int, platform: str) -> Spec:
    """The spec with automatic chunk sizes resolved for images of ``shape`` in ``classes`` classes on ``platform``.

    On a CPU 1, the fastest and least memory. Elsewhere all live models at once, and as many classes as show
    PIXELS_AT_ONCE between them, B real and D synthetic images each: PIXELS_AT_ONCE / ((B + D) H W), from 1 to all;
    where a number within half as much again or less divides the classes, the nearest such, because a remainder would be
    a program of its own.
    """
    if platform == "cpu":
        return replace(spec, class_chunk=spec.class_chunk or 1, model_chunk=spec.model_chunk or 1)
    decoded = spec.parameterisation.decoded(spec.ipc)
    images = spec.selector.batch + min(decoded, spec.syn_batch or decoded)
    fitting = PIXELS_AT_ONCE / (images * shape[0] * shape[1])
    off = {n: max(n / fitting, fitting / n) for n in range(1, classes + 1) if classes % n == 0}
    even = [n for n in off if off[n] <= 1.5]
    chunk = min(even, key=off.__getitem__, default=max(1, min(int(fitting), classes)))
    return replace(spec, class_chunk=spec.class_chunk or chunk, model_chunk=spec.model_chunk or spec.live)
