"""Synthetic images that start as real ones, chosen at random or by a rule, or as noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from distill_jax.axes.selector.random import draw_distinct
from distill_jax.axes.selector.rules import Rule, choose, herding, k_center, representatives, seen
from distill_jax.contracts import Initialisation
from distill_jax.types import Array, Model, Net, RealData, RequestError, as_pixels, choice


@choice
class RandomReal(Initialisation):
    """Random real images of the class, distinct while they last."""

    def images(self, net: Net, model: Model, data: RealData, ipc: int, factor: int, key: Array) -> Array:
        """float32 [C, I, H, W, c] in [0, 1]."""
        return as_pixels(data.images[_rows(data, draw_distinct(key, data, ipc))])


@choice
class Mix(Initialisation):
    """factor**2 real images of the class, shrunk into the cells of each stored image (IDC)."""

    order: str = "random"
    """'random': distinct while they last; 'first': the first ones of the class, as the released codes do"""

    def validate(self) -> None:
        if self.order not in ("random", "first"):
            raise RequestError(f"order is {self.order!r}: it must be 'random' or 'first'")

    def images(self, net: Net, model: Model, data: RealData, ipc: int, factor: int, key: Array) -> Array:
        """float32 [C, I, H, W, c] in [0, 1]."""
        n = ipc * factor**2
        if self.order == "random":
            positions = draw_distinct(key, data, n)
        else:
            positions = jnp.arange(n, dtype=jnp.int32)[None, :] % data.counts[:, None]
        # One class at a time: the images before they are shrunk take factor**2 times the memory of the result.
        return as_pixels(jax.lax.map(lambda rows: tile(data.images[rows], ipc, factor), _rows(data, positions)))


@choice
class Noise(Initialisation):
    """Standard normal in network space (DC, CAFE)."""

    unit: bool = False
    """each image scaled to length 1 (RaT-BPTT)"""

    def images(self, net: Net, model: Model, data: RealData, ipc: int, factor: int, key: Array) -> Array:
        """float32 [C, I, H, W, c] in pixel space, that is mean + std * normal, not clipped to [0, 1]."""
        shape = (data.classes, ipc, *data.images.shape[1:])
        # Drawn flat, which gives the same numbers: XLA:CPU takes ten times as long to compile a draw of five axes.
        noise = jax.random.normal(key, (math.prod(shape),), jnp.float32).reshape(shape)
        noise = unit_length(noise) if self.unit else noise
        return data.normaliser.to_pixel(noise)


@choice
class CorrectlyClassified(Initialisation):
    """Random real images of the class among those that a trained network of the pool classifies correctly (DATM).

    Where they are too few, those follow that it gives the most probability of their class.
    """

    uses_teacher = True

    def images(self, net: Net, model: Model, data: RealData, ipc: int, factor: int, key: Array) -> Array:
        """float32 [C, I, H, W, c] in [0, 1]; with a factor above 1, tiled as ``Mix`` does."""
        n = ipc * factor**2
        labels, logits = data.labels, seen(net, model, data).logits
        sure = jnp.take_along_axis(jax.nn.softmax(logits), labels[:, None], axis=1)[:, 0]
        # Above every probability, in random order.
        chance = 1.0 + jax.random.uniform(key, sure.shape, sure.dtype)
        rank = jnp.where(jnp.argmax(logits, axis=-1) == labels, chance, sure)[data.index]
        real = jnp.arange(data.index.shape[1], dtype=jnp.int32)[None, :] < data.counts[:, None]
        order = jnp.argsort(jnp.where(real, rank, -1.0), axis=1, descending=True)
        positions = jnp.take_along_axis(order, jnp.arange(n, dtype=jnp.int32)[None, :] % data.counts[:, None], axis=1)
        return as_pixels(jax.lax.map(lambda rows: tile(data.images[rows], ipc, factor), _rows(data, positions)))


@choice
class Coreset(Initialisation):
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
        return as_pixels(tiled)


@choice
class KMeansInit(Coreset):
    """The medoids of k-means (DREAM section 3.3), which embeds images in [0, 1] as they are."""

    normalise: bool = False
    rule = staticmethod(representatives)


@choice
class Herding(Coreset):
    """The images whose mean embedding follows that of the class."""

    rule = staticmethod(herding)


@choice
class KCenter(Coreset):
    """Images that leave no other image of the class far from all of them."""

    rule = staticmethod(k_center)


# ------------------------------------------------------------------ shared by the above


def unit_length(images: Array) -> Array:
    """``images`` [..., H, W, c] divided each by its Euclidean length."""
    return images / jnp.sqrt(jnp.sum(images**2, axis=(-3, -2, -1), keepdims=True))


def tile(images: Array, ipc: int, factor: int, shape: tuple[int, int] | None = None) -> Array:
    """Resize ``images`` [ipc * factor**2, h, w, c] into the cells of [ipc, H, W, c], any dtype.

    Cell k, counted row by row, of stored image i shows image k * ipc + i, resized to the nearest pixel up or left.
    ``shape``: (H, W), where that is not the size of ``images``.
    """
    sides = zip(shape or images.shape[1:3], images.shape[1:3], strict=True)
    (down, row), (right, column) = (_grid(side, factor, source) for side, source in sides)
    cells = images.reshape(factor, factor, ipc, *images.shape[1:])
    canvas = cells[down[:, None], right[None, :], :, row[:, None], column[None, :]]
    return jnp.moveaxis(canvas, 2, 0)


def _grid(side: int, factor: int, source: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """For each of ``side`` canvas pixels: its cell, and the pixel that it shows of an image with ``source`` a side (by
    default as many as the canvas). The first cells are the larger."""
    sizes = [side // factor + (cell < side % factor) for cell in range(factor)]
    places = [np.arange(size) * (source or side) // size for size in sizes]
    return np.repeat(np.arange(factor), sizes), np.concatenate(places)


def _rows(data: RealData, positions: Array) -> Array:
    """Positions within each class [C, n] -> rows of ``data.images``."""
    return jnp.take_along_axis(data.index, positions, axis=1)
