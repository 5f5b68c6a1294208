"""Initialisations from real images chosen by their embeddings. Left as they are, they are the coreset baselines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from distill_jax.select.rules import Rule, choose, herding, k_center, representatives
from distill_jax.synthetic import tile
from distill_jax.types import Array, Model, Net, RealData, RequestError


@dataclass(frozen=True)
class Chosen:
    """What they share: ipc * factor**2 images of each class, tiled into the cells of stored images as ``Mix`` does."""

    normalise: bool = True
    """embed normalised images"""

    rule: ClassVar[Rule]

    def check(self, counts: Sequence[int], ipc: int, factor: int) -> None:
        """Raises RequestError where a class, of ``counts`` real images each, has fewer than are to be chosen."""
        least, wanted = min(counts), ipc * factor**2
        if wanted > least:
            raise RequestError(
                f"ipc {ipc} and factor {factor} ask --init for {wanted} different images, but class "
                f"{counts.index(least)} has only {least}: use a smaller --ipc or --factor, or --init mix"
            )

    def rows(self, net: Net, model: Model, data: RealData, k: int, key: Array) -> Array:
        """int32 [C, k] rows of ``data.images``."""
        positions = choose(self.rule, net, model, data, k, key, self.normalise)
        return jnp.take_along_axis(data.index, positions, axis=1)

    def images(self, net: Net, model: Model, data: RealData, ipc: int, factor: int, key: Array) -> Array:
        """float32 [C, I, H, W, c] in [0, 1]."""
        rows = self.rows(net, model, data, ipc * factor**2, key)
        tiled = jax.lax.map(lambda rows: tile(data.images[rows], ipc, factor), rows)
        return tiled.astype(jnp.float32) / 255


@dataclass(frozen=True)
class KMeansInit(Chosen):
    """The medoids of k-means (DREAM section 3.3), which embeds images in [0, 1] as they are."""

    normalise: bool = False
    rule = staticmethod(representatives)


@dataclass(frozen=True)
class Herding(Chosen):
    """The images whose mean embedding follows that of the class."""

    rule = staticmethod(herding)


@dataclass(frozen=True)
class KCenter(Chosen):
    """Images that leave no other image of the class far from all of them."""

    rule = staticmethod(k_center)
