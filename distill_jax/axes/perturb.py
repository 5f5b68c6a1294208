"""The perturbation axis: the part of Acc-DD's model augmentation that works with every model source (section 3.3)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from distill_jax import tree
from distill_jax.contracts import Perturbation
from distill_jax.draws import split
from distill_jax.types import Array, Model, PyTree, RequestError, choice, require_at_least

NORMS = ("filter", "layer", "weight")


@choice
class NoPerturbation(Perturbation):
    """Leaves the sampled models unchanged."""

    def perturb(self, models: Model, key: Array) -> Model:
        return models


@choice
class Directions(Perturbation):
    """Moves each model along random directions that are scaled to the size of its weights (Acc-DD section 3.3).

    The result is params + sum of a_i d_i with |a_i| ~ U[min(min, max), max] and independent random signs, so
    ``max = 0`` is exactly the identity. The paper moves along one direction, the released code along two.
    """

    min: float = 0.01
    """smallest step along a direction; if it is above ``max``, ``max`` is used instead"""
    max: float = 0.09
    """largest step along a direction, relative to the norms of the filters; 0 disables the perturbation"""
    norm: str = "filter"
    """norm that each direction is scaled to: filter, layer or weight"""
    count: int = 1
    """number of random directions per model"""

    def validate(self) -> None:
        require_at_least(0, self, "min", "max")
        if self.norm not in NORMS:
            raise RequestError(f"perturb.norm {self.norm!r} is unknown: choose one of {', '.join(NORMS)}")
        require_at_least(1, self, "count")

    def perturb(self, models: Model, key: Array) -> Model:
        """Return Model[K] with each model perturbed independently."""
        keys = split(key, jax.tree.leaves(models.params)[0].shape[0])
        params = tree.map_chunks(lambda args: self.perturbed(*args), (models.params, keys), len(keys))
        return models._replace(params=params)

    def perturbed(self, params: PyTree, key: Array) -> PyTree:
        """Return the perturbed parameters of one model."""
        # jax.random.uniform(minval, maxval) returns minval if maxval is below it, so max = 0 would not be the identity.
        low = jnp.minimum(self.min, self.max)
        for raw_key, step_key in jax.random.split(key, (self.count, 2)):
            u = jax.random.uniform(step_key, (2,))
            step = (low + (self.max - low) * u[0]) * jnp.where(u[1] < 0.5, -1, 1).astype(u.dtype)
            params = move(params, direction(params, normal_like(raw_key, params), self.norm), step)
        return params


def direction(params: PyTree, raw: PyTree, norm: str = "filter") -> PyTree:
    """Return ``raw``, standard normal numbers in the shape of ``params``, rescaled to the size of the weights.

    ``filter`` scales each filter to the norm of the same filter of the weights. ``layer`` scales each tensor to the
    norm of that tensor of the weights. ``weight`` multiplies elementwise by the weights. Biases and norm parameters get
    direction zero; the linear classifier does not.
    """

    def rescale(path: tuple[Any, ...], w: Array, d: Array) -> Array:
        if not tree.is_matrix(path, w):
            return jnp.zeros_like(w)
        if norm == "filter":
            return d * tree.filter_norms(w) / (tree.filter_norms(d) + 1e-10)
        if norm == "layer":
            return d * jnp.linalg.norm(w.reshape(-1)) / jnp.linalg.norm(d.reshape(-1))
        return d * w

    return jax.tree_util.tree_map_with_path(rescale, params, raw)


def normal_like(key: Array, params: PyTree) -> PyTree:
    """Draw standard normal numbers in the shape of ``params``."""
    # One draw serves all leaves: a separate draw per leaf would dominate the compile time of an outer iteration.
    leaves, treedef = jax.tree.flatten(params)
    ends = np.cumsum([leaf.size for leaf in leaves])
    pieces = jnp.split(jax.random.normal(key, (int(ends[-1]),), leaves[0].dtype), ends[:-1])
    return treedef.unflatten([piece.reshape(leaf.shape) for piece, leaf in zip(pieces, leaves, strict=True)])


def move(params: PyTree, vector: PyTree, step: float | Array) -> PyTree:
    """Return params + step * vector."""
    return jax.tree.map(lambda w, d: w + step * d, params, vector)
