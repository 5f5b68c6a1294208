"""Differentiable augmentation in network space, siamese or per image, and cutmix.

An operation is a pure function of images [N, H, W, c], of any floating dtype, and of ``u`` [2], random numbers in
[0, 1) that set its strength; an operation that needs one number uses the first. All operations are affine in the images
and have static shapes, so they can be jitted, vmapped and differentiated any number of times. Zero fill is the mean
colour, because images are normalised. The ranges are those of the released codes.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from distill_jax import tree
from distill_jax.contracts import Augmentation
from distill_jax.draws import below, sorting_order, uniform
from distill_jax.platform import target
from distill_jax.types import Array, RequestError, accumulator_dtype, choice

# ------------------------------------------------------------------ operations: (x [N, H, W, c], u [2]) -> like x


def brightness(x: Array, u: Array) -> Array:
    """Add a number from -0.5 to 0.5 to every value."""
    return x + (u[0].astype(x.dtype) - 0.5)


def saturation(x: Array, u: Array) -> Array:
    """Scale by a factor from 0 to 2 about each pixel's mean over channels."""
    factor, channels = 2.0 * u[0].astype(x.dtype), x.shape[3]
    # Sum slice by slice: on a CPU a reduction over an axis this short takes ten times as long.
    grey = sum((x[..., i : i + 1] for i in range(1, channels)), x[..., :1]) / channels
    return x * factor + grey * (1 - factor)


def contrast(x: Array, u: Array) -> Array:
    """Scale by a factor from 0.5 to 1.5 about each image's mean."""
    factor, level = u[0].astype(x.dtype) + 0.5, jnp.mean(x, axis=(1, 2, 3), keepdims=True)
    return x * factor + level * (1 - factor)


def flip(x: Array, u: Array) -> Array:
    """Mirror left and right if ``u`` is below one half."""
    return jnp.where(u[0] < 0.5, x[:, :, ::-1], x)


def crop(x: Array, u: Array) -> Array:
    """Shift rows and columns by up to an eighth of the side: pad with zeros and cut out."""
    return _shift(_shift(x, 1, u[0]), 2, u[1])


def translate(x: Array, u: Array) -> Array:
    """Shift columns only. No published default uses this operation."""
    return _shift(x, 2, u[0])


def cutout(x: Array, u: Array) -> Array:
    """Zero a box of half the side at a random centre, clipped to the image."""
    sizes = [(side + 1) // 2 for side in x.shape[1:3]]
    # The centre of a box with an even side lies between two pixels and has one more possible position.
    centre = below(u, [side + 1 - size % 2 for side, size in zip(x.shape[1:3], sizes, strict=True)])
    first = centre - jnp.asarray(sizes, jnp.int32) // 2
    return jnp.where(_in_box(x, first, first + jnp.asarray(sizes, jnp.int32)), jnp.zeros_like(x), x)


def scale(x: Array, u: Array) -> Array:
    """Zoom columns and rows bilinearly, each by a factor from 1 / 1.2 to 1.2; above 1 shrinks the picture."""
    matrices = []
    for share, side in zip(u, (x.shape[2], x.shape[1]), strict=True):
        centres = _centres(side, x.dtype)
        source = _to_index((share.astype(centres.dtype) * (1.2 - 1 / 1.2) + 1 / 1.2) * centres, side)
        matrices.append(hat(source[:, None] - jnp.arange(side, dtype=source.dtype)[None, :]).astype(x.dtype))
    # The zoom is separable: two small products, whose derivatives are products; that of a gather would be a scatter.
    return jnp.einsum("wj,hi,nijc->nhwc", *matrices, x, precision="highest")


def rotate(x: Array, u: Array) -> Array:
    """Rotate bilinearly about the centre by -15 to 15 degrees."""
    height, width = x.shape[1:3]
    across, down = _centres(width, x.dtype)[None, :], _centres(height, x.dtype)[:, None]
    angle = (u[0].astype(across.dtype) - 0.5) * (2 * 15 / 180 * math.pi)
    column = _to_index(jnp.cos(angle) * across - jnp.sin(angle) * down, width)
    row = _to_index(jnp.sin(angle) * across + jnp.cos(angle) * down, height)
    return bilinear(x, row, column)


def bilinear(x: Array, row: Array, column: Array) -> Array:
    """Read ``x`` [N, H, W, c] at fractional pixel indices ``row`` and ``column`` [H, W]; it is 0 outside the image."""
    n, height, width, channels = x.shape
    flat, out = x.reshape(n, height * width, channels), jnp.zeros_like(x)
    for i in (jnp.floor(row), jnp.floor(row) + 1):
        for j in (jnp.floor(column), jnp.floor(column) + 1):
            within = (i >= 0) & (i < height) & (j >= 0) & (j < width)
            weight = jnp.where(within, hat(row - i) * hat(column - j), 0.0).astype(x.dtype)
            neighbour = jnp.take(flat, (i * width + j).astype(jnp.int32), axis=1, mode="clip")
            out += weight[None, :, :, None] * neighbour
    return out


def _shift(x: Array, axis: int, u: Array) -> Array:
    """Return out[i] = x[i + t] along ``axis``, zero outside, with |t| at most an eighth of the side."""
    side = x.shape[axis]
    limit = int(side / 8 + 0.5)
    start = below(u, 2 * limit + 1)
    if target() != "tpu":
        padded = jnp.pad(x, [(limit, limit) if a == axis else (0, 0) for a in range(4)])
        return jax.lax.dynamic_slice_in_dim(padded, start, side, axis)
    # A TPU slices an image at a time if each has its own start, so shift by one power of two after the other.
    powers = [2**k for k in range((2 * limit).bit_length())]
    x = jnp.pad(x, [(limit, sum(powers) - limit) if a == axis else (0, 0) for a in range(4)])
    for power in powers:
        moved, stays = (jax.lax.slice_in_dim(x, at, at + x.shape[axis] - power, axis=axis) for at in (power, 0))
        x = jnp.where(start & power > 0, moved, stays)
    return x


def _in_box(x: Array, first: Array, end: Array) -> Array:
    """Return whether each pixel lies from ``first`` to before ``end``, int32 [2] (row, column): bool [1, H, W, 1]."""
    at = [jnp.arange(side, dtype=jnp.int32) for side in x.shape[1:3]]
    rows, columns = ((at[a] >= first[a]) & (at[a] < end[a]) for a in (0, 1))
    return (rows[:, None] & columns[None, :])[None, :, :, None]


def _centres(side: int, dtype: jnp.dtype) -> Array:
    """Return the pixel centres [side] on an axis that spans -1 to 1 from edge to edge. If it spanned centre to centre,
    as with PyTorch's ``align_corners`` (which MTT sets), square images would be zoomed and rotated in the same way."""
    return jnp.asarray((2 * np.arange(side) + 1) / side - 1, accumulator_dtype(dtype))


def _to_index(position: Array, side: int) -> Array:
    """Convert positions on the axis from -1 to 1 to fractional pixel indices."""
    return ((position + 1) * side - 1) / 2


def hat(distance: Array) -> Array:
    """Return the bilinear weight of a neighbour at ``distance`` pixels."""
    return jnp.maximum(0.0, 1.0 - jnp.abs(distance))


# ------------------------------------------------------------------ the augmentation axis

MEMBERS: dict[str, tuple[Callable[[Array, Array], Array], ...]] = {
    "color": (brightness, saturation, contrast),
    "crop": (crop,),
    "cutout": (cutout,),
    "flip": (flip,),
    "scale": (scale,),
    "rotate": (rotate,),
    "translate": (translate,),
}
"""Members that a strategy may name, and the operations of each, in order."""


@choice
class NoAugment(Augmentation):
    """Leaves images unchanged."""

    def draw(self, key: Array, n: int) -> tuple[()]:
        return ()

    def apply(self, x: Array, draws: tuple[()]) -> Array:
        return x


class Draws(NamedTuple):
    """The random numbers of one call."""

    choice: Array
    """float32 [] in [0, 1): selects one of the alternatives of a stage"""
    u: dict[str, Array]
    """for each member, float32 [number of operations, 2] in [0, 1); drawn for every member, applied or not"""


@choice
class Siamese(Augmentation):
    """Differentiable siamese augmentation (DSA section 3.2).

    The random numbers depend on the key alone: one key transforms real and synthetic images identically, in one
    concatenated call or in two calls.
    """

    strategy: str = "color_crop_cutout"
    """members joined by ``_``: color, crop, cutout, flip, scale, rotate, translate; empty for the identity"""
    choose: str = "one-geometric"
    """'one-geometric': flip, color, then ONE of the others, then cutout (IDC, Acc-DD); 'one': ONE member (DSA)"""

    def validate(self) -> None:
        for member in self.members:
            if member not in MEMBERS:
                nearest = difflib.get_close_matches(member, MEMBERS, n=1, cutoff=0.4)
                advice = f"did you mean {nearest[0]!r}? Choose from" if nearest else "choose from"
                raise RequestError(f"strategy names {member!r}, which does not exist: {advice} {', '.join(MEMBERS)}")
        if len(set(self.members)) < len(self.members):
            raise RequestError(f"strategy {self.strategy!r} names a member twice: name each once")
        if self.choose not in ("one-geometric", "one"):
            raise RequestError(f"choose is {self.choose!r}: it must be 'one-geometric' or 'one'")

    @property
    def members(self) -> tuple[str, ...]:
        return tuple(self.strategy.split("_")) if self.strategy else ()

    @property
    def stages(self) -> tuple[tuple[str, ...], ...]:
        """Return the stages, applied in order: each applies one of its members. At most one stage has several."""
        if self.choose == "one":
            return (self.members,) if self.members else ()
        others = tuple(m for m in self.members if m not in ("flip", "color", "cutout"))
        stages = (("flip",), ("color",), others, ("cutout",))
        return tuple(stage for stage in stages if stage and set(stage) <= set(self.members))

    def without(self, member: str) -> Siamese:
        """Return this strategy without ``member``, e.g. no flip on digits and no cutout together with cutmix."""
        return replace(self, strategy="_".join(m for m in self.members if m != member))

    def __call__(self, key: Array, x: Array) -> Array:
        choice, u = self.draw(key, 1)
        return self.apply(x, Draws(choice, tree.take(u, 0)))

    def apply_each(self, x: Array, draws: Draws) -> Array:
        """Transform each image of ``x`` [N, H, W, c] by its own numbers; all share the choice of members."""
        return jax.vmap(lambda image, u: self.apply(image[None], draws._replace(u=u))[0])(x, draws.u)

    def draw(self, key: Array, n: int) -> Draws:
        """Return the random numbers of ``n`` calls that share one choice: ``u`` has a leading axis n."""
        return tree.take(self.draw_batches(key, 1, n), 0)

    def draw_batches(self, key: Array, batches: int, n: int) -> Draws:
        """Return the random numbers of ``batches`` batches, each with its own choice: ``choice`` is [batches], and
        ``u`` has leading axes [batches, n]."""
        ends = np.cumsum([0, *(len(MEMBERS[member]) for member in self.members)])
        numbers = jax.random.uniform(key, (batches * (1 + n * ends[-1] * 2),), jnp.float32).reshape(batches, -1)
        rows = numbers[:, 1:].reshape(batches, n, ends[-1], 2)
        u = {member: rows[:, :, ends[i] : ends[i + 1]] for i, member in enumerate(self.members)}
        return Draws(numbers[:, 0], u)

    def apply(self, x: Array, draws: Draws) -> Array:
        """Transform all of ``x`` [N, H, W, c] by the same numbers."""
        for stage in self.stages:
            branches = [partial(_apply_member, member) for member in stage]
            if len(branches) == 1:
                x = branches[0](x, draws.u)
            else:
                x = jax.lax.switch(below(draws.choice, len(branches)), branches, x, draws.u)
        return x


def _apply_member(member: str, x: Array, u: dict[str, Array]) -> Array:
    for operation, numbers in zip(MEMBERS[member], u[member], strict=True):
        x = operation(x, numbers)
    return x


# ------------------------------------------------------------------ cutmix


class Patch(NamedTuple):
    """The random numbers of one step of cutmix (Yun et al. 2019) on N images: one box and one permutation for all."""

    lam: Array
    """float [] in [0, 1): the fraction of each image that remains, before the box is clipped"""
    centre: Array
    """int32 [2]: row and column of the box's centre"""
    partner: Array
    """int32 [N], a permutation: the image whose pixels each image receives"""
    luck: Array | float = 0.0
    """float [] in [0, 1): the step mixes if the probability is above this number"""


def draw_patches(key: Array, steps: int, shape: Sequence[int]) -> Patch:
    """Draw the random numbers of ``steps`` steps on images of ``shape`` (N, H, W, c), with a leading axis of steps."""
    n = shape[0]
    bits = jax.random.bits(key, (steps * (4 + n),), jnp.uint32)
    u = uniform(bits[: 4 * steps]).reshape(steps, 4)
    partners = sorting_order(bits[4 * steps :].reshape(steps, n))
    centres = jnp.stack([below(u[:, 1 + a], shape[1 + a]) for a in (0, 1)], axis=1)
    return Patch(u[:, 0], centres, partners, u[:, 3])


def mix(x: Array, targets: Array, patch: Patch, probability: float | Array = 1.0) -> tuple[Array, Array]:
    """Paste the partner's pixels into one box, the same for all of ``x`` [N, H, W, c], and mix ``targets`` [N, C].

    The weights of the targets follow from the clipped box, not from ``lam``. Cross-entropy is linear in the targets, so
    the loss is the weighted mean of the losses of the two labels.
    """
    sides = jnp.asarray(x.shape[1:3], jnp.int32)
    half = jnp.floor(sides.astype(patch.lam.dtype) * jnp.sqrt(1 - patch.lam)).astype(jnp.int32) // 2
    first, end = jnp.clip(patch.centre - half, 0, sides), jnp.clip(patch.centre + half, 0, sides)
    share = jnp.prod(end - first).astype(targets.dtype) / (x.shape[1] * x.shape[2])
    mixed = targets * (1 - share) + targets[patch.partner] * share
    apply, mixed_x = patch.luck < probability, jnp.where(_in_box(x, first, end), x[patch.partner], x)
    return jnp.where(apply, mixed_x, x), jnp.where(apply, mixed, targets)
