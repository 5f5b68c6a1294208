"""Mosaics of what a network is surest of: patches of real images (RDED, Sun et al. 2024), or whole ones (CIM)."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

from distill_jax import tree
from distill_jax.axes.init.first_images import tile
from distill_jax.axes.selector.anchors import surest_images
from distill_jax.axes.selector.random import draw_distinct
from distill_jax.contracts import Initialisation
from distill_jax.types import Array, Model, Net, RealData, RequestError, as_pixels, choice, require_at_least

AT_ONCE = 32
"""images whose patches go through the network together"""


@choice
class RealPatches(Initialisation):
    """The surest patch of each of ``candidates`` random images of a class, the ipc * factor**2 surest of those, tiled
    as ``Mix`` does (RDED section 3.3): the best patches of all lie in the top left cells.

    The network that judges them is the first model of the run: take one of a trained pool. It sees each patch at the
    size of its cell, padded with the mean colour, in evaluation mode. Released: images are normalised with ImageNet's
    statistics whatever the data set, and stored as JPEG; here with those of the run, and as they are.
    """

    candidates: int = 300
    """random images of each class, distinct while they last"""
    crops: int = 5
    """random square patches of each"""
    smallest: float = 0.08
    """least share of the image's area in a patch; the largest is all of it"""

    def validate(self) -> None:
        require_at_least(1, self, "candidates", "crops")
        if not 0 < self.smallest <= 1:
            raise RequestError(f"init.smallest is {self.smallest:g}: a patch's share is above 0 and at most 1")

    def check(self, counts: Sequence[int], ipc: int, factor: int) -> None:
        """Raises RequestError where there are fewer candidates than patches to be chosen."""
        wanted, least = ipc * factor**2, min(counts)
        if wanted > min(self.candidates, least):
            raise RequestError(
                f"ipc {ipc} and factor {factor} ask --init for patches of {wanted} different images, but there are "
                f"only {min(self.candidates, least)}: use a smaller --ipc or --factor, or "
                + (f"--init.candidates {wanted}" if wanted <= least else "--init mix")
            )

    def images(self, net: Net, model: Model, data: RealData, ipc: int, factor: int, key: Array) -> Array:
        """float32 [C, I, H, W, c] in [0, 1]."""
        draw_key, box_key = jax.random.split(key)
        shape = (data.images.shape[1], data.images.shape[2], data.images.shape[3])
        n = min(self.candidates, data.index.shape[1])
        rows = jnp.take_along_axis(data.index, draw_distinct(draw_key, data, n), axis=1)
        boxes = self.boxes(box_key, (data.classes, n, self.crops), shape)
        cell = (shape[0] // factor, shape[1] // factor)

        def of_class(each: tuple[Array, Array, Array]) -> Array:
            rows, boxes, c = each

            def judged(one: tuple[Array, Array]) -> Array:
                row, boxes = one
                x = data.normaliser.to_network(patches(as_pixels(data.images[row]), boxes, cell))
                return losses(net, model, x, shape, c)

            image, crop = surest(tree.map_chunks(judged, (rows, boxes), min(AT_ONCE, n)), ipc * factor**2)
            best = jax.vmap(patches, (0, 0, None))(
                as_pixels(data.images[rows[image]]), boxes[image, crop][:, None], cell
            )
            return tile(best[:, 0], ipc, factor, shape[:2])

        return jax.lax.map(of_class, (rows, boxes, data.labels[data.index[:, 0]]))

    def boxes(self, key: Array, dims: tuple[int, ...], shape: tuple[int, int, int]) -> Array:
        """int32 [*dims, 4]: top, left, height, width of random squares in images of ``shape``."""
        area_key, top_key, left_key = jax.random.split(key, 3)
        height, width, _ = shape
        area = (self.smallest + (1 - self.smallest) * jax.random.uniform(area_key, dims)) * height * width
        side = jnp.clip(jnp.round(jnp.sqrt(area)), 1, min(height, width))
        top = jnp.floor(jax.random.uniform(top_key, dims) * (height + 1 - side))
        left = jnp.floor(jax.random.uniform(left_key, dims) * (width + 1 - side))
        return jnp.stack([top, left, side, side], axis=-1).astype(jnp.int32)


@choice
class AnchorMosaics(Initialisation):
    """The surest whole images of each class, tiled as ``Mix`` does: decoded image d shows anchor d (``Anchors``)."""

    uses_teacher = True

    def check(self, counts: Sequence[int], ipc: int, factor: int) -> None:
        """Raises RequestError where a class has fewer images than cells."""
        if ipc * factor**2 > min(counts):
            raise RequestError(
                f"ipc {ipc} and factor {factor} ask --init for {ipc * factor**2} different images, but a class has "
                f"only {min(counts)}: use a smaller --ipc or --factor, or --init mix"
            )

    def images(self, net: Net, model: Model, data: RealData, ipc: int, factor: int, key: Array) -> Array:
        """float32 [C, I, H, W, c] in [0, 1]."""
        rows = jnp.take_along_axis(data.index, surest_images(net, model, data, ipc * factor**2), axis=1)
        return jax.lax.map(lambda rows: tile(as_pixels(data.images[rows]), ipc, factor), rows)


def patches(image: Array, boxes: Array, size: tuple[int, int]) -> Array:
    """[n, h, w, c]: the ``boxes`` int32 [n, 4] of ``image`` [H, W, c], resized to ``size`` = (h, w), bilinear with
    antialiasing."""

    def one(box: Array) -> Array:
        top, left, height, width = box
        up = _weights(top, height, image.shape[0], size[0]).astype(image.dtype)
        across = _weights(left, width, image.shape[1], size[1]).astype(image.dtype)
        return jnp.einsum("ha,wb,abc->hwc", up, across, image, precision="highest")

    return jax.vmap(one)(boxes)


def losses(net: Net, model: Model, x: Array, shape: tuple[int, int, int], c: Array | int) -> Array:
    """[n]: cross-entropy of class ``c`` for ``x`` [n, h, w, c], network space, each padded with zeros to ``shape``."""
    spare = [(side - small) for side, small in zip(shape[:2], x.shape[1:3], strict=True)]
    x = jnp.pad(x, ((0, 0), *((one // 2, one - one // 2) for one in spare), (0, 0)))
    logits = net.apply(model, x, train=False)[0].logits
    return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.full(len(x), c))


def surest(losses: Array, k: int) -> tuple[Array, Array]:
    """(images [k], crop of each [k]), the least loss first: of ``losses`` [images, crops], one crop of each image."""
    best = jnp.argmin(losses, axis=1)
    image = jnp.argsort(jnp.min(losses, axis=1))[:k]
    return image, best[image]


def _weights(first: Array, length: Array, side: int, size: int) -> Array:
    """[size, side]: how ``size`` pixels are made of the ``length`` pixels from ``first`` on, out of ``side``."""
    ratio = length.astype(jnp.float32) / size
    # Each pixel is a triangle as wide as what it stands for, cut off where the patch ends.
    place = jnp.arange(side) - first
    centres = (jnp.arange(size, dtype=jnp.float32)[:, None] + 0.5) * ratio
    away = jnp.abs(place.astype(jnp.float32)[None, :] + 0.5 - centres)
    inside = (place >= 0) & (place < length)
    weights = jnp.where(inside[None, :], jnp.maximum(0, 1 - away / jnp.maximum(ratio, 1)), 0)
    return weights / jnp.sum(weights, axis=1, keepdims=True)
