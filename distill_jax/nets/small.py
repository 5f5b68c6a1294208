"""The small networks of cross-architecture tables, as DC and DSA define them (Zhao et al. 2021, appendix): MLP, LeNet,
AlexNet and VGG-11. LeNet, AlexNet and VGG-11 share a module of convolutions followed by linear layers.

For images smaller than the original 32x32, a pool is skipped if it would leave less than a 2x2 map for later layers,
and 5x5 convolutions are padded to keep the size.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax

from distill_jax.contracts import Architecture
from distill_jax.nets.conv import max_pool
from distill_jax.nets.layers import Conv, Dense, Norm, NormName
from distill_jax.nets.net import DTypeName, FlaxNet, require_dtype, require_norm, require_positive, require_side
from distill_jax.types import Array, NetBlock, NetOutput, choice


class _Layer(NamedTuple):
    """A convolution, optionally followed by a pool."""

    width: int
    size: int = 3
    padding: int = 1
    pool: bool = False


@choice
class MLP(Architecture):
    """``depth`` hidden layers of ``width`` ReLU units on the flattened image."""

    depth: int = 2
    width: int = 128
    dtype: DTypeName = "float32"

    def validate(self) -> None:
        require_positive(depth=self.depth, width=self.width)
        require_dtype(self.dtype)

    def build(self, shape: tuple[int, int, int], classes: int) -> FlaxNet:
        """Build the net for images of any ``shape`` (H, W, c)."""
        self.validate()
        return FlaxNet(_MLP(self.depth, self.width, classes), shape, classes, self.dtype)


@choice
class LeNet(Architecture):
    """5x5 convolutions of 6 and 16 channels, then linear layers of 120 and 84 units, with ReLU and max pools."""

    norm: NormName = "none"
    dtype: DTypeName = "float32"

    def validate(self) -> None:
        require_norm(self.norm, 6)
        require_dtype(self.dtype)

    def build(self, shape: tuple[int, int, int], classes: int) -> FlaxNet:
        """Build the net for images of ``shape`` (H, W, c). Raise RequestError for a side below 8."""
        self.validate()
        require_side(shape, 8)
        side = min(shape[:2])
        # Images of 32 pixels or more are not padded. Images of 28 pixels are padded to 32, as published for MNIST.
        layers = (_Layer(6, 5, 0 if side >= 32 else 2, pool=True), _Layer(16, 5, 0 if side >= 28 else 2, pool=True))
        return FlaxNet(_PlainNet(layers, (120, 84), self.norm, classes), shape, classes, self.dtype)


@choice
class AlexNet(Architecture):
    """Five convolutions and one linear layer."""

    norm: NormName = "none"
    dtype: DTypeName = "float32"

    def validate(self) -> None:
        require_norm(self.norm, 128)
        require_dtype(self.dtype)

    def build(self, shape: tuple[int, int, int], classes: int) -> FlaxNet:
        """Build the net for images of ``shape`` (H, W, c). Raise RequestError for a side below 8."""
        self.validate()
        require_side(shape, 8)
        layers = (
            _Layer(128, 5, 4 if shape == (28, 28, 1) else 2, pool=True),
            _Layer(192, 5, 2, pool=True),
            _Layer(256),
            _Layer(192),
            _Layer(192, pool=True),
        )
        return FlaxNet(_PlainNet(layers, (), self.norm, classes), shape, classes, self.dtype)


@choice
class VGG11(Architecture):
    """Eight 3x3 convolutions in five stages and one linear layer."""

    norm: NormName = "instance"
    dtype: DTypeName = "float32"

    def validate(self) -> None:
        require_norm(self.norm, 64)
        require_dtype(self.dtype)

    def build(self, shape: tuple[int, int, int], classes: int) -> FlaxNet:
        """Build the net for images of ``shape`` (H, W, c). Raise RequestError for a side below 8."""
        self.validate()
        require_side(shape, 8)
        first = _Layer(64, padding=3 if shape == (28, 28, 1) else 1, pool=True)
        stages = (_Layer(128, pool=True), *(_Layer(w, pool=pool) for w in (256, 512, 512) for pool in (False, True)))
        return FlaxNet(_PlainNet((first, *stages), (), self.norm, classes), shape, classes, self.dtype)


class _PlainNet(nn.Module):
    layers: tuple[_Layer, ...]
    hidden: tuple[int, ...]
    norm: NormName
    classes: int

    @nn.compact
    def __call__(self, x: Array, train: bool) -> NetOutput:
        blocks = []
        for i, layer in enumerate(self.layers):
            x = Conv(layer.width, layer.size, padding=layer.padding, name=f"conv{i}")(x)
            before = jax.nn.relu(Norm(self.norm, name=f"norm{i}")(x, train))
            # One more pool would leave a 1x1 map, which an instance norm would erase.
            smallest = 2 if i == len(self.layers) - 1 else 4
            x = max_pool(before) if layer.pool and min(before.shape[1:3]) >= smallest else before
            blocks.append(NetBlock(before=before, after=x))
        x = x.reshape(x.shape[0], -1)
        for i, width in enumerate(self.hidden):
            x = jax.nn.relu(Dense(width, name=f"dense{i}")(x))
        return NetOutput(Dense(self.classes, name="classifier")(x), tuple(blocks), x)


class _MLP(nn.Module):
    depth: int
    width: int
    classes: int

    @nn.compact
    def __call__(self, x: Array, train: bool) -> NetOutput:
        blocks = []
        x = x.reshape(x.shape[0], -1)
        for i in range(self.depth):
            x = jax.nn.relu(Dense(self.width, name=f"dense{i}")(x))
            blocks.append(NetBlock(before=x[:, None, None], after=x[:, None, None]))
        return NetOutput(Dense(self.classes, name="classifier")(x), tuple(blocks), x)
