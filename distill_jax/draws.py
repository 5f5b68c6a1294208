"""Random numbers from few calls of the generator, because each call takes time to compile and to start."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from distill_jax.types import Array


def below(u: Array, end: int | Sequence[int] | Array) -> Array:
    """int32, uniform from 0 to before ``end`` where ``u`` is in [0, 1): in float32 ``u * end`` never rounds up to
    ``end``."""
    return jnp.floor(u * jnp.asarray(end, u.dtype)).astype(jnp.int32)


def permutations(key: Array, count: int, n: int) -> Array:
    """int32 [count, n]: random permutations of 0, ..., n - 1, each the order of n random numbers of 32 bits. Equal
    numbers, which are rare, stay in their order."""
    numbers = jax.random.bits(key, (count * n,), jnp.uint32)
    return jnp.argsort(numbers.reshape(count, n), axis=1).astype(jnp.int32)
