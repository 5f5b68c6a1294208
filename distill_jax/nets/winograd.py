"""Winograd's minimal filtering F(2x2, 3x3): a 3x3 convolution with 4 multiplications per output instead of 9.

Source: Lavin and Gray 2016, "Fast algorithms for convolutional neural networks", section 4.1. With the matrices below

    y = A [ (G k G^T) * (B x B^T) ] A^T        per 4x4 tile x and 2x2 tile y, * elementwise, summed over channels

so that all tiles together are one matmul over channels for each of the 16 positions. The kernel's gradient transposes A
and G. Rounding errors are similar to a direct convolution's, because the matrices hold only 0, 1 and 1/2.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add

import jax.numpy as jnp
import numpy as np
from jax import lax

from distill_jax.types import Array

_B = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
_G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
_A = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])


def convolve(x: Array, kernel: Array) -> Array:
    """[N, H + 2, W + 2, i] (padded), [3, 3, i, o] -> [N, H, W, o]"""
    n, height, width = x.shape[0], x.shape[1] - 2, x.shape[2] - 2
    rows, columns = -(-height // 2), -(-width // 2)
    transform = jnp.asarray(np.kron(_G, _G), kernel.dtype)
    filters = jnp.matmul(transform, kernel.reshape(9, -1)).reshape(16, *kernel.shape[2:])
    products = lax.dot_general(_tiles(x), filters, (((2,), (1,)), ((0,), (0,))))
    products = products.reshape(4, 4, n, rows, columns, -1)
    half = _mix(_A, [products[:, v] for v in range(4)], axis=4)  # 4, N, rows, columns, 2, o
    y = _mix(_A, half.reshape(4, n, rows, 2 * columns, -1), axis=2)  # N, rows, 2, 2 * columns, o
    return y.reshape(n, 2 * rows, 2 * columns, -1)[:, :height, :width]


def correlate(x: Array, dy: Array) -> Array:
    """[N, H + 2, W + 2, i] (padded), [N, H, W, o] -> [3, 3, i, o]: the kernel's gradient of ``convolve``"""
    height, width, channels = dy.shape[1:]
    dy = jnp.pad(dy, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
    half = _mix(_A.T, [dy[:, :, v::2] for v in range(2)], axis=0)
    spread = _mix(_A.T, [half[:, :, u::2] for u in range(2)], axis=0).reshape(16, -1, channels)
    products = lax.dot_general(_tiles(x), spread, (((1,), (1,)), ((0,), (0,))))
    transform = jnp.asarray(np.kron(_G, _G).T, x.dtype)
    return jnp.matmul(transform, products.reshape(16, -1)).reshape(3, 3, -1, channels)


def _tiles(x: Array) -> Array:
    """Return B x B^T of all 4x4 tiles, two apart, of [N, H + 2, W + 2, c]: [16, N * ceil(H/2) * ceil(W/2), c]."""
    height, width, channels = x.shape[1:]
    x = jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
    x = lax.optimization_barrier(x)  # otherwise XLA pads again for each slice
    tall, wide = x.shape[1] - 2, x.shape[2] - 2
    half = _mix(_B, [x[:, :, v : v + wide : 2] for v in range(4)], axis=0)
    return _mix(_B, [half[:, :, u : u + tall : 2] for u in range(4)], axis=0).reshape(16, -1, channels)


def _mix(matrix: np.ndarray, arrays: Sequence[Array] | Array, axis: int) -> Array:
    """Return matrix @ arrays, stacked along ``axis``."""
    return jnp.stack(
        [reduce(add, [float(c) * a for c, a in zip(row, arrays, strict=True) if c]) for row in matrix], axis
    )
