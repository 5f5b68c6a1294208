"""Augmentations used only in evaluation and drawn per image: IDC's on ImageNet subsets, DC's on MNIST.

Images are [N, H, W, c] in network space, of any floating dtype. A random crop resamples the whole grid, so all shapes
are static and can be jitted, vmapped and differentiated. Drawing and applying are separate, as in ``augment.py``.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from distill_jax.augment import bilinear, hat
from distill_jax.contracts import Augmentation
from distill_jax.draws import below
from distill_jax.types import (
    Array,
    Normaliser,
    RequestError,
    Shape,
    accumulator_dtype,
    choice,
    require_at_least,
    static,
)

# ------------------------------------------------------------------ IDC on ImageNet subsets

ATTEMPTS = 10
"""number of boxes that are tried before the central one is used"""
NARROWEST, WIDEST = 3 / 4, 4 / 3
"""limits of the aspect ratio of the box, width over height"""
GREY = (0.299, 0.587, 0.114)
"""weights of red, green and blue in grey"""
ORDERS = np.asarray(list(itertools.permutations(range(3))), np.int32)
"""[6, 3]: the orders of brightness, contrast, saturation"""
EIGENVALUES = np.asarray([0.2175, 0.0188, 0.0045])
EIGENVECTORS = np.asarray([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
"""Eigenvalues and eigenvectors of the colours of ImageNet's pixels (AlexNet, section 4.1). Rows of EIGENVECTORS are
red, green, blue; its columns match EIGENVALUES."""


class PhotoDraws(NamedTuple):
    """The random numbers of one call, in [0, 1) except ``alpha``."""

    boxes: Array
    """float32 [ATTEMPTS, 2]: area and aspect ratio of each candidate box"""
    place: Array
    """float32 [2]: position of the box, row and column"""
    flip: Array
    """float32 []: mirrors the image if below one half"""
    factors: Array
    """float32 [3]: factors of brightness, contrast, saturation"""
    order: Array
    """float32 []: selects one of ``ORDERS``"""
    alpha: Array
    """float32 [3], standard normal: lighting along each eigenvector"""


@choice
class PhotoAugment(Augmentation):
    """Resized crop, mirroring, colour jitter and lighting, as IDC evaluates on ImageNet subsets (its data.py).

    Images are mapped to pixel space and back. A box of random area and aspect ratio is resized to the whole image,
    bilinearly without antialiasing, and mirrored with probability one half. Brightness, contrast and saturation, in
    random order, blend with black, with the mean grey and with the grey picture. Lighting then adds one colour along
    the principal axes of ImageNet's colours. Nothing is clamped, as in the released code. A greyscale image equals its
    grey picture, so saturation leaves it unchanged, and lighting adds nothing to it.
    """

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """mean of pixel values, one per channel; with ``std`` it defines the network space of the images"""
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    smallest: float = static(default=0.5)
    """smallest fraction of the image's area that a crop keeps"""
    jitter: float = static(default=0.4)
    """factors of brightness, contrast and saturation range from 1 - jitter to 1 + jitter"""
    lighting: float = static(default=0.1)
    """standard deviation along each principal axis, in units of its eigenvalue"""

    def validate(self) -> None:
        if len(self.mean) not in (1, 3) or len(self.std) != len(self.mean):
            raise RequestError(
                f"mean has {len(self.mean)} values and std has {len(self.std)}: give each 3, or 1 for greyscale"
            )
        if not all(map(math.isfinite, self.mean)):
            raise RequestError(f"mean is {self.mean}: give finite numbers")
        if not all(0 < value < math.inf for value in self.std):
            raise RequestError(f"std is {self.std}: its values must be above 0")
        if not 0 < self.smallest <= 1:
            raise RequestError(f"smallest is {self.smallest:g}: give a fraction of the area, above 0 and at most 1")
        if not 0 <= self.jitter <= 1:
            raise RequestError(f"jitter is {self.jitter:g}: it must be from 0 to 1")
        require_at_least(0, self, "lighting")

    def check(self, shape: Shape) -> None:
        if len(self.mean) != shape[2]:
            raise RequestError(f"mean has {len(self.mean)} values, but images have {shape[2]} channels: give as many")

    def draw(self, key: Array, n: int) -> PhotoDraws:
        """Return the random numbers of ``n`` calls: every field has a leading axis n."""
        uniform_key, normal_key = jax.random.split(key)
        boxes, place, flip, factors, order = jnp.split(
            jax.random.uniform(uniform_key, (n, 2 * ATTEMPTS + 7), jnp.float32),
            2 * ATTEMPTS + np.asarray([0, 2, 3, 6]),
            axis=1,
        )
        alpha = jax.random.normal(normal_key, (n, 3), jnp.float32)
        return PhotoDraws(boxes.reshape(n, ATTEMPTS, 2), place, flip[:, 0], factors, order[:, 0], alpha)

    def apply(self, x: Array, draws: PhotoDraws) -> Array:
        """Transform all of ``x`` [N, H, W, c] by the same numbers."""
        space = Normaliser(jnp.asarray(self.mean), jnp.asarray(self.std))
        pixels = self._crop(space.to_pixel(x), draws)
        factors = (1 - self.jitter + 2 * self.jitter * draws.factors).astype(x.dtype)
        order = jnp.asarray(ORDERS)[below(draws.order, len(ORDERS))]
        for i in range(3):
            pixels = _blend(pixels, order[i], factors)
        if x.shape[3] == 3:
            alpha = self.lighting * draws.alpha.astype(accumulator_dtype(x.dtype))
            colour = jnp.sum(jnp.asarray(EIGENVECTORS * EIGENVALUES, alpha.dtype) * alpha[None, :], axis=1)
            pixels += colour.astype(x.dtype)[None, None, None, :]
        return space.to_network(pixels)

    def box(self, height: int, width: int, draws: PhotoDraws) -> tuple[Array, Array, Array, Array]:
        """Return (top, left, height, width) of the crop, whole numbers as floats: the first candidate box that fits
        into the image, or else the central box of the nearest allowed aspect ratio."""
        area = height * width * (self.smallest + (1 - self.smallest) * draws.boxes[:, 0])
        ratio = jnp.exp(math.log(NARROWEST) + math.log(WIDEST / NARROWEST) * draws.boxes[:, 1])
        sides = jnp.round(jnp.sqrt(jnp.stack([area / ratio, area * ratio])))  # [2, ATTEMPTS]
        limits = jnp.asarray([height, width], sides.dtype)
        fits = jnp.all((sides > 0) & (sides <= limits[:, None]), axis=0)
        central = np.asarray([min(height, round(width / NARROWEST)), min(width, round(height * WIDEST))])
        size = jnp.where(jnp.any(fits), sides[:, jnp.argmax(fits)], jnp.asarray(central, sides.dtype))
        random_first = below(draws.place, 1 + limits - size).astype(size.dtype)
        first = jnp.where(jnp.any(fits), random_first, jnp.floor((limits - size) / 2))
        return first[0], first[1], size[0], size[1]

    def _crop(self, x: Array, draws: PhotoDraws) -> Array:
        """Return the box resized to the size of ``x`` [N, H, W, c], and mirrored if the draw says so."""
        height, width = x.shape[1:3]
        dtype = accumulator_dtype(x.dtype)
        top, left, rows, columns = (value.astype(dtype) for value in self.box(height, width, draws))
        down, across = _resize_weights(height, top, rows), _resize_weights(width, left, columns)
        across = jnp.where(draws.flip < 0.5, across[::-1], across)
        return jnp.einsum("hi,wj,nijc->nhwc", down.astype(x.dtype), across.astype(x.dtype), x, precision="highest")


def _resize_weights(side: int, first: Array, size: Array) -> Array:
    """Return bilinear weights [side, side] that resize ``size`` pixels, from ``first`` on, to ``side`` pixels."""
    places = jnp.arange(side, dtype=first.dtype)
    source = first + jnp.clip((places + 0.5) * (size / side) - 0.5, 0, size - 1)
    return hat(source[:, None] - places[None, :])


def _blend(x: Array, operation: Array, factors: Array) -> Array:
    """Apply brightness (0), contrast (1) or saturation (2) to pixels ``x`` [N, H, W, c]."""
    red, green, blue = GREY
    grey = x if x.shape[3] == 1 else red * x[..., :1] + green * x[..., 1:2] + blue * x[..., 2:]
    mean = jnp.mean(grey, axis=(1, 2, 3), keepdims=True)
    other = jax.lax.select_n(operation, jnp.zeros_like(grey), jnp.broadcast_to(mean, grey.shape), grey)
    factor = factors[operation]
    return factor * x + (1 - factor) * other


# ------------------------------------------------------------------ DC on MNIST


class BasicDraws(NamedTuple):
    """The random numbers of one call, float32 in [0, 1). All are drawn, although one operation is applied."""

    choice: Array
    """[]: selects crop, scale or rotate, a third each"""
    shift: Array
    """[2]: shift of crop, rows and columns"""
    zoom: Array
    """[2]: factors of scale, rows and columns"""
    angle: Array
    """[]: angle of rotate"""


@choice
class BasicAugment(Augmentation):
    """Applies ONE of crop, scale and rotate, drawn per image, as DC evaluates on MNIST (its utils.py).

    Pixels outside the image are filled with the image's channel means. Crop shifts by whole pixels. Scale resizes both
    sides to whole numbers of pixels and centres the result, padded or cut off. Rotate rotates about the centre. All
    three read the image bilinearly at other positions, because sizes cannot be random in JAX. For scale this equals a
    resize.

    The released code differs: it fills with the means of the whole batch (in rotate, with their mean over channels; in
    scale, with zeros), resizes to the nearest pixel, and rotates by whole degrees, with cubic splines and up to half a
    pixel off the centre.
    """

    crop: int = 4
    """maximum shift in pixels; a crop shifts by -crop to crop - 1, as in the released code"""
    scale: float = static(default=0.2)
    """each side is multiplied by 1 - scale to 1 + scale"""
    rotate: float = static(default=45.0)
    """maximum angle in degrees, in both directions"""

    def validate(self) -> None:
        if self.crop < 0:
            raise RequestError(f"crop is {self.crop}: it must be 0 pixels or more")
        if not 0 <= self.scale < 1:
            raise RequestError(f"scale is {self.scale:g}: it must be from 0 to below 1")
        if not 0 <= self.rotate <= 180:
            raise RequestError(f"rotate is {self.rotate:g}: it must be from 0 to 180 degrees")

    def draw(self, key: Array, n: int) -> BasicDraws:
        """Return the random numbers of ``n`` calls: every field has a leading axis n."""
        u = jax.random.uniform(key, (n, 6), jnp.float32)
        return BasicDraws(u[:, 0], u[:, 1:3], u[:, 3:5], u[:, 5])

    def apply(self, x: Array, draws: BasicDraws) -> Array:
        """Transform all of ``x`` [N, H, W, c] by the same numbers."""
        dtype, shape = accumulator_dtype(x.dtype), x.shape[1:3]
        draws = BasicDraws(*(u.astype(dtype) for u in draws))
        grids = [self._shift(shape, draws.shift), self._zoom(shape, draws.zoom), self._rotate(shape, draws.angle)]
        # One look-up serves the chosen operation: under vmap a switch would compute all three.
        row, column = (
            jax.lax.select_n(below(draws.choice, 3), *(jnp.broadcast_to(places, shape) for places in axis))
            for axis in zip(*grids, strict=True)
        )
        level = jnp.mean(x, axis=(1, 2), keepdims=True)
        return bilinear(x - level, row, column) + level

    # Each method returns (row, column), each [H or 1, W or 1]: the position in the image that every pixel is read from.

    def _shift(self, shape: tuple[int, ...], u: Array) -> tuple[Array, Array]:
        shift = (below(u, 2 * self.crop) - self.crop).astype(u.dtype)
        rows, columns = (jnp.arange(side, dtype=u.dtype) + shift[a] for a, side in enumerate(shape))
        return rows[:, None], columns[None, :]

    def _zoom(self, shape: tuple[int, ...], u: Array) -> tuple[Array, Array]:
        sides = jnp.asarray(shape, u.dtype)
        sizes = jnp.maximum(jnp.floor((1 - self.scale + 2 * self.scale * u) * sides), 1)
        # Both are centred on a square canvas that holds both, and the image is cut out of the canvas.
        canvas = jnp.maximum(jnp.max(sizes), jnp.max(sides))
        places = []
        for a, side in enumerate(shape):
            at = jnp.arange(side, dtype=u.dtype) + jnp.floor((canvas - side) / 2) - jnp.floor((canvas - sizes[a]) / 2)
            source = jnp.clip((at + 0.5) * (side / sizes[a]) - 0.5, 0, side - 1)
            # A position two pixels outside the image has no neighbour inside.
            places.append(jnp.where((at >= 0) & (at < sizes[a]), source, -2))
        return places[0][:, None], places[1][None, :]

    def _rotate(self, shape: tuple[int, ...], u: Array) -> tuple[Array, Array]:
        angle = (2 * u - 1) * (self.rotate * math.pi / 180)
        middle = [(side - 1) / 2 for side in shape]
        down, across = (jnp.arange(side, dtype=u.dtype) - centre for side, centre in zip(shape, middle, strict=True))
        down, across = down[:, None], across[None, :]
        row = jnp.cos(angle) * down + jnp.sin(angle) * across + middle[0]
        return row, jnp.cos(angle) * across - jnp.sin(angle) * down + middle[1]
