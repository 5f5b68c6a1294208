"""The parameterisation axis: how stored images become what networks see, and how they are saved."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from distill_jax.contracts import Parameterisation
from distill_jax.types import Array, RealData, RequestError, Shape, Synthetic, TrainSet, choice, require_at_least


@choice
class Pixels(Parameterisation):
    """Every stored image is one image."""

    space: str = "pixel"
    """'pixel' or 'normalised' (DC, DSA, DM, CAFE, MTT)"""

    def validate(self) -> None:
        _check_space(self.space)


@choice
class MultiFormation(Parameterisation):
    """Every stored image is a grid of factor x factor small ones, upsampled when shown (IDC)."""

    factor: int = 2
    decode_type: str = "single"
    """'single': cut every image; 'multi': with every factor from 1 to ``factor``; 'bound': as ``bound`` allows"""
    bound: int = 128
    """most decoded images per class with 'bound': the first images are cut with ``factor``, the last perhaps not"""
    space: str = "pixel"
    """'pixel' or 'normalised'"""

    def validate(self) -> None:
        _check_space(self.space)
        if self.decode_type not in ("single", "multi", "bound"):
            raise RequestError(f"decode_type is {self.decode_type!r}: it must be 'single', 'multi' or 'bound'")
        require_at_least(1, self, "factor", "bound")

    def check(self, shape: Shape) -> None:
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


# ------------------------------------------------------------------ as networks see them, and as they are saved


def as_network(parameterisation: Parameterisation, images: Array, data: RealData) -> Array:
    """Decoded images [..., c] in the parameterisation's space -> network space."""
    return data.normaliser.to_network(images) if parameterisation.space == "pixel" else images


def targets(classes: int, decoded: int, logits: Array | None = None) -> Array:
    """float32 [C*D, C]: what decoded images are trained towards: one-hot classes, or learned ``logits`` [C, D, C]."""
    if logits is not None:
        return jax.nn.softmax(logits).reshape(-1, classes)
    return jax.nn.one_hot(jnp.repeat(jnp.arange(classes), decoded), classes)


def decoded_set(parameterisation: Parameterisation, synthetic: Synthetic, data: RealData) -> TrainSet:
    """The synthetic set as a network is trained on it: [C*D, H, W, c], class-major."""
    x = as_network(parameterisation, jax.vmap(parameterisation.decode)(synthetic.images), data)
    return TrainSet(x.reshape(-1, *x.shape[2:]), targets(x.shape[0], x.shape[1], synthetic.labels))


def stored(parameterisation: Parameterisation, images: Array) -> Array:
    """Images as an outer iteration starts with them and as they are saved: pixels are clamped, network space is not."""
    return jnp.clip(images, 0.0, 1.0) if parameterisation.space == "pixel" else images
