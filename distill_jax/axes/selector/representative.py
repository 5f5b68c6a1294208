"""Representative matching: the part of DREAM that works with every method that uses real images."""

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
    """Selects the medoids of each class, reclustered every few inner steps with the current model (DREAM 3.2)."""

    batch: int = 128
    """B: number of clusters per class; each contributes the image nearest to its centre"""
    every: int = 10
    """number of inner steps between two clusterings. Each outer iteration starts with one, so a method with one inner
    step (dm, ncfm) clusters in every step unless --inner-steps raises that number"""
    iterations: int = 100
    """maximum number of k-means iterations; k-means stops earlier when the centres no longer move"""
    start: str = "random"
    """initial centres of k-means: 'random' images, as in the released code, or 'plus-plus'"""
    normalise: bool = False
    """embed normalised images; DREAM embeds images in [0, 1]"""
    chunk: int = 0
    """number of classes clustered at once; 0: one on CPU, elsewhere as many as fit. Affects speed and memory, not the
    result"""

    def validate(self) -> None:
        require_at_least(1, self, "batch", "every", "iterations")
        require_at_least(0, self, "chunk", zero="automatic")
        if self.start not in STARTS:
            raise RequestError(f"selector.start is {self.start!r}: it must be one of {', '.join(STARTS)}")

    def check(self, counts: Sequence[int], ipc: int, factor: int) -> None:
        """Raise RequestError if a class, of ``counts`` real images each, has fewer images than clusters."""
        least = min(counts)
        if self.batch > least:
            raise RequestError(
                f"selector.batch sets {self.batch} clusters, but class {counts.index(least)} has only {least} "
                f"images: use --selector.batch {least} or less, or --selector random"
            )

    def init(self, net: Net, teachers: Model | None, data: RealData) -> Array:
        """Return the initial selection, int32 [C, B], which the first clustering replaces."""
        return jnp.zeros((data.classes, self.batch), jnp.int32)

    def select(
        self, net: Net, model: Model, data: RealData, memory: Array, inner: Array, key: Array
    ) -> tuple[Array, Array]:
        """Return the selection. It may contain an image twice if that image is nearest to two centres."""

        def recluster() -> Array:
            rule = partial(representatives, iterations=self.iterations, start=self.start)
            return choose(rule, net, model, data, self.batch, key, self.normalise, self.chunk)

        rows = jax.lax.cond(inner % self.every == 0, recluster, lambda: memory)
        return rows, rows
