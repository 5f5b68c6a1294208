"""Initialisations that start from random or selected real images, or from noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from distill_jax.axes.selector.random import draw_distinct
from distill_jax.axes.selector.rules import Rule, choose, herding, k_center, network_outputs, representatives
from distill_jax.contracts import Initialisation
from distill_jax.types import Array, Model, Net, RealData, RequestError, as_pixels, choice


@choice
class RandomReal(Initialisation):
    """Random real images of the class, distinct as long as the class has enough."""

    def images(self, net: Net, model: Model, data: RealData, ipc: int, factor: int, key: Array) -> Array:
        """Return float32 [C, I, H, W, c] in [0, 1]."""
        return as_pixels(data.images[_rows(data, draw_distinct(key, data, ipc))])


@choice
class Mix(Initialisation):
    """Shrinks factor**2 real images of the class into the cells of each stored image (IDC)."""

    order: str = "random"
    """'random': distinct as long as the class has enough images; 'first': its first images, as in the released codes"""

    def validate(self) -> None:
        if self.order not in ("random", "first"):
            raise RequestError(f"order is {self.order!r}: it must be 'random' or 'first'")

    def images(self, net: Net, model: Model, data: RealData, ipc: int, factor: int, key: Array) -> Array:
        """Return float32 [C, I, H, W, c] in [0, 1]."""
        n = ipc * factor**2
        if self.order == "random":
            positions = draw_distinct(key, data, n)
        else:
            positions = jnp.arange(n, dtype=jnp.int32)[None, :] % data.counts[:, None]
        return _tiled(data, positions, ipc, factor)


@choice
class Noise(Initialisation):
    """Standard normal noise in network space (DC, CAFE)."""

    unit: bool = False
    """scale each image to length 1 (RaT-BPTT)"""

    def images(self, net: Net, model: Model, data: RealData, ipc: int, factor: int, key: Array) -> Array:
        """Return float32 [C, I, H, W, c] in pixel space: mean + std * normal, not clipped to [0, 1]."""
        shape = (data.classes, ipc, *data.images.shape[1:])
        # A flat draw gives the same numbers, and XLA:CPU compiles it ten times as fast as a draw with five axes.
        noise = jax.random.normal(key, (math.prod(shape),), jnp.float32).reshape(shape)
        noise = unit_length(noise) if self.unit else noise
        return data.normaliser.to_pixel(noise)


@choice
class CorrectlyClassified(Initialisation):
    """Random real images of the class that a trained network of the pool classifies correctly (DATM).

    If the class has too few of them, the images with the highest predicted probability of their class follow.
    """

    uses_teacher = True

    def images(self, net: Net, model: Model, data: RealData, ipc: int, factor: int, key: Array) -> Array:
        """Return float32 [C, I, H, W, c] in [0, 1]; with a factor above 1, tiled as in ``Mix``."""
        n = ipc * factor**2
        labels, logits = data.labels, network_outputs(net, model, data).logits
        confidence = jnp.take_along_axis(jax.nn.softmax(logits), labels[:, None], axis=1)[:, 0]
        # The random ranks are above every probability, so correctly classified images come first, in random order.
        random_rank = 1.0 + jax.random.uniform(key, confidence.shape, confidence.dtype)
        rank = jnp.where(jnp.argmax(logits, axis=-1) == labels, random_rank, confidence)[data.index]
        real = jnp.arange(data.index.shape[1], dtype=jnp.int32)[None, :] < data.counts[:, None]
        order = jnp.argsort(jnp.where(real, rank, -1.0), axis=1, descending=True)
        positions = jnp.take_along_axis(order, jnp.arange(n, dtype=jnp.int32)[None, :] % data.counts[:, None], axis=1)
        return _tiled(data, positions, ipc, factor)


@choice
class Coreset(Initialisation):
    """Base class: selects ipc * factor**2 images of each class and tiles them into stored images as in ``Mix``."""

    normalise: bool = True
    """embed normalised images instead of images in [0, 1]"""

    rule: ClassVar[Rule]

    def check(self, counts: Sequence[int], ipc: int, factor: int) -> None:
        """Raise RequestError if a class, of ``counts`` real images each, has fewer images than the selection needs."""
        least, needed = min(counts), ipc * factor**2
        if needed > least:
            raise RequestError(
                f"ipc {ipc} and factor {factor} need {needed} different images for --init, but class "
                f"{counts.index(least)} has only {least}: use a smaller --ipc or --factor, or --init mix"
            )

    def images(self, net: Net, model: Model, data: RealData, ipc: int, factor: int, key: Array) -> Array:
        """Return float32 [C, I, H, W, c] in [0, 1]."""
        positions = choose(self.rule, net, model, data, ipc * factor**2, key, self.normalise)
        return _tiled(data, positions, ipc, factor)


@choice
class KMeansInit(Coreset):
    """The medoids of k-means on embeddings of images in [0, 1] (DREAM section 3.3)."""

    normalise: bool = False
    rule = staticmethod(representatives)


@choice
class Herding(Coreset):
    """The images whose running mean embedding stays closest to the class mean."""

    rule = staticmethod(herding)


@choice
class KCenter(Coreset):
    """Images that cover the class: every image is near one of them (k-center)."""

    rule = staticmethod(k_center)


# ------------------------------------------------------------------ shared by the above


def unit_length(images: Array) -> Array:
    """Divide each of ``images`` [..., H, W, c] by its Euclidean norm."""
    return images / jnp.sqrt(jnp.sum(images**2, axis=(-3, -2, -1), keepdims=True))


def tile(images: Array, ipc: int, factor: int, shape: tuple[int, int] | None = None) -> Array:
    """Resize ``images`` [ipc * factor**2, h, w, c] into the cells of [ipc, H, W, c], any dtype.

    Cell k, counted row by row, of stored image i shows image k * ipc + i, resized to the nearest pixel up or left.
    ``shape`` is (H, W); by default the size of ``images``.
    """
    sides = zip(shape or images.shape[1:3], images.shape[1:3], strict=True)
    (down, row), (right, column) = (_grid(side, factor, source) for side, source in sides)
    cells = images.reshape(factor, factor, ipc, *images.shape[1:])
    canvas = cells[down[:, None], right[None, :], :, row[:, None], column[None, :]]
    return jnp.moveaxis(canvas, 2, 0)


def _grid(side: int, factor: int, source: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each of ``side`` canvas pixels, its cell and the pixel that it shows of an image with ``source``
    pixels per side (by default ``side``). The first cells are the larger ones."""
    sizes = [side // factor + (cell < side % factor) for cell in range(factor)]
    places = [np.arange(size) * (source or side) // size for size in sizes]
    return np.repeat(np.arange(factor), sizes), np.concatenate(places)


def _tiled(data: RealData, positions: Array, ipc: int, factor: int) -> Array:
    """Return the images at ``positions`` within each class, tiled: float32 [C, I, H, W, c] in [0, 1]."""
    # Visit one class at a time: the images before shrinking take factor**2 times the memory of the result.
    return as_pixels(jax.lax.map(lambda rows: tile(data.images[rows], ipc, factor), _rows(data, positions)))


def _rows(data: RealData, positions: Array) -> Array:
    """Convert positions within each class [C, n] to rows of ``data.images``."""
    return jnp.take_along_axis(data.index, positions, axis=1)
