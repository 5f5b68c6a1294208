"""Gradient matching: the distance between the gradients of real and of synthetic images (DC, DSA, IDC, Acc-DD, DREAM).

Every distance is a *sum* over parameter tensors, never a mean over layers, as in the released codes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from distill_jax import tree
from distill_jax.contracts import ClassObjective
from distill_jax.micro_batches import loss_and_gradient
from distill_jax.types import Array, Model, Net, PyTree, RequestError, Shape, choice


def class_gradient(net: Net, model: Model, x: Array, c: Array, constant: bool = False) -> PyTree:
    """Return d/d params of the cross-entropy on ``x`` [N, H, W, c], all of class ``c``, with the network in training
    mode.

    Set ``constant`` if the result is never differentiated; then ``x`` may be split into micro-batches.
    """

    n = len(x)

    def loss(params: PyTree, x: Array) -> Array:
        out, _ = net.apply(model._replace(params=params), x, train=True)
        return jnp.sum(optax.softmax_cross_entropy_with_integer_labels(out.logits, jnp.full(x.shape[:1], c))) / n

    if constant and not model.stats:
        return loss_and_gradient(loss, model.params, x)[1]
    return jax.grad(loss)(model.params, x)


# ------------------------------------------------------------------ distances of two gradient tensors [..., filters]


def mse(a: Array, b: Array) -> Array:
    """Return the sum of squared differences."""
    return jnp.sum((a - b) ** 2)


def l1(a: Array, b: Array) -> Array:
    """Return the sum of absolute differences."""
    return jnp.sum(jnp.abs(a - b))


def l1_mean(a: Array, b: Array) -> Array:
    """Return the mean absolute difference within each filter, summed over filters."""
    return jnp.sum(jnp.mean(jnp.abs(tree.filters(a - b)), axis=0)) if a.ndim > 1 else l1(a, b)


def cos(a: Array, b: Array) -> Array:
    """Return one minus the cosine of each filter's two gradients, summed over filters (DC's layerwise distance)."""
    # A bias vector has one number per filter, so its "cosine" is a sign, as in the released code.
    a, b = tree.filters(a), tree.filters(b)
    return jnp.sum(1 - jnp.sum(a * b, axis=0) / (_norm(a) * _norm(b) + 1e-6))


def _norm(rows: Array) -> Array:
    """Return the norm over axis 0, whose derivative at zero is 0, not NaN (dead filters, biases before a norm)."""
    square = jnp.sum(rows**2, axis=0)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


METRICS: dict[str, Callable[[Array, Array], Array]] = {"mse": mse, "l1": l1, "l1_mean": l1_mean, "cos": cos}


@choice
class GradientMatching(ClassObjective):
    """Distance between the parameter gradients of real and synthetic images (DC eq. 9; IDC eq. 3; Acc-DD eq. 2).

    IDC and Acc-DD match convolution kernels only, with ``mse`` or ``l1``. DC and DSA match convolution and classifier
    kernels with ``cos`` (``head=True``).
    """

    metric: str = "mse"
    """mse, l1, l1_mean or cos"""
    bias: bool = False
    """match biases and norm parameters too; with cos, a bias in front of a norm adds a constant"""
    head: bool = False
    """match the classifier's kernel too"""
    layerwise: bool = True
    """sum one distance per tensor; False: concatenate all matched tensors into one vector first"""

    def validate(self) -> None:
        if self.metric not in METRICS:
            raise RequestError(f"objective.metric {self.metric!r} is unknown: choose one of {', '.join(METRICS)}")

    def check(self, net: Net, shape: Shape) -> None:
        """Raise RequestError if the network has none of the parameters to match."""
        params = jax.eval_shape(lambda: net.init(jax.random.key(0))).params
        if not tree.select_leaves(params, self._is_matched):
            raise RequestError(
                "objective GradientMatching matches convolution kernels, and --net has none: add --objective.head"
            )

    def class_loss(self, net: Net, model: Model, real: Array, syn: Array, c: Array, key: Array) -> Array:
        """Return the loss, a scalar >= 0; zero if ``syn`` equals ``real``. The real gradient is a constant."""
        target = jax.lax.stop_gradient(class_gradient(net, model, real, c, constant=True))
        return self.distance(target, class_gradient(net, model, syn, c))

    def distance(self, a: PyTree, b: PyTree) -> Array:
        """Return the distance between two gradients that have the structure of the network's parameters."""
        left, right = tree.select_leaves(a, self._is_matched), tree.select_leaves(b, self._is_matched)
        if not self.layerwise:
            left, right = ([jnp.concatenate([g.reshape(-1) for g in gs])[:, None]] for gs in (left, right))
        pairs = zip(left, right, strict=True)
        return sum((METRICS[self.metric](x, y) for x, y in pairs), jnp.zeros(()))

    def _is_matched(self, path: tuple[Any, ...], leaf: Array) -> bool:
        if tree.is_conv(path, leaf):
            return True
        return self.head if tree.is_linear(path, leaf) else self.bias
