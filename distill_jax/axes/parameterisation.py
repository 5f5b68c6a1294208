"""The parameterisation axis: how stored images are decoded for networks, and how they are saved."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from distill_jax.contracts import Parameterisation
from distill_jax.types import Array, RealData, RequestError, Shape, Synthetic, TrainSet, choice, require_at_least


@choice
class Pixels(Parameterisation):
    """Stores each image as it is."""

    space: str = "pixel"
    """'pixel' or 'normalised' (DC, DSA, DM, CAFE, MTT)"""

    def validate(self) -> None:
        _check_space(self.space)


@choice
class MultiFormation(Parameterisation):
    """Stores a factor x factor grid of small images in each image and upsamples them when decoding (IDC)."""

    factor: int = 2
    decode_type: str = "single"
    """'single': split each image by ``factor``; 'multi': by every factor up to ``factor``; 'bound': see ``bound``"""
    bound: int = 128
    """most decoded images per class with 'bound': the first images are split by ``factor``, later ones by less"""
    space: str = "pixel"
    """'pixel' or 'normalised'"""

    def validate(self) -> None:
        _check_space(self.space)
        if self.decode_type not in ("single", "multi", "bound"):
            raise RequestError(f"decode_type is {self.decode_type!r}: it must be 'single', 'multi' or 'bound'")
        require_at_least(1, self, "factor", "bound")

    def check(self, shape: Shape) -> None:
        """Raise RequestError if images of ``shape`` (H, W, c) leave cells under 4 pixels."""
        side = min(shape[:2])
        if self.factor > 1 and side // self.factor < 4:
            most = side // 4
            mend = f"use --factor {most} or less" if most > 1 else "use --factor 1"
            raise RequestError(f"factor {self.factor} leaves cells under 4 pixels on a side of {side}: {mend}")

    def decoded(self, ipc: int) -> int:
        """Return D for I = ``ipc``."""
        return sum(factor**2 * (end - first) for factor, first, end in self._plan(ipc))

    def decode(self, images: Array) -> Array:
        """Decode one class from [I, H, W, c] to [D, H, W, c], differentiably, ordered by cell and then by image."""
        return jnp.concatenate([_cells(images[first:end], factor) for factor, first, end in self._plan(len(images))])

    def _plan(self, ipc: int) -> list[tuple[int, int, int]]:
        """Return (factor, first, end) for each range of stored images: the range is split with that factor."""
        if self.decode_type == "single":
            return [(self.factor, 0, ipc)]
        if self.decode_type == "multi":
            return [(factor, 0, ipc) for factor in range(1, self.factor + 1)]
        plan, first, spare = [], 0, max(0, self.bound - ipc)
        for factor in range(self.factor, 0, -1):
            # Each remaining image reserves one place; ``spare`` counts the other places. Splitting an image needs
            # factor**2 - 1 spare places, but the released rule requires factor**2, so the bound is seldom reached.
            split = ipc - first if factor == 1 else min(spare // factor**2, ipc - first)
            if split:
                plan.append((factor, first, first + split))
            first, spare = first + split, spare - split * (factor**2 - 1)
        return plan


def _check_space(space: str) -> None:
    if space not in ("pixel", "normalised"):
        raise RequestError(f"space is {space!r}: it must be 'pixel' or 'normalised'")


def _cells(images: Array, factor: int) -> Array:
    """Return the cells of ``images`` [n, H, W, c], row by row, upsampled to [factor**2 * n, H, W, c]."""
    n, height, width, channels = images.shape
    if factor == 1:
        return images
    rows, columns = -(-height // factor), -(-width // factor)
    # If factor does not divide a side, pad with grey: the released code pads with 0.5, at the right and bottom only.
    padding = ((0, 0), (0, rows * factor - height), (0, columns * factor - width), (0, 0))
    grid = jnp.pad(images, padding, constant_values=0.5).reshape(n, factor, rows, factor, columns, channels)
    up, across = (jnp.asarray(_bilinear(*sides), images.dtype) for sides in ((rows, height), (columns, width)))
    decoded = jnp.einsum("ha,wb,niajbc->ijnhwc", up, across, grid, precision="highest")
    return decoded.reshape(-1, height, width, channels)


def _bilinear(small: int, large: int) -> np.ndarray:
    """Return [large, small] weights of bilinear upsampling, with half-pixel centres and repeated edges."""
    source = np.clip((np.arange(large) + 0.5) * small / large - 0.5, 0, small - 1)
    return np.maximum(0, 1 - np.abs(source[:, None] - np.arange(small)))


# ------------------------------------------------------------------ images for networks and images for saving


def as_network(parameterisation: Parameterisation, images: Array, data: RealData) -> Array:
    """Convert decoded images [..., c] from the parameterisation's space to network space."""
    return data.normaliser.to_network(images) if parameterisation.space == "pixel" else images


def class_major(images: Array, logits: Array | None = None) -> TrainSet:
    """Return ``images`` [C, D, H, W, c] as a set that is sorted by class, with one-hot targets, or with the class
    probabilities of learned ``logits`` [C, D, C]."""
    classes, decoded = images.shape[:2]
    if logits is None:
        targets = jax.nn.one_hot(jnp.repeat(jnp.arange(classes), decoded), classes)
    else:
        targets = jax.nn.softmax(logits).reshape(-1, classes)
    return TrainSet(images.reshape(-1, *images.shape[2:]), targets)


def decoded_set(parameterisation: Parameterisation, synthetic: Synthetic, data: RealData) -> TrainSet:
    """Return the synthetic set that a network trains on: images [C*D, H, W, c], sorted by class."""
    x = as_network(parameterisation, jax.vmap(parameterisation.decode)(synthetic.images), data)
    return class_major(x, synthetic.labels)


def unbounded(parameterisation: Parameterisation) -> Parameterisation:
    """Return the parameterisation that networks train on after the run. The bound of 'bound' saves time in matching
    only: in IDC's own evaluation too, networks train on all cells."""
    if type(parameterisation) is MultiFormation and parameterisation.decode_type == "bound":
        return replace(parameterisation, decode_type="single")
    return parameterisation


def final_set(parameterisation: Parameterisation, synthetic: Synthetic, data: RealData) -> TrainSet:
    """Return the synthetic set as a run saves it and networks train on it, with hard or learned labels: images
    [C*D, H, W, c], sorted by class."""
    images = stored(parameterisation, synthetic.images)
    return decoded_set(unbounded(parameterisation), synthetic._replace(images=images), data)


def stored(parameterisation: Parameterisation, images: Array) -> Array:
    """Return the images that an outer iteration starts with and a run saves: clamped to [0, 1] in pixel space."""
    return jnp.clip(images, 0.0, 1.0) if parameterisation.space == "pixel" else images
