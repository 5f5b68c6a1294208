"""Wraps a Linen module as a ``types.Net``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp

from distill_jax.nets.initial_weights import initialise
from distill_jax.nets.layers import GROUPS, NormName
from distill_jax.types import Array, Model, NetOutput, PyTree, RequestError, accumulator_dtype, near_miss

DTypeName: TypeAlias = Literal["float32", "bfloat16", "float64"]


@dataclass(frozen=True)
class FlaxNet:
    """A Linen module with the call ``module(x, train) -> NetOutput``. Nets compare by value, so they compile once."""

    module: nn.Module
    shape: tuple[int, int, int]
    """(H, W, c)"""
    classes: int
    dtype: DTypeName = "float32"
    """compute dtype. With bfloat16, parameters, norm statistics, weight gradients and outputs are float32. With float64
    (for tests, under ``jax.enable_x64``) all of these are float64"""

    def __post_init__(self) -> None:
        x64 = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
        if self.dtype == "float64" and not x64:
            raise RequestError("dtype float64 needs jax's 64-bit mode: use float32, or set JAX_ENABLE_X64=1")

    @partial(jax.jit, static_argnums=0, inline=True)
    def init(self, key: Array) -> Model:
        """Draw fresh parameters. ``stats`` holds running statistics if the norm is 'batch', and is else empty."""
        image = jax.ShapeDtypeStruct((1, *self.shape), jnp.dtype(self.dtype))
        variables = initialise(jax.eval_shape(lambda key, x: self.module.init(key, x, False), key, image), key)
        return Model(params=variables["params"], stats=variables.get("batch_stats", {}))

    def apply(self, model: Model, x: Array, train: bool) -> tuple[NetOutput, PyTree]:
        """Forward ``x`` [N, H, W, c] in network space as ``types.Net`` says. Outputs are float32 (or float64)."""
        variables = {"params": model.params}
        if model.stats:
            variables["batch_stats"] = model.stats
        out, updated = self.module.apply(variables, x.astype(self.dtype), train, mutable=["batch_stats"])
        return jax.tree.map(lambda a: a.astype(accumulator_dtype(self.dtype)), out), updated.get("batch_stats", {})


def require_choice(field: str, value: str, names: Iterable[str]) -> None:
    """Raise RequestError, which names the nearest name, unless ``value`` is one of ``names``."""
    if value not in (names := list(names)):
        raise RequestError(f"net.{field} {value!r} is unknown: {near_miss(str(value), names)}")


def require_dtype(dtype: str) -> None:
    """Raise RequestError for an unknown dtype."""
    require_choice("dtype", dtype, get_args(DTypeName))


def require_norm(norm: str, width: int) -> None:
    """Raise RequestError for an unknown norm, or a norm that does not divide ``width`` channels."""
    require_choice("norm", norm, get_args(NormName))
    if norm == "group" and width % GROUPS:
        raise RequestError(
            f"net.norm 'group' cannot split {width} channels into {GROUPS} groups: choose another width or norm"
        )


def require_side(shape: tuple[int, int, int], smallest: int) -> None:
    """Raise RequestError if a side of the images is shorter than ``smallest`` pixels."""
    height, width, _ = shape
    if min(height, width) < smallest:
        raise RequestError(
            f"images of {height}x{width} are too small for this network: give at least {smallest}x{smallest}"
        )


def require_positive(**fields: int) -> None:
    """Raise RequestError if a field is not an integer of at least 1."""
    for name, value in fields.items():
        if not isinstance(value, int) or value < 1:
            raise RequestError(f"net.{name} is {value!r}: give an integer of at least 1")
