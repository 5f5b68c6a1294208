"""The Linen layers of every network.

A layer computes in the dtype of its input and keeps its parameters in float32 (float64 for a float64 input), so
``net.FlaxNet`` alone chooses the compute dtype. Images are NHWC, convolution kernels HWIO, dense kernels (in, out).
Parameters are initialised as in PyTorch: weights and biases uniform in +-1/sqrt(fan_in), norm scale 1 and bias 0. The
kernels of ResNets are initialised as in their authors' code (``Conv.start``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from distill_jax.nets.conv import average_pool, conv2d, max_pool
from distill_jax.nets.initial_weights import initialiser
from distill_jax.types import Array, accumulator_dtype

NormName: TypeAlias = Literal["instance", "batch", "layer", "group", "none"]
ActivationName: TypeAlias = Literal["relu", "leaky_relu", "sigmoid", "silu"]
PoolingName: TypeAlias = Literal["avg", "max", "none"]
StartName: TypeAlias = Literal["fan-in", "fan-out"]

GROUPS = 4
"""number of groups of norm 'group'"""

ZEROS, ONES = initialiser("constant", 0.0), initialiser("constant", 1.0)

_EPSILON = 1e-5
_MOMENTUM = 0.9

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,
    "sigmoid": jax.nn.sigmoid,
    "silu": jax.nn.silu,
}
POOLINGS: dict[str, Callable[[Array], Array]] = {"avg": average_pool, "max": max_pool, "none": lambda x: x}


def _uniform(fan_in: int) -> Callable[..., Any]:
    """Return the initialiser U(-1/sqrt(fan_in), 1/sqrt(fan_in)), PyTorch's default for weights and biases."""
    return initialiser("uniform", 1 / math.sqrt(fan_in))


class Conv(nn.Module):
    """Convolution with a square kernel: [N, H, W, i] -> [N, H', W', features]."""

    features: int
    size: int = 3
    stride: int = 1
    padding: int | None = None
    """number of zeros on every side; None keeps the size at stride 1"""
    bias: bool = True
    start: StartName = "fan-in"
    """initial kernel: uniform in +-1/sqrt(fan_in), or normal with std sqrt(2/fan_out), fan_out = size^2 * features"""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        fan_in = self.size**2 * x.shape[-1]
        shape = (self.size, self.size, x.shape[-1], self.features)
        normal = initialiser("normal", math.sqrt(2 / (self.size**2 * self.features)))
        start = {"fan-in": _uniform(fan_in), "fan-out": normal}[self.start]
        kernel = self.param("kernel", start, shape, accumulator_dtype(x.dtype))
        y = conv2d(x, kernel, self.stride, self.padding)
        if self.bias:
            bias = self.param("bias", _uniform(fan_in), (self.features,), accumulator_dtype(x.dtype))
            y += over(bias, y)
        return y


class Dense(nn.Module):
    """Affine map of the last axis: [..., i] -> [..., features]."""

    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        fan_in = x.shape[-1]
        kernel = self.param("kernel", _uniform(fan_in), (fan_in, self.features), accumulator_dtype(x.dtype))
        bias = self.param("bias", _uniform(fan_in), (self.features,), accumulator_dtype(x.dtype))
        y = jnp.matmul(x, kernel.astype(x.dtype))
        return y + over(bias, y)


class Norm(nn.Module):
    """Normalisation of [N, H, W, c] with learned scale and bias; eps 1e-5, biased variance.

    The kind determines the values that share a mean and a variance. instance: a channel of one image; batch: a channel
    of the whole batch; group: a quarter of the channels of one image; layer: one image (with a scale and a bias per
    element, [H, W, c]). Running statistics of 'batch' are ``0.9 old + 0.1 new`` with the unbiased variance, as in
    PyTorch.

    The form ``x * r + (b - m * r)`` with one-pass moments is 2.4 times faster on CPU, derivatives included, than
    subtracting the mean first.
    """

    kind: NormName = "instance"

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        if self.kind == "none":
            return x
        channels = x.shape[-1]
        shape = x.shape[1:] if self.kind == "layer" else (channels,)
        scale = self.param("scale", ONES, shape, accumulator_dtype(x.dtype))
        bias = self.param("bias", ZEROS, shape, accumulator_dtype(x.dtype))
        if self.kind == "batch":
            mean, variance = self._batch_moments(x, train)
        else:
            mean, variance = _moments(x, {"instance": channels, "group": GROUPS, "layer": 1}[self.kind])
        r = lax.rsqrt(variance + _EPSILON)
        if self.kind == "layer":
            mean, r = _per_map(mean), _per_map(r) * scale[None]
            return x * over(r, x) + over(bias[None] - mean * r, x)
        r *= scale[None]
        return x * over(_per_map(r), x) + over(_per_map(bias[None] - mean * r), x)

    def _batch_moments(self, x: Array, train: bool) -> tuple[Array, Array]:
        """Return mean and variance, [1, c] each."""
        shape = (x.shape[-1],)
        running_mean = self.variable("batch_stats", "mean", ZEROS, None, shape, accumulator_dtype(x.dtype))
        running_variance = self.variable("batch_stats", "var", ONES, None, shape, accumulator_dtype(x.dtype))
        if not train:
            return running_mean.value[None], running_variance.value[None]
        mean, variance = _one_pass(x, (0, 1, 2))
        count = math.prod(x.shape[:3])
        for running, new in ((running_mean, mean), (running_variance, variance * (count / max(count - 1, 1)))):
            running.value = _MOMENTUM * running.value + (1 - _MOMENTUM) * lax.stop_gradient(new)
        return mean[None], variance[None]


def _moments(x: Array, groups: int) -> tuple[Array, Array]:
    """Return mean and variance of ``groups`` groups of channels in each image, repeated per channel: [N, c] each."""
    channels = x.shape[-1]
    if groups == channels:
        return _one_pass(x, (1, 2))
    grouped = x.reshape(*x.shape[:3], groups, -1)
    mean, variance = (jnp.repeat(m, channels // groups, axis=1) for m in _one_pass(grouped, (1, 2, 4)))
    return mean, variance


def _one_pass(x: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    x = x.astype(accumulator_dtype(x.dtype))
    mean = jnp.mean(x, axes)
    # Rounding can make the variance of a constant map negative, and below -eps if its values are large.
    return mean, jnp.maximum(jnp.mean(x * x, axes) - mean * mean, 0)


def _per_map(v: Array) -> Array:
    """[N, c] -> [N, 1, 1, c]"""
    return v[:, None, None]


def over(v: Array, x: Array) -> Array:
    """Repeat ``v`` over the leading axes of ``x``, in the dtype of ``x``. It repeats first and rounds then, so that the
    derivative, a sum over these axes, is accumulated in the dtype of ``v``. In bfloat16, a sum of ones stops at 256."""
    return jnp.broadcast_to(v.reshape((1,) * (x.ndim - v.ndim) + v.shape), x.shape).astype(x.dtype)
