"""Initial weights: a layer says what each parameter is drawn from, and all are drawn at once.

A draw for each parameter would be most of what there is to compile in a small network's training, and a kernel each on
an accelerator, wherever fresh networks are drawn in a step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from distill_jax.types import Array, PyTree

Kind: TypeAlias = Literal["uniform", "normal", "constant"]
"""uniform in +-scale, normal with standard deviation scale, or scale itself"""


@struct.dataclass
class Uninitialised(nn.meta.AxisMetadata):
    """A parameter that is not drawn yet, as ``Module.init`` returns it; a box to flax, which looks through it."""

    value: Any
    """its shape and dtype"""
    kind: Kind = struct.field(pytree_node=False)
    scale: float = struct.field(pytree_node=False)

    def unbox(self) -> Any:
        return self.value

    def replace_boxed(self, val: Any) -> Uninitialised:
        return self.replace(value=val)  # type: ignore[attr-defined]

    def add_axis(self, index: int, params: dict[Any, Any]) -> Uninitialised:
        return self

    def remove_axis(self, index: int, params: dict[Any, Any]) -> Uninitialised:
        return self


def initialiser(kind: Kind, scale: float) -> Callable[..., Any]:
    """An initialiser for ``Module.param`` and ``Module.variable``."""
    return lambda key, shape, dtype=jnp.float32: Uninitialised(jnp.zeros(shape, dtype), kind, scale)


def initialised(variables: PyTree, key: Array) -> PyTree:
    """``variables``, all of them ``Uninitialised`` of one dtype, as arrays."""
    waiting, structure = jax.tree.flatten(variables, is_leaf=lambda leaf: isinstance(leaf, Uninitialised))
    numbers: dict[str, list[Array]] = {}
    for kind, draw in (("uniform", _uniform), ("normal", jax.random.normal)):
        sizes = [one.value.size for one in waiting if one.kind == kind]
        if sizes:
            all_of_kind = draw(jax.random.fold_in(key, len(numbers)), (sum(sizes),), waiting[0].value.dtype)
            numbers[kind] = jnp.split(all_of_kind, np.cumsum(sizes)[:-1])

    def made(one: Uninitialised) -> Array:
        if one.kind == "constant":
            return jnp.full(one.value.shape, one.scale, one.value.dtype)
        return one.scale * numbers[one.kind].pop(0).reshape(one.value.shape)

    return structure.unflatten([made(one) for one in waiting])


def _uniform(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    return jax.random.uniform(key, shape, dtype, -1, 1)
