"""Random integers and permutations from few calls of the generator, because each call costs compile and launch time."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from distill_jax.types import Array


def below(u: Array, end: int | Sequence[int] | Array) -> Array:
    """Turn ``u``, uniform in [0, 1), into int32 uniform in [0, end); in float32 ``u * end`` never rounds to ``end``."""
    return jnp.floor(u * jnp.asarray(end, u.dtype)).astype(jnp.int32)


def uniform(bits: Array) -> Array:
    """Turn ``bits``, random uint32, into float32 uniform in [0, 1)."""
    return (bits >> 8).astype(jnp.float32) * jnp.float32(2.0**-24)


def split(key: Array, count: int) -> Array:
    """Split ``key`` into ``count`` keys, as key [count]. A single key is ``key`` itself, which costs no call."""
    return key[None] if count == 1 else jax.random.split(key, count)


def permutations(key: Array, count: int, n: int) -> Array:
    """Return int32 [count, n]: random permutations of 0, ..., n - 1.

    Each is the sorting order of n random 32-bit numbers; a stable sort breaks the rare ties.
    """
    return sorting_order(jax.random.bits(key, (count * n,), jnp.uint32).reshape(count, n))


def sorting_order(numbers: Array) -> Array:
    """Return int32 [R, n]: the stable sorting order of each row of ``numbers``, uint32 [R, n]."""
    if len(numbers) == 1:  # XLA for GPUs adds a second index to each number, but not in one dimension
        return jnp.argsort(numbers[0]).astype(jnp.int32)[None]
    return jnp.argsort(numbers, axis=1).astype(jnp.int32)
