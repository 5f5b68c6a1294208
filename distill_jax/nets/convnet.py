"""ConvNet-D, the usual network of dataset distillation (Gidaris and Komodakis 2018)."""

from __future__ import annotations

import flax.linen as nn

from distill_jax.contracts import Architecture
from distill_jax.nets.layers import ACTIVATIONS, POOLINGS, ActivationName, Conv, Dense, Norm, NormName, PoolingName
from distill_jax.nets.net import DTypeName, FlaxNet, require_choice, require_dtype, require_norm, require_positive
from distill_jax.types import Array, NetBlock, NetOutput, RequestError, choice

DEEPEST = 100


@choice
class ConvNet(Architecture):
    """``depth`` blocks of (3x3 convolution, norm, activation, 2x2 pooling), then one linear layer.

    It raises RequestError for sizes below 1, unknown names, and a norm that does not divide the width.
    """

    depth: int = 3
    width: int = 128
    norm: NormName = "instance"
    activation: ActivationName = "relu"
    pooling: PoolingName = "avg"
    dtype: DTypeName = "float32"

    def validate(self) -> None:
        require_positive(depth=self.depth, width=self.width)
        if self.depth > DEEPEST:  # each layer adds to the compile time
            raise RequestError(f"net.depth is {self.depth}: give at most {DEEPEST}")
        require_norm(self.norm, self.width)
        require_choice("activation", self.activation, ACTIVATIONS)
        require_choice("pooling", self.pooling, POOLINGS)
        require_dtype(self.dtype)

    def build(self, shape: tuple[int, int, int], classes: int) -> FlaxNet:
        """Build the net for images of ``shape`` (H, W, c). Raise RequestError if pooling shrinks them to nothing."""
        self.validate()
        # 28x28 digits are padded to 32x32, which can be halved five times without a remainder.
        padding = 3 if shape == (28, 28, 1) else 1
        side = min(shape[:2]) + 2 * (padding - 1)
        deepest = side.bit_length() - 1
        if self.pooling != "none" and self.depth > deepest:
            height, width, _ = shape
            mend = f"use a depth of at most {deepest}" if deepest else "use --net mlp, or --net.pooling none"
            raise RequestError(f"net.depth {self.depth} shrinks {height}x{width} images to nothing: {mend}")
        return FlaxNet(_ConvNet(self, padding, classes), shape, classes, self.dtype)


class _ConvNet(nn.Module):
    spec: ConvNet
    first_padding: int
    classes: int

    @nn.compact
    def __call__(self, x: Array, train: bool) -> NetOutput:
        spec = self.spec
        blocks = []
        for d in range(spec.depth):
            x = Conv(spec.width, padding=self.first_padding if d == 0 else 1, name=f"conv{d}")(x)
            x = ACTIVATIONS[spec.activation](Norm(spec.norm, name=f"norm{d}")(x, train))
            pooled = POOLINGS[spec.pooling](x)
            blocks.append(NetBlock(before=x, after=pooled))
            x = pooled
        embedding = x.reshape(x.shape[0], -1)
        return NetOutput(Dense(self.classes, name="classifier")(embedding), tuple(blocks), embedding)
