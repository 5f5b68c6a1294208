"""Random images of each class."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from distill_jax.types import Array, RealData


def draw_distinct(key: Array, data: RealData, n: int) -> Array:
    """int32 [C, n]: random positions within each class, distinct while they last, then the same ones again."""
    shape = data.index.shape
    ranks = jnp.arange(shape[1], dtype=jnp.int32)[None, :]
    scores = jnp.where(ranks < data.counts[:, None], jax.random.uniform(key, shape, jnp.float32), jnp.inf)
    order = jnp.argsort(scores, axis=1).astype(jnp.int32)
    cycled = jnp.arange(n, dtype=jnp.int32)[None, :] % data.counts[:, None]
    return jnp.take_along_axis(order, cycled, axis=1)
