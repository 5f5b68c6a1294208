"""Operations on parameter pytrees: take one of a stack, map in chunks, per-filter norms.

A parameter pytree is a nested dict as flax names it. Which role a leaf plays follows from its name and rank:
a ``kernel`` of rank 4 is a convolution (HWIO), a ``kernel`` of rank 2 is linear (in, out), everything else is a bias or
a norm's scale. Filters (output channels) are the LAST axis, where PyTorch has them first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from distill_jax.types import Array, PyTree


def take(stacked: PyTree, i: Array | int) -> PyTree:
    """Entry ``i`` of every leaf [P, ...]; ``i`` of shape [K] takes K entries."""
    return jax.tree.map(lambda a: a[i], stacked)


def stack(trees: Sequence[PyTree], axis: int = 0) -> PyTree:
    """Trees of equal structure, stacked on a new axis, by default a leading one."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves, axis), *trees)


def mean(stacked: PyTree) -> PyTree:
    """The mean over the leading axis of every leaf."""
    return jax.tree.map(lambda a: jnp.mean(a, axis=0), stacked)


def is_conv(path: tuple[Any, ...], leaf: Array) -> bool:
    """A convolution kernel."""
    return _name(path) == "kernel" and leaf.ndim == 4


def is_linear(path: tuple[Any, ...], leaf: Array) -> bool:
    """The kernel of a linear layer."""
    return _name(path) == "kernel" and leaf.ndim == 2


def is_matrix(path: tuple[Any, ...], leaf: Array) -> bool:
    """A convolution or linear kernel: what has filters."""
    return is_conv(path, leaf) or is_linear(path, leaf)


def select_leaves(tree: PyTree, keep: Callable[[tuple[Any, ...], Array], bool]) -> list[Array]:
    """The leaves for which ``keep(path, leaf)`` holds, in the tree's order."""
    return [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree) if keep(path, leaf)]


def filters(leaf: Array) -> Array:
    """[..., filters] -> [rest, filters]; a vector counts as one weight per filter."""
    return leaf.reshape(-1, leaf.shape[-1])


def filter_norms(leaf: Array) -> Array:
    """Euclidean norm of each filter, shaped to broadcast against ``leaf``."""
    return jnp.sqrt(jnp.sum(leaf**2, axis=tuple(range(leaf.ndim - 1)), keepdims=True))


def squared_distance(a: PyTree, b: PyTree) -> Array:
    """Sum of squared differences over all leaves."""
    return sum(
        (jnp.sum((x - y) ** 2) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)), jnp.zeros(())
    )


def map_chunks(f: Callable[..., PyTree], xs: PyTree, chunk: int) -> PyTree:
    """``f`` over the leading axis of ``xs``, ``chunk`` entries at a time; the result does not depend on ``chunk``.

    A chunk of 1 is a plain scan (least memory, best on CPU), a chunk of the whole length a plain vmap. Lengths that the
    chunk does not divide are fine.
    """
    length = jax.tree.leaves(xs)[0].shape[0]
    if chunk >= length and length > 1:
        return jax.vmap(f)(xs)
    return jax.lax.map(f, xs, batch_size=chunk if chunk > 1 else None)


def _name(path: tuple[Any, ...]) -> str:
    return str(getattr(path[-1], "key", path[-1]))
