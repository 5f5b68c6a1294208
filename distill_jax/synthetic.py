"""The synthetic images: how they are stored and shown, where they start, and how one step moves them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from distill_jax.types import Array, Model, Net, Parameterisation, RealData, RequestError, TrainSet

# ------------------------------------------------------------------ spaces


def to_network(images: Array, mean: Array, std: Array) -> Array:
    """Pixel to network space. ``images`` [..., c] floating in [0, 1], or uint8 from 0 to 255; ``mean``, ``std`` [c]."""
    pixels = _pixels(images)
    return (pixels - _per_channel(mean, pixels)) / _per_channel(std, pixels)


def to_pixel(x: Array, mean: Array, std: Array) -> Array:
    """Network to pixel space, not clipped. ``x`` [..., c] floating; ``mean`` and ``std`` [c], of pixel values."""
    return x * _per_channel(std, x) + _per_channel(mean, x)


def _pixels(images: Array) -> Array:
    return images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images


def _per_channel(statistic: Array, like: Array) -> Array:
    return statistic.astype(like.dtype).reshape((1,) * (like.ndim - 1) + (-1,))


# ------------------------------------------------------------------ the parameterisation axis


@dataclass(frozen=True)
class Pixels:
    """Every stored image is one image."""

    space: str = "pixel"
    """'pixel' or 'normalised' (DC, DSA, DM, CAFE, MTT)"""

    def __post_init__(self) -> None:
        _check_space(self.space)

    @property
    def factor(self) -> int:
        return 1

    def check(self, shape: tuple[int, int, int]) -> None:
        """Any image fits."""

    def decoded(self, ipc: int) -> int:
        """D = I."""
        return ipc

    def decode(self, images: Array) -> Array:
        """The identity."""
        return images


@dataclass(frozen=True)
class MultiFormation:
    """Every stored image is a grid of factor x factor small ones, upsampled when shown (IDC; golden section 5)."""

    factor: int = 2
    decode_type: str = "single"
    """'single': cut every image; 'multi': with every factor from 1 to ``factor``; 'bound': as ``bound`` allows"""
    bound: int = 128
    """most decoded images per class with 'bound': the first images are cut with ``factor``, the last perhaps not"""
    space: str = "pixel"
    """'pixel' or 'normalised'"""

    def __post_init__(self) -> None:
        _check_space(self.space)
        if self.decode_type not in ("single", "multi", "bound"):
            raise RequestError(f"decode_type is {self.decode_type!r}: it must be 'single', 'multi' or 'bound'")
        for name in ("factor", "bound"):
            if getattr(self, name) < 1:
                raise RequestError(f"{name} is {getattr(self, name)}: it must be at least 1")

    def check(self, shape: tuple[int, int, int]) -> None:
        """Raises RequestError where images of ``shape`` (H, W, c) leave cells under 4 pixels."""
        side = min(shape[:2])
        if self.factor > 1 and side // self.factor < 4:
            raise RequestError(
                f"factor {self.factor} leaves cells under 4 pixels on a side of {side}: use {max(1, side // 4)} or less"
            )

    def decoded(self, ipc: int) -> int:
        """D for I = ``ipc``."""
        return sum(factor**2 * (end - first) for factor, first, end in self._plan(ipc))

    def decode(self, images: Array) -> Array:
        """[I, H, W, c] -> [D, H, W, c] of one class, differentiable; cell by cell, each cell of all images in turn."""
        return jnp.concatenate([_cells(images[first:end], factor) for factor, first, end in self._plan(len(images))])

    def _plan(self, ipc: int) -> list[tuple[int, int, int]]:
        """(factor, first, end): which stored images are cut with which factor, in order."""
        if self.decode_type == "single":
            return [(self.factor, 0, ipc)]
        if self.decode_type == "multi":
            return [(factor, 0, ipc) for factor in range(1, self.factor + 1)]
        plan, first, spare = [], 0, max(0, self.bound - ipc)
        for factor in range(self.factor, 0, -1):
            # Each image to come has a place kept; ``spare`` are the others. An image that is cut needs factor**2 - 1 of
            # them, but the released rule asks for factor**2, so the bound is seldom reached.
            cut = ipc - first if factor == 1 else min(spare // factor**2, ipc - first)
            if cut:
                plan.append((factor, first, first + cut))
            first, spare = first + cut, spare - cut * (factor**2 - 1)
        return plan


def _check_space(space: str) -> None:
    if space not in ("pixel", "normalised"):
        raise RequestError(f"space is {space!r}: it must be 'pixel' or 'normalised'")


def _cells(images: Array, factor: int) -> Array:
    """The cells of ``images`` [n, H, W, c], row by row, upsampled to [factor**2 * n, H, W, c]."""
    n, height, width, channels = images.shape
    if factor == 1:
        return images
    rows, columns = -(-height // factor), -(-width // factor)
    # Grey where the sides do not divide: the released code pads with 0.5 on the right and at the bottom only.
    missing = ((0, 0), (0, rows * factor - height), (0, columns * factor - width), (0, 0))
    grid = jnp.pad(images, missing, constant_values=0.5).reshape(n, factor, rows, factor, columns, channels)
    up, across = (jnp.asarray(_bilinear(*sides), images.dtype) for sides in ((rows, height), (columns, width)))
    shown = jnp.einsum("ha,wb,niajbc->ijnhwc", up, across, grid, precision="highest")
    return shown.reshape(-1, height, width, channels)


def _bilinear(small: int, large: int) -> np.ndarray:
    """[large, small]: weights of bilinear upsampling, half-pixel centres, edges repeated."""
    source = np.clip((np.arange(large) + 0.5) * small / large - 0.5, 0, small - 1)
    return np.maximum(0, 1 - np.abs(source[:, None] - np.arange(small)))


# ------------------------------------------------------------------ the initialisation axis


@dataclass(frozen=True)
class RandomReal:
    """Random real images of the class, distinct while they last."""

    def images(self, net: Net, model: Model, data: RealData, ipc: int, factor: int, key: Array) -> Array:
        """float32 [C, I, H, W, c] in [0, 1]."""
        return _pixels(data.images[_rows(data, draw_distinct(key, data, ipc))])


@dataclass(frozen=True)
class Mix:
    """factor**2 real images of the class, shrunk into the cells of each stored image (IDC; golden section 5)."""

    order: str = "random"
    """'random': distinct while they last; 'first': the first ones of the class, as the released codes do"""

    def __post_init__(self) -> None:
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
        return _pixels(jax.lax.map(lambda rows: tile(data.images[rows], ipc, factor), _rows(data, positions)))


@dataclass(frozen=True)
class Noise:
    """Standard normal in network space (DC, CAFE)."""

    def images(self, net: Net, model: Model, data: RealData, ipc: int, factor: int, key: Array) -> Array:
        """float32 [C, I, H, W, c] in pixel space, that is mean + std * normal, not clipped to [0, 1]."""
        shape = (data.classes, ipc, *data.images.shape[1:])
        # Drawn flat, which gives the same numbers: XLA:CPU takes ten times as long to compile a draw of five axes.
        noise = jax.random.normal(key, (math.prod(shape),), jnp.float32).reshape(shape)
        return to_pixel(noise, data.mean, data.std)


def tile(images: Array, ipc: int, factor: int) -> Array:
    """Shrink ``images`` [ipc * factor**2, H, W, c] into the cells of [ipc, H, W, c], any dtype.

    Cell k, counted row by row, of stored image i shows image k * ipc + i, resized to the nearest pixel up or left.
    """
    (down, row), (right, column) = (_grid(side, factor) for side in images.shape[1:3])
    cells = images.reshape(factor, factor, ipc, *images.shape[1:])
    canvas = cells[down[:, None], right[None, :], :, row[:, None], column[None, :]]
    return jnp.moveaxis(canvas, 2, 0)


def _grid(side: int, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """For each of ``side`` canvas pixels: its cell, and the source pixel it shows. The first cells are the larger."""
    sizes = [side // factor + (cell < side % factor) for cell in range(factor)]
    return np.repeat(np.arange(factor), sizes), np.concatenate([np.arange(size) * side // size for size in sizes])


def draw_distinct(key: Array, data: RealData, n: int) -> Array:
    """int32 [C, n]: random positions within each class, distinct while they last, then the same ones again."""
    shape = data.index.shape
    ranks = jnp.arange(shape[1], dtype=jnp.int32)[None, :]
    scores = jnp.where(ranks < data.counts[:, None], jax.random.uniform(key, shape, jnp.float32), jnp.inf)
    order = jnp.argsort(scores, axis=1).astype(jnp.int32)
    turns = jnp.arange(n, dtype=jnp.int32)[None, :] % data.counts[:, None]
    return jnp.take_along_axis(order, turns, axis=1)


def _rows(data: RealData, positions: Array) -> Array:
    """Positions within each class [C, n] -> rows of ``data.images``."""
    return jnp.take_along_axis(data.index, positions, axis=1)


# ------------------------------------------------------------------ as networks see them, and as they are saved


def as_network(parameterisation: Parameterisation, images: Array, data: RealData) -> Array:
    """Decoded images [..., c] in the parameterisation's space -> network space."""
    return to_network(images, data.mean, data.std) if parameterisation.space == "pixel" else images


def decoded_set(parameterisation: Parameterisation, images: Array, data: RealData) -> TrainSet:
    """Stored images [C, I, H, W, c] as a network is trained on them: [C*D, H, W, c], class-major."""
    x = as_network(parameterisation, jax.vmap(parameterisation.decode)(images), data)
    labels = jnp.repeat(jnp.arange(x.shape[0]), x.shape[1])
    return TrainSet(x.reshape(-1, *x.shape[2:]), jax.nn.one_hot(labels, x.shape[0]))


def stored(parameterisation: Parameterisation, images: Array) -> Array:
    """Images as an outer iteration starts with them and as they are saved: pixels are clamped, network space is not."""
    return jnp.clip(images, 0.0, 1.0) if parameterisation.space == "pixel" else images


# ------------------------------------------------------------------ the image optimiser


class ImageOptimiser(NamedTuple):
    """One step on the images [C, I, H, W, c] of all classes; the gradient is due between ``before`` and ``after``.

    The state is the momentum, shaped like the images. Images may be clamped between ``after`` and the next ``before``,
    as each outer iteration does.
    """

    init: Callable[[Array], Array]
    """images -> state"""
    before: Callable[[Array, Array], tuple[Array, Array]]
    """(images, state) -> (the images at which each class takes its gradient, state)"""
    after: Callable[[Array, Array, Array], tuple[Array, Array]]
    """(gradients, images, state) -> (images, state) at the end of the step"""


def class_turns(learning_rate: float | Array, momentum: float | Array, turns: str = "sequential") -> ImageOptimiser:
    """SGD with momentum as the released codes step, vectorised over classes (golden section 4).

    ``turns='sequential'``: classes take turns, and every turn is a step on all images, with gradient zero for the other
    classes, so momentum moves class c on during the c turns before its own and the C - 1 - c after it. Classes do not
    interact, hence this form is exact. ``turns='joint'``: all classes in one plain step.
    ``learning_rate`` and ``momentum`` may be traced scalars.
    """
    if turns not in ("sequential", "joint"):
        raise RequestError(f"turns is {turns!r}: it must be 'sequential' or 'joint'")

    def idle(images: Array, state: Array, others: Array) -> tuple[Array, Array]:
        # k turns without a gradient: m <- mu^k m, and x has moved by -lr (mu + mu^2 + ... + mu^k) m.
        powers = jnp.asarray(momentum, images.dtype) ** jnp.arange(len(images), dtype=images.dtype)
        decay, drift = (series[others][:, None, None, None, None] for series in (powers, jnp.cumsum(powers) - 1))
        return images - jnp.asarray(learning_rate, images.dtype) * drift * state, decay * state

    def before(images: Array, state: Array) -> tuple[Array, Array]:
        return idle(images, state, jnp.arange(len(images))) if turns == "sequential" else (images, state)

    def after(gradients: Array, images: Array, state: Array) -> tuple[Array, Array]:
        state = jnp.asarray(momentum, images.dtype) * state + gradients
        images = images - jnp.asarray(learning_rate, images.dtype) * state
        return idle(images, state, jnp.arange(len(images))[::-1]) if turns == "sequential" else (images, state)

    return ImageOptimiser(jnp.zeros_like, before, after)
