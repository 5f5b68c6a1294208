"""DenseNet-121 for small images (Huang et al. 2017), in the variant that dataset distillation evaluates."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from distill_jax.contracts import Architecture
from distill_jax.nets.conv import average_pool
from distill_jax.nets.layers import Conv, Dense, Norm, NormName
from distill_jax.nets.net import DTypeName, FlaxNet, require_dtype, require_norm, require_positive, require_side
from distill_jax.types import Array, NetBlock, NetOutput, choice


@choice
class DenseNet(Architecture):
    """Pre-activation dense blocks. Transitions halve the channels, and the map while its side is 4 or more.

    A dense layer puts its ``growth`` new channels *before* the channels of its input.
    """

    layers: tuple[int, ...] = (6, 12, 24, 16)
    growth: int = 12
    norm: NormName = "batch"
    dtype: DTypeName = "float32"

    def validate(self) -> None:
        require_positive(growth=self.growth, **{f"layers[{i}]": n for i, n in enumerate(self.layers)})
        require_norm(self.norm, self.growth)
        require_dtype(self.dtype)

    def build(self, shape: tuple[int, int, int], classes: int) -> FlaxNet:
        """Build the net for images of ``shape`` (H, W, c). Raise RequestError for a side below 8 or a wrong field."""
        self.validate()
        require_side(shape, 8)
        return FlaxNet(_DenseNet(self, classes), shape, classes, self.dtype)


class _DenseNet(nn.Module):
    spec: DenseNet
    classes: int

    @nn.compact
    def __call__(self, x: Array, train: bool) -> NetOutput:
        spec = self.spec
        x = Conv(2 * spec.growth, bias=False, name="conv1")(x)
        blocks = []
        for b, layers in enumerate(spec.layers, start=1):
            for i in range(layers):
                x = _DenseLayer(spec.growth, spec.norm, name=f"dense{b}_{i}")(x, train)
            dense = x
            if b < len(spec.layers):
                x = _Transition(spec.norm, name=f"trans{b}")(x, train)
            else:
                x = jax.nn.relu(Norm(spec.norm, name="norm")(x, train))
            blocks.append(NetBlock(before=dense, after=x))
        embedding = x.mean((1, 2))
        return NetOutput(Dense(self.classes, name="classifier")(embedding), tuple(blocks), embedding)


class _DenseLayer(nn.Module):
    growth: int
    norm: NormName

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        y = jax.nn.relu(Norm(self.norm, name="norm1")(x, train))
        y = Conv(4 * self.growth, size=1, bias=False, name="conv1")(y)
        y = jax.nn.relu(Norm(self.norm, name="norm2")(y, train))
        return jnp.concatenate([Conv(self.growth, bias=False, name="conv2")(y), x], axis=3)


class _Transition(nn.Module):
    norm: NormName

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        x = jax.nn.relu(Norm(self.norm, name="norm")(x, train))
        x = Conv(x.shape[-1] // 2, size=1, bias=False, name="conv")(x)
        return average_pool(x) if min(x.shape[1:3]) >= 4 else x
