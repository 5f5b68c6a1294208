"""Selectors that ignore the content of images: random images, or none."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from distill_jax.contracts import Selector
from distill_jax.draws import sorting_order
from distill_jax.types import Array, Model, Net, PyTree, RealData, RequestError, choice


def draw_distinct(key: Array, data: RealData, n: int) -> Array:
    """Draw random positions within each class, int32 [C, n], that repeat only if the class is smaller than n."""
    shape = data.index.shape
    ranks = jnp.arange(shape[1], dtype=jnp.int32)[None, :]
    u = jax.random.uniform(key, (shape[0] * shape[1],), jnp.float32).reshape(shape)  # flat draws compile faster
    scores = jnp.where(ranks < data.counts[:, None], u, jnp.inf)
    # The bits of numbers that are not negative sort like the numbers, and compile to a third less code on a GPU.
    order = sorting_order(jax.lax.bitcast_convert_type(scores, jnp.uint32))
    cycled = jnp.arange(n, dtype=jnp.int32)[None, :] % data.counts[:, None]
    return jnp.take_along_axis(order, cycled, axis=1)


class Progress(NamedTuple):
    """Progress through the permutation of each class."""

    order: Array
    """int32 [C, max count]: a permutation of each class, repeated from its start if the class is smaller"""
    next: Array
    """int32 [C]: the first position in ``order`` that has not been used"""


@choice
class RandomBatch(Selector):
    """Random images of each class, distinct if the class has enough."""

    batch: int = 64
    """B: number of real images per class and inner step"""
    cycle: bool = True
    """go through a permutation of the class, and redraw it when fewer images than a batch remain (IDC's family); False:
    draw independently in every step (DC, DSA, DM, CAFE)"""

    def validate(self) -> None:
        if self.batch < 1:
            raise RequestError(f"selector.batch is {self.batch}: at least one real image per class is needed")

    def init(self, net: Net, teachers: Model | None, data: RealData) -> PyTree:
        # The state equals that after a full pass over each class, so the first step draws a permutation.
        return Progress(jnp.zeros_like(data.index), data.counts) if self.cycle else ()

    def select(
        self, net: Net, model: Model, data: RealData, memory: PyTree, inner: Array, key: Array
    ) -> tuple[Array, PyTree]:
        if not self.cycle:
            return draw_distinct(key, data, self.batch), memory
        exhausted = memory.next + self.batch > data.counts

        def reshuffle() -> Progress:
            fresh = draw_distinct(key, data, data.index.shape[1])
            return Progress(jnp.where(exhausted[:, None], fresh, memory.order), jnp.where(exhausted, 0, memory.next))

        order, first = jax.lax.cond(jnp.any(exhausted), reshuffle, lambda: memory)
        columns = first[:, None] + jnp.arange(self.batch, dtype=jnp.int32)[None, :]
        rows = jnp.take_along_axis(order, columns % data.counts[:, None], axis=1)
        return rows, Progress(order, first + self.batch)


@choice
class NoReal(Selector):
    """Selects no real images (trajectory matching)."""

    def select(
        self, net: Net, model: Model, data: RealData, memory: PyTree, inner: Array, key: Array
    ) -> tuple[Array, PyTree]:
        return jnp.zeros((data.classes, 0), jnp.int32), memory
