"""Gradient accumulation: a batch passes through a network in micro-batches, whose gradients are added up.

A micro-batch's activations stay in a CPU's cache from one layer to the next and back. That takes a third less time than
whole batches of 32x32 images, at width 32 and at 128 (results/cpu.md). Accelerators take a batch whole.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from distill_jax.platform import on_cpu
from distill_jax.types import Array, PyTree, wide

PIXELS = 2**12
"""of a micro-batch, at most, where an image has fewer"""


def micro_batch(images: Array) -> int:
    """How many of ``images`` [N, H, W, c] pass at once: all, or on a CPU the most that divide N and have PIXELS."""
    n, height, width, _ = images.shape
    most = max(1, PIXELS // (height * width)) if on_cpu() else n
    return max((size for size in range(1, min(n, most) + 1) if n % size == 0), default=n)


def loss_and_gradient(loss: Callable[..., Array], params: PyTree, images: Array, *batch: Array) -> tuple[Array, PyTree]:
    """``loss(params, images, *batch)`` and its gradient by ``params``. ``loss`` is a sum over ``images`` [N, H, W, c],
    each of which passes independently of the others, and ``batch`` [N, ...] belongs to them."""
    size, of_part = micro_batch(images), jax.value_and_grad(loss)
    if size == images.shape[0]:
        return of_part(params, images, *batch)
    parts = [a.reshape(-1, size, *a.shape[1:]) for a in (images, *batch)]

    def add(total: PyTree, part: list[Array]) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, total, of_part(params, *part)), None

    nothing = jnp.zeros((), wide(images.dtype)), jax.tree.map(jnp.zeros_like, params)
    return jax.lax.scan(add, nothing, parts)[0]
