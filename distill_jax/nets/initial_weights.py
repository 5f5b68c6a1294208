"""Initial weights. Layers declare the distribution of each parameter, and one call draws all parameters at once.

Separate draws would dominate the compile time of a small network's training. On an accelerator each would be a kernel
of its own in every step that draws fresh networks.
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
"""uniform in +-scale, normal with standard deviation scale, or the constant scale"""


@struct.dataclass
class Uninitialised(nn.meta.AxisMetadata):
    """A parameter before its draw, as ``Module.init`` returns it. For flax it is a box, which flax opens on access."""

    value: Any
    """an array or ShapeDtypeStruct of the parameter's shape and dtype"""
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
    """Return an initialiser for ``Module.param`` and ``Module.variable``."""
    return lambda key, shape, dtype=jnp.float32: Uninitialised(jnp.zeros(shape, dtype), kind, scale)


def initialise(variables: PyTree, key: Array) -> PyTree:
    """Draw all ``variables``, which are ``Uninitialised`` of one dtype, and return them as arrays."""
    parameters, structure = jax.tree.flatten(variables, is_leaf=lambda leaf: isinstance(leaf, Uninitialised))
    numbers: dict[str, list[Array]] = {}
    for kind, draw in (("uniform", _uniform), ("normal", jax.random.normal)):
        sizes = [parameter.value.size for parameter in parameters if parameter.kind == kind]
        if sizes:
            draws = draw(jax.random.fold_in(key, len(numbers)), (sum(sizes),), parameters[0].value.dtype)
            numbers[kind] = jnp.split(draws, np.cumsum(sizes)[:-1])

    def fill(parameter: Uninitialised) -> Array:
        shape, scale = parameter.value.shape, parameter.scale
        if parameter.kind == "constant":
            return jnp.full(shape, scale, parameter.value.dtype)
        return scale * numbers[parameter.kind].pop(0).reshape(shape)

    return structure.unflatten([fill(parameter) for parameter in parameters])


def _uniform(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    return jax.random.uniform(key, shape, dtype, -1, 1)
