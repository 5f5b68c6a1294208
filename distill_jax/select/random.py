"""Selectors that look at nothing: random images, and none at all."""

from __future__ import annotations

from dataclasses import dataclass

from distill_jax.synthetic import draw_distinct
from distill_jax.types import Array, Model, Net, RealData, RequestError


@dataclass(frozen=True)
class RandomBatch:
    """Fresh random images of each class, distinct where the class has enough of them."""

    batch: int = 64
    """B: real images per class and inner step"""

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise RequestError(f"selector.batch is {self.batch}: at least one real image per class is needed")

    def select(self, net: Net, model: Model, data: RealData, inner: Array, last: Array, key: Array) -> Array:
        return draw_distinct(key, data, self.batch)


@dataclass(frozen=True)
class NoReal:
    """No real images at all (trajectory matching)."""

    batch: int = 0

    def select(self, net: Net, model: Model, data: RealData, inner: Array, last: Array, key: Array) -> Array:
        return last
