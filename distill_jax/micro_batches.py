"""Micro-batches: a batch passes through a network in parts, whose gradients are added up or whose outputs are joined.

On a CPU the activations of a part stay in the cache from one layer to the next, and back. That takes a third less time
for gradients of 32x32 images than whole batches, and half the time or less without gradients (results/cpu.md).
Accelerators take a batch whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp

from distill_jax.platform import on_cpu
from distill_jax.types import Array, Model, PyTree, accumulator_dtype

PIXELS = 2**10
"""of a micro-batch on a CPU, at most, or of each of up to FEW images that share the reading of the kernels"""
FORWARD_PIXELS = 2**14
"""likewise where nothing is differentiated, so that no activations are kept for the way back"""
FEW = 4

# As the target platform (platform.py), a context that the caches of traced programs know.
_whole = jax.make_user_context(default_value=False)


@contextmanager
def whole_batches() -> Iterator[None]:
    """What is traced within takes batches whole on a CPU too: to count what a run moves through memory, where the cache
    holds what micro-batches share."""
    with _whole(True):
        yield


def _divided() -> bool:
    return on_cpu() and not _whole.value


def _most(images: Any, pixels: int) -> int:
    each = images.shape[1] * images.shape[2]
    return max(1, pixels // each, min(FEW, FEW * pixels // each))


def micro_batch(images: Array, pixels: int) -> int:
    """How many of ``images`` [N, H, W, c] pass at once: all, or on a CPU the most that divide N and have ``pixels``, or
    up to FEW that together have FEW times as many."""
    n = images.shape[0]
    most = _most(images, pixels) if _divided() else n
    return max((size for size in range(1, min(n, most) + 1) if n % size == 0), default=n)


def loss_and_gradient(loss: Callable[..., Array], params: PyTree, images: Array, *batch: Array) -> tuple[Array, PyTree]:
    """``loss(params, images, *batch)`` and its gradient by ``params``. ``loss`` is a sum over ``images`` [N, H, W, c],
    each of which passes independently of the others, and ``batch`` [N, ...] belongs to them."""
    size, of_part = micro_batch(images, PIXELS), jax.value_and_grad(loss)
    if size == images.shape[0]:
        return of_part(params, images, *batch)
    parts = [a.reshape(-1, size, *a.shape[1:]) for a in (images, *batch)]

    def add(total: PyTree, part: list[Array]) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, total, of_part(params, *part)), None

    nothing = jnp.zeros((), accumulator_dtype(images.dtype)), jax.tree.map(jnp.zeros_like, params)
    return jax.lax.scan(add, nothing, parts)[0]


def forward(f: Callable[[Array], PyTree], model: Model, images: Array) -> PyTree:
    """``f(images)``, arrays [N, ...]: what ``model`` makes of ``images`` [N, H, W, c], where nobody differentiates it.
    Images that batch norm lets meet pass together."""
    size = micro_batch(images, FORWARD_PIXELS)
    if model.stats or size == images.shape[0]:
        return f(images)
    parts = jax.lax.map(f, images.reshape(-1, size, *images.shape[1:]))
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), parts)


def forward_batch(images: Any) -> int:
    """How many of ``images`` [N, H, W, c] a loop over all of them, which pads the last batch, takes at once where
    nothing is differentiated: on an accelerator 256, and fewer above 64x64, where their activations would be the
    largest thing in memory."""
    n, height, width, _ = images.shape
    return min(n, 256, _most(images, FORWARD_PIXELS) if _divided() else max(1, 2**20 // (height * width)))
