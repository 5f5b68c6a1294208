"""Selectors that look at nothing: random images, and none at all."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from distill_jax.contracts import Selector
from distill_jax.types import Array, Model, Net, PyTree, RealData, RequestError, choice


def draw_distinct(key: Array, data: RealData, n: int) -> Array:
    """int32 [C, n]: random positions within each class, distinct while they last, then the same ones again."""
    shape = data.index.shape
    ranks = jnp.arange(shape[1], dtype=jnp.int32)[None, :]
    scores = jnp.where(ranks < data.counts[:, None], jax.random.uniform(key, shape, jnp.float32), jnp.inf)
    order = jnp.argsort(scores, axis=1).astype(jnp.int32)
    cycled = jnp.arange(n, dtype=jnp.int32)[None, :] % data.counts[:, None]
    return jnp.take_along_axis(order, cycled, axis=1)


@choice
class RandomBatch(Selector):
    """Fresh random images of each class, distinct where the class has enough of them."""

    batch: int = 64
    """B: real images per class and inner step"""

    def validate(self) -> None:
        if self.batch < 1:
            raise RequestError(f"selector.batch is {self.batch}: at least one real image per class is needed")

    def select(
        self, net: Net, model: Model, data: RealData, memory: PyTree, inner: Array, key: Array
    ) -> tuple[Array, PyTree]:
        return draw_distinct(key, data, self.batch), memory


@choice
class NoReal(Selector):
    """No real images at all (trajectory matching)."""

    def select(
        self, net: Net, model: Model, data: RealData, memory: PyTree, inner: Array, key: Array
    ) -> tuple[Array, PyTree]:
        return jnp.zeros((data.classes, 0), jnp.int32), memory
