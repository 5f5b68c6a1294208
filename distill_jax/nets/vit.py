"""A small vision transformer (Dosovitskiy et al. 2021) with pre-norm blocks and a mean over tokens, no class token."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from distill_jax.contracts import Architecture
from distill_jax.nets.initial_weights import initialiser
from distill_jax.nets.layers import ONES, ZEROS, Dense, over
from distill_jax.nets.net import DTypeName, FlaxNet, require_dtype, require_positive, require_side
from distill_jax.types import Array, NetBlock, NetOutput, RequestError, accumulator_dtype, choice


@choice
class ViT(Architecture):
    """Patches, ``depth`` transformer blocks of ``width`` channels, and a linear layer."""

    depth: int = 4
    width: int = 128
    heads: int = 4
    patch: int | None = None
    """side of a patch in pixels; None: the largest common divisor of the image sides up to a seventh of the shorter one
    (up to 2 if that is more), which gives about 7 patches per side"""
    dtype: DTypeName = "float32"

    def validate(self) -> None:
        require_positive(depth=self.depth, width=self.width, heads=self.heads)
        require_positive(patch=1 if self.patch is None else self.patch)
        require_dtype(self.dtype)
        if self.width % self.heads:
            raise RequestError(
                f"net.width {self.width} cannot be divided among {self.heads} heads: make it a multiple of {self.heads}"
            )

    def build(self, shape: tuple[int, int, int], classes: int) -> FlaxNet:
        """Build the net for images of ``shape`` (H, W, c). Raise RequestError for a side below 8 or a patch that does
        not divide the sides."""
        self.validate()
        require_side(shape, 8)
        height, width, _ = shape
        divisors = [p for p in range(1, min(height, width) + 1) if height % p == width % p == 0]
        patch = self.patch or max(p for p in divisors if p <= max(min(height, width) // 7, 2))
        if patch not in divisors:
            raise RequestError(f"net.patch {patch} does not divide {height}x{width} images: use one of {divisors}")
        return FlaxNet(_ViT(self, patch, classes), shape, classes, self.dtype)


class _ViT(nn.Module):
    spec: ViT
    patch: int
    classes: int

    @nn.compact
    def __call__(self, x: Array, train: bool) -> NetOutput:
        n, height, width, c = x.shape
        rows, columns = height // self.patch, width // self.patch
        x = x.reshape(n, rows, self.patch, columns, self.patch, c).swapaxes(2, 3)
        x = Dense(self.spec.width, name="patches")(x.reshape(n, rows * columns, -1))
        shape = (rows * columns, self.spec.width)
        position = self.param("position", initialiser("normal", 0.02), shape, accumulator_dtype(x.dtype))
        x += over(position, x)
        blocks = []
        for i in range(self.spec.depth):
            x = _TransformerBlock(self.spec.heads, name=f"block{i}")(x)
            tokens = x.reshape(n, rows, columns, -1)
            blocks.append(NetBlock(before=tokens, after=tokens))
        embedding = _TokenNorm(name="norm")(x).mean(1)
        return NetOutput(Dense(self.classes, name="classifier")(embedding), tuple(blocks), embedding)


class _TransformerBlock(nn.Module):
    heads: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        n, tokens, width = x.shape
        qkv = Dense(3 * width, name="qkv")(_TokenNorm(name="norm1")(x))
        q, k, v = jnp.moveaxis(qkv.reshape(n, tokens, 3, self.heads, -1), 2, 0)
        scores = jnp.einsum("nthd,nshd->nhts", q, k) * q.shape[-1] ** -0.5
        weights = jax.nn.softmax(scores.astype(accumulator_dtype(x.dtype))).astype(x.dtype)
        attended = jnp.einsum("nhts,nshd->nthd", weights, v).reshape(n, tokens, width)
        x += Dense(width, name="attended")(attended)
        hidden = jax.nn.gelu(Dense(4 * width, name="expand")(_TokenNorm(name="norm2")(x)))
        return x + Dense(width, name="contract")(hidden)


class _TokenNorm(nn.Module):
    """Layer norm over the channels of each token [N, T, width], eps 1e-5."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        stored = accumulator_dtype(x.dtype)
        scale = self.param("scale", ONES, x.shape[-1:], stored)[None, None]
        bias = self.param("bias", ZEROS, x.shape[-1:], stored)[None, None]
        wide_x = x.astype(stored)
        centred = wide_x - wide_x.mean(-1, keepdims=True)
        r = lax.rsqrt(jnp.mean(centred * centred, -1, keepdims=True) + 1e-5)
        return (centred * r * scale + bias).astype(x.dtype)
