"""Operations on parameter pytrees: indexing, stacking, mapping in chunks, per-filter norms.

A parameter pytree is a nested dict with flax's names. The name and rank of a leaf tell its role: a ``kernel`` of rank 4
is a convolution (HWIO), a ``kernel`` of rank 2 is a linear layer (in, out), and any other leaf is a bias or a norm's
scale. Filters (output channels) are the LAST axis; in PyTorch they are the first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from distill_jax.types import Array, PyTree


def take(stacked: PyTree, i: Array | int) -> PyTree:
    """Return entry ``i`` of every leaf [P, ...]; an ``i`` of shape [K] takes K entries."""
    return jax.tree.map(lambda a: a[i], stacked)


def stack(trees: Sequence[PyTree], axis: int = 0) -> PyTree:
    """Stack trees of equal structure along a new axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves, axis), *trees)


def mean(stacked: PyTree) -> PyTree:
    """Return the mean of every leaf over its leading axis."""
    return jax.tree.map(lambda a: jnp.mean(a, axis=0), stacked)


def is_conv(path: tuple[Any, ...], leaf: Array) -> bool:
    """Return whether the leaf is the kernel of a convolution."""
    return _name(path) == "kernel" and leaf.ndim == 4


def is_linear(path: tuple[Any, ...], leaf: Array) -> bool:
    """Return whether the leaf is the kernel of a linear layer."""
    return _name(path) == "kernel" and leaf.ndim == 2


def is_matrix(path: tuple[Any, ...], leaf: Array) -> bool:
    """Return whether the leaf is a convolution or linear kernel, the leaves that have filters."""
    return is_conv(path, leaf) or is_linear(path, leaf)


def select_leaves(tree: PyTree, keep: Callable[[tuple[Any, ...], Array], bool]) -> list[Array]:
    """Return the leaves for which ``keep(path, leaf)`` is true, in the order of the tree."""
    return [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree) if keep(path, leaf)]


def filters(leaf: Array) -> Array:
    """Reshape [..., filters] to [rest, filters]. A vector has one weight per filter."""
    return leaf.reshape(-1, leaf.shape[-1])


def filter_norms(leaf: Array) -> Array:
    """Return the Euclidean norm of each filter, in a shape that broadcasts against ``leaf``."""
    return jnp.sqrt(jnp.sum(leaf**2, axis=tuple(range(leaf.ndim - 1)), keepdims=True))


def squared_distance(a: PyTree, b: PyTree) -> Array:
    """Return the sum of squared differences over all leaves."""
    return sum(
        (jnp.sum((x - y) ** 2) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)), jnp.zeros(())
    )


def nbytes(arrays: Any) -> int:
    """Return the bytes of all arrays, or abstract arrays, in a pytree."""
    return sum(
        math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(arrays) if hasattr(leaf, "dtype")
    )


def join_leaves(tree: PyTree, leading: int) -> tuple[tuple[Array, ...], Callable[[Sequence[Array]], PyTree]]:
    """Return one array [..., n] for each dtype in ``tree``, whose leaves share ``leading`` leading axes, and a function
    that splits such arrays, with any leading axes, into a tree again."""
    leaves, structure = jax.tree.flatten(tree)
    dtypes = dict.fromkeys(leaf.dtype for leaf in leaves)
    groups = [[i for i, leaf in enumerate(leaves) if leaf.dtype == dtype] for dtype in dtypes]
    shapes = [leaf.shape[leading:] for leaf in leaves]
    flat = [leaf.reshape(*leaf.shape[:leading], -1) for leaf in leaves]
    joined = tuple(jnp.concatenate([flat[i] for i in group], axis=leading) for group in groups)

    def split(joined: Sequence[Array]) -> PyTree:
        leaves: list[Any] = [None] * len(shapes)
        for group, array in zip(groups, joined, strict=True):
            ends = np.cumsum([math.prod(shapes[i]) for i in group])
            for i, part in zip(group, jnp.split(array, ends[:-1], axis=-1), strict=True):
                leaves[i] = part.reshape(*array.shape[:-1], *shapes[i])
        return structure.unflatten(leaves)

    return joined, split


def map_chunks(f: Callable[..., PyTree], xs: PyTree, chunk: int) -> PyTree:
    """Map ``f`` over the leading axis of ``xs``, ``chunk`` entries at a time. The result does not depend on ``chunk``.

    A chunk of 1 is a scan, which needs the least memory and is fastest on a CPU. A chunk of the whole length is a vmap.
    The chunk need not divide the length.
    """
    length = jax.tree.leaves(xs)[0].shape[0]
    if chunk >= length and length > 1:
        return jax.vmap(f)(xs)
    return jax.lax.map(f, xs, batch_size=chunk if chunk > 1 else None)


def chunk_within(length: int, most: int) -> int:
    """Return a chunk for ``map_chunks`` over ``length`` entries, at most ``most``: a divisor of ``length`` if one is
    near, because a remainder would compile a second program."""
    most = max(1, min(length, most))
    divisor = max(n for n in range(1, most + 1) if length % n == 0)
    return divisor if 2 * divisor >= most else most


def _name(path: tuple[Any, ...]) -> str:
    return str(getattr(path[-1], "key", path[-1]))
