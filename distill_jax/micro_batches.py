"""Micro-batches: on a CPU a batch passes through a network in parts, whose gradients or outputs are combined.

The activations of a micro-batch stay in the CPU's cache from one layer to the next. Gradients of 32x32 images take a
third less time than in whole batches, and forward passes half the time or less (results/cpu.md). On a TPU the
activations stay in the fast memory of the chip. GPUs process whole batches, unless the activations of a training step
would fill the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp

from distill_jax.platform import on_cpu, target
from distill_jax.types import Array, Model, PyTree, accumulator_dtype

PIXELS = 2**10
"""Maximum number of pixels in a micro-batch. Up to FEW images may share FEW times as many, to amortise reading the
kernels."""
FORWARD_PIXELS = 2**14
"""The maximum for forward passes, which keep no activations for a backward pass."""
FEW = 4
TRAINING_PIXELS = 2**22
"""Maximum number of pixels in a micro-batch of a training step on an accelerator. In a ConvNet of width 128 their
activations take five gigabytes."""
TPU_PIXELS = 2**16
"""The maximum for all passes on a TPU: at half a kilobyte per pixel an activation fits in the fast memory of a chip."""

# A context that is part of jit's cache keys, as in platform.py.
_whole = jax.make_user_context(default_value=False)


@contextmanager
def whole_batches() -> Iterator[None]:
    """Trace the block with whole batches on a CPU too, to count memory traffic as if there were no cache."""
    with _whole(True):
        yield


def _is_split() -> bool:
    return on_cpu() and not _whole.value


def _max_images(images: Any, pixels: int) -> int:
    each = images.shape[1] * images.shape[2]
    return max(1, pixels // each, min(FEW, FEW * pixels // each))


def micro_batch(images: Array, pixels: int, on_accelerator: int | None = None) -> int:
    """Return the size of a micro-batch of ``images`` [N, H, W, c]: the largest divisor of N within a limit.

    On a CPU the limit is ``pixels`` pixels, or FEW images and FEW times as many pixels. On a TPU it is TPU_PIXELS, if N
    has a divisor near it. Otherwise, and on other accelerators, it is ``on_accelerator`` pixels (None: no limit).
    """
    n, height, width, _ = images.shape
    if _is_split():
        return _divisor(n, _max_images(images, pixels))
    if target() == "tpu" and not _whole.value:
        most = max(1, TPU_PIXELS // (height * width))
        size = _divisor(n, most)
        if 4 * size >= min(n, most):  # not so of a prime number, whose images would pass one by one
            return size
    return n if on_accelerator is None or _whole.value else _divisor(n, max(1, on_accelerator // (height * width)))


def _divisor(n: int, limit: int) -> int:
    """Return the largest divisor of ``n`` up to ``limit``; 0 for 0."""
    return max((size for size in range(1, min(n, limit) + 1) if n % size == 0), default=n)


def loss_and_gradient(
    loss: Callable[..., Array], params: PyTree, images: Array, *batch: Array, on_accelerator: int | None = None
) -> tuple[Array, PyTree]:
    """Return ``loss(params, images, *batch)`` and its gradient with respect to ``params``.

    ``loss`` must be a sum over ``images`` [N, H, W, c] of terms that do not depend on other images. The arrays in
    ``batch`` are [N, ...]. ``on_accelerator`` as in ``micro_batch``.
    """
    size, loss_and_grad = micro_batch(images, PIXELS, on_accelerator), jax.value_and_grad(loss)
    if size == images.shape[0]:
        return loss_and_grad(params, images, *batch)
    parts = [a.reshape(-1, size, *a.shape[1:]) for a in (images, *batch)]

    def add(total: PyTree, part: list[Array]) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, total, loss_and_grad(params, *part)), None

    zeros = jnp.zeros((), accumulator_dtype(images.dtype)), jax.tree.map(jnp.zeros_like, params)
    return jax.lax.scan(add, zeros, parts)[0]


def forward(f: Callable[[Array], PyTree], model: Model, images: Array) -> PyTree:
    """Return ``f(images)``, arrays [N, ...]: a forward pass of ``model`` over ``images`` [N, H, W, c] that is not
    differentiated. Models with batch norm, whose outputs depend on the whole batch, process it whole."""
    size = micro_batch(images, FORWARD_PIXELS)
    if model.stats or size == images.shape[0]:
        return f(images)
    parts = jax.lax.map(f, images.reshape(-1, size, *images.shape[1:]))
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), parts)


def forward_batch(images: Any) -> int:
    """Return the batch size for a loop of forward passes over ``images`` [N, H, W, c] that pads its last batch.

    On an accelerator it is 256, and less for images whose activations would dominate the memory or, on a TPU, not fit
    the fast memory.
    """
    n, height, width, _ = images.shape
    pixels = TPU_PIXELS if target() == "tpu" else 2**20
    return min(n, 256, _max_images(images, FORWARD_PIXELS) if _is_split() else max(1, pixels // (height * width)))
