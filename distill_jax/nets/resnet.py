"""ResNet and ResNetAP as dataset distillation uses them: narrower than usual on CIFAR-sized images.

Images with a side under 64 pixels use the CIFAR variant (widths 32 to 256, 3x3 stem). Larger images use the ImageNet
variant (widths 64 to 512, and a 7x7 stem above 128 pixels). ResNetAP has no strides and averages 2x2 squares instead.
Kernels are initially normal with std sqrt(2/fan_out), as in IDC's release.
"""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from distill_jax.contracts import Architecture
from distill_jax.nets.conv import average_pool, max_pool
from distill_jax.nets.layers import Conv, Dense, Norm, NormName
from distill_jax.nets.net import DTypeName, FlaxNet, require_dtype, require_norm
from distill_jax.types import Array, NetBlock, NetOutput, RequestError, choice

DEPTHS = {10: 1, 18: 2}
"""{depth: number of basic blocks in each of the four stages}"""

_Conv = partial(Conv, bias=False, start="fan-out")


@choice
class ResNet(Architecture):
    """ResNet-10 or -18 of basic blocks. It raises RequestError for other depths, and for sides under 8 pixels."""

    depth: int = 18
    norm: NormName = "instance"
    dtype: DTypeName = "float32"

    def validate(self) -> None:
        _check(self.depth, self.norm, self.dtype)

    def build(self, shape: tuple[int, int, int], classes: int) -> FlaxNet:
        self.validate()
        return _build(self, False, shape, classes)


@choice
class ResNetAP(Architecture):
    """ResNet with average pooling in place of strides, the usual network for ImageNet subsets."""

    depth: int = 10
    norm: NormName = "instance"
    dtype: DTypeName = "float32"

    def validate(self) -> None:
        _check(self.depth, self.norm, self.dtype)

    def build(self, shape: tuple[int, int, int], classes: int) -> FlaxNet:
        self.validate()
        return _build(self, True, shape, classes)


def _check(depth: int, norm: str, dtype: str) -> None:
    if depth not in DEPTHS:
        raise RequestError(f"net.depth is {depth}: give {' or '.join(map(str, DEPTHS))} for a ResNet")
    require_norm(norm, 32)  # every width is a multiple of it
    require_dtype(dtype)


def _build(spec: ResNet | ResNetAP, pooled: bool, shape: tuple[int, int, int], classes: int) -> FlaxNet:
    side = min(shape[:2])
    if side < 8:
        raise RequestError(f"images with a side of {side} pixels are too small for a ResNet: give at least 8x8")
    first = 32 if side < 64 else 64
    module = _ResNet(spec.norm, pooled, side, tuple(first * 2**s for s in range(4)), DEPTHS[spec.depth], classes)
    return FlaxNet(module, shape, classes, spec.dtype)


class _ResNet(nn.Module):
    norm: NormName
    pooled: bool
    side: int
    widths: tuple[int, ...]
    per_stage: int
    classes: int

    @nn.compact
    def __call__(self, x: Array, train: bool) -> NetOutput:
        x = self._stem(x, train)
        blocks = []
        for s, width in enumerate(self.widths):
            for b in range(self.per_stage):
                # An instance norm over a 1x1 map would erase it, so 8x8 images are halved only twice.
                halves = s > 0 and b == 0 and min(x.shape[1:3]) >= 4
                x = _BasicBlock(self.norm, self.pooled, width, halves, name=f"stage{s}_block{b}")(x, train)
            blocks.append(NetBlock(before=x, after=x))
        embedding = jnp.mean(x, axis=(1, 2))
        return NetOutput(Dense(self.classes, name="classifier")(embedding), tuple(blocks), embedding)

    def _stem(self, x: Array, train: bool) -> Array:
        large = self.side > 128
        size, stride = (7, 1 if self.pooled else 2) if large else (3, 1)
        x = _Conv(self.widths[0], size, stride, padding=size // 2, name="stem")(x)
        x = jax.nn.relu(Norm(self.norm, name="stem_norm")(x, train))
        if self.side <= 64:
            return x
        if self.pooled:
            return average_pool(x, 4 if large else 2)
        return max_pool(x, window=3, stride=2, padding=1)


class _BasicBlock(nn.Module):
    """conv - norm - ReLU (- pool) - conv - norm, then the sum with the shortcut and ReLU."""

    norm: NormName
    pooled: bool
    width: int
    halves: bool

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        stride = 2 if self.halves and not self.pooled else 1
        pool = self.halves and self.pooled
        y = _Conv(self.width, 3, stride, padding=1, name="conv1")(x)
        y = jax.nn.relu(Norm(self.norm, name="norm1")(y, train))
        y = average_pool(y) if pool else y
        y = Norm(self.norm, name="norm2")(_Conv(self.width, 3, name="conv2")(y), train)
        if self.halves or x.shape[-1] != self.width:
            x = _Conv(self.width, 1, stride, padding=0, name="shortcut")(x)
            x = Norm(self.norm, name="shortcut_norm")(average_pool(x) if pool else x, train)
        return jax.nn.relu(x + y)
