"""Mosaics of the images with the lowest loss: patches of real images (RDED, Sun et al. 2024) or whole images (CIM)."""

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
"""number of images whose patches go through the network together"""


@choice
class RealPatches(Initialisation):
    """Tiles the patches of real images with the lowest loss, as in ``Mix`` (RDED section 3.3).

    Each of ``candidates`` random images of a class contributes its patch with the lowest loss. The ipc * factor**2 best
    of these patches are tiled; the best of all lie in the top left cells. The network is the first model of the run:
    use a trained pool. It sees each patch at the size of its cell, padded with the mean colour, in evaluation mode. The
    released code normalises with ImageNet's statistics for every data set and stores JPEG; here the run's own
    statistics apply and images are stored without JPEG.
    """

    candidates: int = 300
    """number of random images per class, or all of them if the class has fewer"""
    crops: int = 5
    """number of random square patches per image"""
    smallest: float = 0.08
    """smallest patch area as a share of the image's area; the largest patch is the whole image"""

    def validate(self) -> None:
        require_at_least(1, self, "candidates", "crops")
        if not 0 < self.smallest <= 1:
            raise RequestError(f"init.smallest is {self.smallest:g}: it must be above 0 and at most 1")

    def check(self, counts: Sequence[int], ipc: int, factor: int) -> None:
        """Raise RequestError if there are fewer candidates than patches to select."""
        needed, least = ipc * factor**2, min(counts)
        if needed > min(self.candidates, least):
            few = f"a class has only {least}" if needed > least else f"--init.candidates is {self.candidates}"
            raise RequestError(
                f"ipc {ipc} and factor {factor} need patches of {needed} different images for --init, but {few}: "
                "use a smaller --ipc or --factor, or "
                + ("--init mix" if needed > least else f"--init.candidates {needed}")
            )

    def images(self, net: Net, model: Model, data: RealData, ipc: int, factor: int, key: Array) -> Array:
        """Return float32 [C, I, H, W, c] in [0, 1]."""
        draw_key, box_key = jax.random.split(key)
        shape = (data.images.shape[1], data.images.shape[2], data.images.shape[3])
        n = min(self.candidates, data.index.shape[1])
        rows = jnp.take_along_axis(data.index, draw_distinct(draw_key, data, n), axis=1)
        boxes = self.boxes(box_key, (data.classes, n, self.crops), shape)
        cell = (shape[0] // factor, shape[1] // factor)

        def class_mosaics(args: tuple[Array, Array, Array, Array]) -> Array:
            rows, boxes, c, count = args

            def patch_losses(args: tuple[Array, Array]) -> Array:
                row, boxes = args
                x = data.normaliser.to_network(patches(as_pixels(data.images[row]), boxes, cell))
                return losses(net, model, x, shape, c)

            of_patches = tree.map_chunks(patch_losses, (rows, boxes), min(AT_ONCE, n))
            # The candidates of a class of fewer than n images repeat, and an image contributes one patch.
            of_patches = jnp.where(jnp.arange(n)[:, None] < count, of_patches, jnp.inf)
            image, crop = surest(of_patches, ipc * factor**2)
            best = jax.vmap(patches, (0, 0, None))(
                as_pixels(data.images[rows[image]]), boxes[image, crop][:, None], cell
            )
            return tile(best[:, 0], ipc, factor, shape[:2])

        return jax.lax.map(class_mosaics, (rows, boxes, data.labels[data.index[:, 0]], data.counts))

    def boxes(self, key: Array, dims: tuple[int, ...], shape: tuple[int, int, int]) -> Array:
        """Draw random squares in images of ``shape``, int32 [*dims, 4]: top, left, height, width."""
        area_key, top_key, left_key = jax.random.split(key, 3)
        height, width, _ = shape
        area = (self.smallest + (1 - self.smallest) * jax.random.uniform(area_key, dims)) * height * width
        side = jnp.clip(jnp.round(jnp.sqrt(area)), 1, min(height, width))
        top = jnp.floor(jax.random.uniform(top_key, dims) * (height + 1 - side))
        left = jnp.floor(jax.random.uniform(left_key, dims) * (width + 1 - side))
        return jnp.stack([top, left, side, side], axis=-1).astype(jnp.int32)


@choice
class AnchorMosaics(Initialisation):
    """Tiles the whole images of each class with the lowest loss: decoded image d shows anchor d (``Anchors``)."""

    uses_teacher = True

    def check(self, counts: Sequence[int], ipc: int, factor: int) -> None:
        """Raise RequestError if a class has fewer images than cells."""
        if ipc * factor**2 > min(counts):
            raise RequestError(
                f"ipc {ipc} and factor {factor} need {ipc * factor**2} different images for --init, but a class has "
                f"only {min(counts)}: use a smaller --ipc or --factor, or --init mix"
            )

    def images(self, net: Net, model: Model, data: RealData, ipc: int, factor: int, key: Array) -> Array:
        """Return float32 [C, I, H, W, c] in [0, 1]."""
        rows = jnp.take_along_axis(data.index, surest_images(net, model, data, ipc * factor**2), axis=1)
        return jax.lax.map(lambda rows: tile(as_pixels(data.images[rows]), ipc, factor), rows)


def patches(image: Array, boxes: Array, size: tuple[int, int]) -> Array:
    """Resize the ``boxes`` int32 [n, 4] of ``image`` [H, W, c] to ``size`` = (h, w), bilinear with antialiasing.

    Returns [n, h, w, c].
    """

    def one(box: Array) -> Array:
        top, left, height, width = box
        up = _weights(top, height, image.shape[0], size[0]).astype(image.dtype)
        across = _weights(left, width, image.shape[1], size[1]).astype(image.dtype)
        return jnp.einsum("ha,wb,abc->hwc", up, across, image, precision="highest")

    return jax.vmap(one)(boxes)


def losses(net: Net, model: Model, x: Array, shape: tuple[int, int, int], c: Array | int) -> Array:
    """Return the cross-entropy [n] of class ``c`` for ``x`` [n, h, w, c] in network space, zero-padded to ``shape``."""
    padding = [(side - small) for side, small in zip(shape[:2], x.shape[1:3], strict=True)]
    x = jnp.pad(x, ((0, 0), *((pad // 2, pad - pad // 2) for pad in padding), (0, 0)))
    logits = net.apply(model, x, train=False)[0].logits
    return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.full(len(x), c))


def surest(losses: Array, k: int) -> tuple[Array, Array]:
    """Return (image [k], crop [k]) of the ``k`` lowest ``losses`` [images, crops], lowest first, one crop per image."""
    best = jnp.argmin(losses, axis=1)
    image = jnp.argsort(jnp.min(losses, axis=1))[:k]
    return image, best[image]


def _weights(first: Array, length: Array, side: int, size: int) -> Array:
    """Return [size, side] weights that resize ``length`` pixels, from ``first`` on, out of ``side`` to ``size``."""
    ratio = length.astype(jnp.float32) / size
    # Each output pixel weighs its inputs by a triangle as wide as the pixels it covers, cut off at the patch edge.
    position = jnp.arange(side) - first
    centres = (jnp.arange(size, dtype=jnp.float32)[:, None] + 0.5) * ratio
    distance = jnp.abs(position.astype(jnp.float32)[None, :] + 0.5 - centres)
    inside = (position >= 0) & (position < length)
    weights = jnp.where(inside[None, :], jnp.maximum(0, 1 - distance / jnp.maximum(ratio, 1)), 0)
    return weights / jnp.sum(weights, axis=1, keepdims=True)
