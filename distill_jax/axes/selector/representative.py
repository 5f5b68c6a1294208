"""Representative matching: the half of DREAM that plugs into every method that shows real images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

from distill_jax.axes.selector.kmeans import STARTS
from distill_jax.axes.selector.rules import choose, representatives
from distill_jax.contracts import Selector
from distill_jax.types import Array, Model, Net, RealData, RequestError, choice, require_at_least


@choice
class Representative(Selector):
    """The medoids of each class, clustered anew every few inner steps with the model of that moment (DREAM 3.2)."""

    batch: int = 128
    """B: clusters per class, each of which shows the image nearest to its centre"""
    every: int = 10
    """inner steps between two clusterings; each outer iteration begins with one, so that a method of one inner step
    (dm, ncfm) clusters in every step unless it gets more, with --inner-steps"""
    iterations: int = 100
    """of k-means, at most: it stops when the centres rest"""
    start: str = "random"
    """what k-means begins with: 'random' images, as the released code, or 'plus-plus'"""
    normalise: bool = False
    """embed normalised images; DREAM embeds them as they are, in [0, 1]"""
    chunk: int = 0
    """classes clustered at once; 0: one on CPU, all elsewhere. Changes speed and memory, not the result"""

    def validate(self) -> None:
        require_at_least(1, self, "batch", "every", "iterations")
        require_at_least(0, self, "chunk", zero="automatic")
        if self.start not in STARTS:
            raise RequestError(f"selector.start is {self.start!r}: it must be one of {', '.join(STARTS)}")

    def check(self, counts: Sequence[int], ipc: int, factor: int) -> None:
        """Raises RequestError where a class, of ``counts`` real images each, has fewer images than clusters."""
        least = min(counts)
        if self.batch > least:
            raise RequestError(
                f"selector.batch asks for {self.batch} clusters, but class {counts.index(least)} has only {least} "
                f"images: use --selector.batch {least} or less, or --selector random"
            )

    def init(self, net: Net, teachers: Model | None, data: RealData) -> Array:
        """int32 [C, B]: the selection that is kept between two clusterings."""
        return jnp.zeros((data.classes, self.batch), jnp.int32)

    def select(
        self, net: Net, model: Model, data: RealData, memory: Array, inner: Array, key: Array
    ) -> tuple[Array, Array]:
        """A class may show an image twice, where it is nearest to two centres."""

        def afresh() -> Array:
            rule = partial(representatives, iterations=self.iterations, start=self.start)
            return choose(rule, net, model, data, self.batch, key, self.normalise, self.chunk)

        rows = jax.lax.cond(inner % self.every == 0, afresh, lambda: memory)
        return rows, rows
