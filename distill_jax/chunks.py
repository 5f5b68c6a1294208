"""Chunk sizes: how many classes and models a step visits at once, chosen from the shapes and the platform."""

from __future__ import annotations

from dataclasses import replace

from distill_jax.spec import Spec
from distill_jax.types import Shape

PIXELS_AT_ONCE = 2**19
"""Number of pixels of real and synthetic images that an accelerator matches at once. It is enough to fill the
accelerator, and its activations (two to eight kilobytes per pixel at width 128) fit in a few gigabytes."""


def with_chunks(spec: Spec, shape: Shape, classes: int, platform: str) -> Spec:
    """Return ``spec`` with its automatic chunk sizes resolved for ``classes`` classes of images of ``shape``.

    On a CPU both are 1, which is fastest and needs the least memory. On other platforms the model chunk is all live
    models, and the class chunk is PIXELS_AT_ONCE / ((B + D) H W), clamped to 1..C, for B real and D synthetic images of
    each class. It is rounded to the nearest divisor of C within a factor of 1.5, if there is one, because a remainder
    would compile a second program.
    """
    if platform == "cpu":
        return replace(spec, class_chunk=spec.class_chunk or 1, model_chunk=spec.model_chunk or 1)
    decoded = spec.parameterisation.decoded(spec.ipc)
    images = spec.selector.batch + min(decoded, spec.syn_batch or decoded)
    ideal = PIXELS_AT_ONCE / (images * shape[0] * shape[1])
    ratios = {n: max(n / ideal, ideal / n) for n in range(1, classes + 1) if classes % n == 0}
    near = [n for n in ratios if ratios[n] <= 1.5]
    chunk = min(near, key=ratios.__getitem__, default=max(1, min(int(ideal), classes)))
    return replace(spec, class_chunk=spec.class_chunk or chunk, model_chunk=spec.model_chunk or spec.live)
