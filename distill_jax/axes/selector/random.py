"""Selectors that look at nothing: random images, and none at all."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from distill_jax.contracts import Selector
from distill_jax.types import Array, Model, Net, PyTree, RealData, RequestError, choice


def draw_distinct(key: Array, data: RealData, n: int) -> Array:
    """int32 [C, n]: random positions within each class, distinct while they last, then the same ones again."""
    shape = data.index.shape
    ranks = jnp.arange(shape[1], dtype=jnp.int32)[None, :]
    u = jax.random.uniform(key, (shape[0] * shape[1],), jnp.float32).reshape(shape)  # the same numbers, compiled faster
    scores = jnp.where(ranks < data.counts[:, None], u, jnp.inf)
    order = jnp.argsort(scores, axis=1).astype(jnp.int32)
    cycled = jnp.arange(n, dtype=jnp.int32)[None, :] % data.counts[:, None]
    return jnp.take_along_axis(order, cycled, axis=1)


class Progress(NamedTuple):
    """How far each class has been shown."""

    order: Array
    """int32 [C, max count]: a permutation of each class, again from its start where the class is smaller"""
    next: Array
    """int32 [C]: the first position that has not been shown"""


@choice
class RandomBatch(Selector):
    """Random images of each class, distinct where the class has enough of them."""

    batch: int = 64
    """B: real images per class and inner step"""
    cycle: bool = True
    """go through a permutation of the class, and through a new one where the rest is smaller than a batch (IDC's
    family); False: draw afresh in every step (DC, DSA, DM, CAFE)"""

    def validate(self) -> None:
        if self.batch < 1:
            raise RequestError(f"selector.batch is {self.batch}: at least one real image per class is needed")

    def init(self, net: Net, teachers: Model | None, data: RealData) -> PyTree:
        # As if each class had just been shown whole.
        return Progress(jnp.zeros_like(data.index), data.counts) if self.cycle else ()

    def select(
        self, net: Net, model: Model, data: RealData, memory: PyTree, inner: Array, key: Array
    ) -> tuple[Array, PyTree]:
        if not self.cycle:
            return draw_distinct(key, data, self.batch), memory
        over = memory.next + self.batch > data.counts

        def reshuffled() -> Progress:
            fresh = draw_distinct(key, data, data.index.shape[1])
            return Progress(jnp.where(over[:, None], fresh, memory.order), jnp.where(over, 0, memory.next))

        order, first = jax.lax.cond(jnp.any(over), reshuffled, lambda: memory)
        columns = first[:, None] + jnp.arange(self.batch, dtype=jnp.int32)[None, :]
        rows = jnp.take_along_axis(order, columns % data.counts[:, None], axis=1)
        return rows, Progress(order, first + self.batch)


@choice
class NoReal(Selector):
    """No real images at all (trajectory matching)."""

    def select(
        self, net: Net, model: Model, data: RealData, memory: PyTree, inner: Array, key: Array
    ) -> tuple[Array, PyTree]:
        return jnp.zeros((data.classes, 0), jnp.int32), memory
