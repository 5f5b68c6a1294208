"""Winograd's minimal filtering F(2x2, 3x3): a 3x3 convolution in 16 matmuls instead of 36 multiplications per output.

Source: Lavin and Gray 2016, "Fast algorithms for convolutional neural networks", section 4.1. With the matrices below

    y = A [ (G k G^T) * (B x B^T) ] A^T        per 4x4 tile x and 2x2 tile y, * elementwise, summed over channels

where * is a matmul over channels for each of the 16 positions. Its derivative in k transposes A and G. Rounding errors
are about those of a direct convolution (the matrices hold 0, 1 and 1/2 only).

Nested lists of arrays stand for the small matrices, so that every position is one plain matmul.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import TypeAlias

import jax.numpy as jnp
from jax import lax

from distill_jax.types import Array

Grid: TypeAlias = Sequence[Sequence[Array]]
Matrix: TypeAlias = Sequence[Sequence[float]]

_B: Matrix = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
_G: Matrix = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
_A: Matrix = ((1, 1, 1, 0), (0, 1, -1, -1))


def convolve(x: Array, kernel: Array) -> Array:
    """[N, H + 2, W + 2, i] (padded), [3, 3, i, o] -> [N, H, W, o]"""
    n, height, width = x.shape[0], x.shape[1] - 2, x.shape[2] - 2
    filters = _sandwich(_G, kernel)
    products = [
        [jnp.matmul(_rows(v), u) for v, u in zip(*pair, strict=True)]
        for pair in zip(_tiles(x), filters, strict=True)
    ]
    tall, wide = -(-height // 2), -(-width // 2)
    quarters = [[y.reshape(n, tall, wide, -1) for y in row] for row in _sandwich(_A, products)]
    y = jnp.stack([jnp.stack(row, 3) for row in quarters], 2)
    return y.reshape(n, 2 * tall, 2 * wide, -1)[:, :height, :width]


def correlate(x: Array, dy: Array) -> Array:
    """[N, H + 2, W + 2, i] (padded), [N, H, W, o] -> [3, 3, i, o]: the kernel's gradient of ``convolve``"""
    height, width = dy.shape[1:3]
    dy = jnp.pad(dy, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
    spread = _sandwich(_transpose(_A), [[dy[:, u::2, v::2] for v in range(2)] for u in range(2)])
    products = [
        [lax.dot_general(_rows(v), _rows(w), (((0,), (0,)), ((), ()))) for v, w in zip(*pair, strict=True)]
        for pair in zip(_tiles(x), spread, strict=True)
    ]
    return jnp.stack([jnp.stack(row) for row in _sandwich(_transpose(_G), products)])


def _tiles(x: Array) -> Grid:
    """The transformed 4x4 tiles, two apart, of [N, H + 2, W + 2, c]: a 4x4 grid of [N, ceil(H/2), ceil(W/2), c]"""
    odd = [size % 2 for size in x.shape[1:3]]
    x = jnp.pad(x, ((0, 0), (0, odd[0]), (0, odd[1]), (0, 0)))
    x = lax.optimization_barrier(x)  # or XLA pads again for each of the 16 slices
    tall, wide = x.shape[1] - 2, x.shape[2] - 2
    return _sandwich(_B, [[x[:, u : u + tall : 2, v : v + wide : 2] for v in range(4)] for u in range(4)])


def _rows(x: Array) -> Array:
    return x.reshape(-1, x.shape[-1])


def _sandwich(matrix: Matrix, grid: Grid | Array) -> Grid:
    """matrix @ grid @ matrix^T"""
    half = [[_combine(row, column) for column in zip(*grid, strict=True)] for row in matrix]
    return [[_combine(row, entries) for row in matrix] for entries in half]


def _combine(coefficients: Sequence[float], arrays: Sequence[Array]) -> Array:
    return reduce(add, [c * a for c, a in zip(coefficients, arrays, strict=True) if c])


def _transpose(matrix: Matrix) -> Matrix:
    return list(zip(*matrix, strict=True))
