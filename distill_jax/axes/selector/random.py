"""Selectors that look at nothing: random images, and none at all."""

from __future__ import annotations

import jax.numpy as jnp

from distill_jax.axes.selector.draw import draw_distinct
from distill_jax.contracts import Selector
from distill_jax.types import Array, Model, Net, PyTree, RealData, RequestError, choice


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
