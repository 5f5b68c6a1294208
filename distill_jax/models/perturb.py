"""Perturbing weights: the half of model augmentation that plugs into every model source (Acc-DD section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from distill_jax import tree
from distill_jax.types import Array, Model, PyTree, RequestError

NORMS = ("filter", "layer", "weight")


def direction(params: PyTree, raw: PyTree, norm: str = "filter") -> PyTree:
    """``raw`` (standard normal, shaped as ``params``) rescaled to the size of the weights (golden section 7).

    ``filter``: each filter to the norm of the same filter of the weights; ``layer``: each tensor to the tensor's norm;
    ``weight``: elementwise product. Biases and norm parameters get direction zero; the linear classifier does not.
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


def perturb(params: PyTree, hyper: Any, key: Array, norm: str = "filter", directions: int = 2) -> PyTree:
    """Move weights along random directions (Acc-DD section 3.3; the released code uses two directions, the paper one).

    params + sum of a_i d_i with |a_i| ~ U[min(perturb_min, perturb_max), perturb_max] and independent random signs, so
    ``hyper.perturb_max = 0`` is exactly the identity.
    """
    # Not uniform(minval, maxval): with maxval below minval that returns minval, and 0 would not be the identity.
    low = jnp.minimum(hyper.perturb_min, hyper.perturb_max)
    for along in jax.random.split(key, directions):
        raw_key, size_key, sign_key = jax.random.split(along, 3)
        size = low + (hyper.perturb_max - low) * jax.random.uniform(size_key)
        step = size * jax.random.rademacher(sign_key, (), jnp.float32)
        params = move(params, direction(params, normal_like(raw_key, params), norm), step)
    return params


def normal_like(key: Array, params: PyTree) -> PyTree:
    """Standard normal, shaped as ``params``."""
    # One draw for all leaves: a draw each would be most of what there is to compile in an outer iteration.
    leaves, treedef = jax.tree.flatten(params)
    ends = np.cumsum([leaf.size for leaf in leaves])
    pieces = jnp.split(jax.random.normal(key, (int(ends[-1]),), leaves[0].dtype), ends[:-1])
    return treedef.unflatten([piece.reshape(leaf.shape) for piece, leaf in zip(pieces, leaves, strict=True)])


def move(params: PyTree, along: PyTree, step: float | Array) -> PyTree:
    """params + step * along."""
    return jax.tree.map(lambda w, d: w + step * d, params, along)


@dataclass(frozen=True)
class Drawn:
    """What every source shares: how many models live in an outer iteration, and how each is perturbed."""

    live: int = 1
    """K: models per outer iteration; the matching loss is their mean"""
    perturb: bool = False
    """perturb each model drawn, by hyper.perturb_min to hyper.perturb_max"""
    norm: str = "filter"
    """what a direction is scaled to: filter, layer or weight"""
    directions: int = 2
    """random directions per perturbation"""

    def __post_init__(self) -> None:
        if self.live < 1:
            raise RequestError(f"models.live is {self.live}: at least one model must live in a step")
        if self.norm not in NORMS:
            raise RequestError(f"models.norm {self.norm!r} is unknown: choose one of {', '.join(NORMS)}")
        if self.directions < 1:
            raise RequestError(f"models.directions is {self.directions}: it must be 1 or more")

    def perturbed(self, models: Model, hyper: Any, key: Array) -> Model:
        """Model[K] with each member moved on its own, or as it is where ``perturb`` is off."""
        if not self.perturb:
            return models
        keys = jax.random.split(key, self.live)
        moved = jax.vmap(lambda params, k: perturb(params, hyper, k, self.norm, self.directions))(models.params, keys)
        return models._replace(params=moved)
