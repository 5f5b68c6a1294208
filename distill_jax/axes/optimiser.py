"""The optimiser axis: how one step moves the synthetic images."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import jax
import jax.numpy as jnp
import optax

from distill_jax.contracts import Optimiser
from distill_jax.train import piecewise_constant
from distill_jax.types import Array, PyTree, RequestError, choice


@choice
class ClassByClassSGD(Optimiser):
    """SGD with momentum as IDC's release steps, vectorised over classes.

    Classes take turns, and every turn is a step on all images, with gradient zero for the other classes, so momentum
    moves
    class c on during the c turns before its own and the C - 1 - c after it. Classes do not interact, hence this form is
    exact. The state is the momentum, shaped like the images.
    """

    lr: float = 5e-3
    momentum: float = 0.5

    def validate(self) -> None:
        _check(self.lr, self.momentum)

    def init(self, images: Array) -> Array:
        return jnp.zeros_like(images)

    def before(self, images: Array, state: Array, scale: Array | float) -> tuple[Array, Array]:
        return self._idle(images, state, scale, jnp.arange(len(images)))

    def after(self, gradients: Array, images: Array, state: Array, scale: Array | float) -> tuple[Array, Array]:
        state = jnp.asarray(self.momentum, images.dtype) * state + gradients
        images = images - jnp.asarray(self.lr * scale, images.dtype) * state
        return self._idle(images, state, scale, len(images) - 1 - jnp.arange(len(images)))

    def _idle(self, images: Array, state: Array, scale: Array | float, others: Array) -> tuple[Array, Array]:
        # k turns without a gradient: m <- mu^k m, and x has moved by -lr (mu + mu^2 + ... + mu^k) m.
        powers = jnp.asarray(self.momentum, images.dtype) ** jnp.arange(len(images), dtype=images.dtype)
        decay, drift = (series[others][:, None, None, None, None] for series in (powers, jnp.cumsum(powers) - 1))
        return images - jnp.asarray(self.lr * scale, images.dtype) * drift * state, decay * state


class _Optax(Optimiser):
    """An optax transformation of all images at once."""

    @abstractmethod
    def transform(self, scale: Array | float) -> optax.GradientTransformation: ...

    def init(self, images: Array) -> PyTree:
        return self.transform(1.0).init(images)

    def after(self, gradients: Array, images: Array, state: PyTree, scale: Array | float) -> tuple[Array, PyTree]:
        steps: Any
        # Adam corrects its bias by powers of the step, an integer, which strict promotion forbids.
        with jax.numpy_dtype_promotion("standard"):
            steps, state = self.transform(scale).update(gradients, state, images)
        return images + steps, state


@choice
class SGD(_Optax):
    """SGD with momentum, one step for all classes together (DC, DSA, DM, CAFE, MTT)."""

    lr: float = 0.1
    momentum: float = 0.5
    halve_at: tuple[float, ...] = ()
    """shares of the run after which the learning rate is halved (CAFE)"""

    def validate(self) -> None:
        _check(self.lr, self.momentum)
        if not all(0 <= share <= 1 for share in self.halve_at):
            raise RequestError(f"optimiser.halve_at is {self.halve_at}: it takes shares of the run, from 0 to 1")

    def schedule(self, outer: Array, outer_steps: int) -> Any:
        if not self.halve_at:
            return 1.0
        return piecewise_constant([round(share * outer_steps) for share in self.halve_at], 0.5)(outer)

    def transform(self, scale: Array | float) -> optax.GradientTransformation:
        return optax.sgd(self.lr * scale, self.momentum)


@choice
class Adam(_Optax):
    """Adam on all images (Kingma and Ba 2015); AdamW where ``weight_decay`` is above 0."""

    lr: float = 0.01
    b1: float = 0.9
    b2: float = 0.999
    weight_decay: float = 0.0

    def validate(self) -> None:
        _check(self.lr, self.b1)
        _check(self.lr, self.b2)

    def transform(self, scale: Array | float) -> optax.GradientTransformation:
        return optax.adamw(self.lr * scale, self.b1, self.b2, weight_decay=self.weight_decay)


def _check(lr: float, momentum: float) -> None:
    if lr <= 0:
        raise RequestError(f"optimiser.lr is {lr:g}: a learning rate must be above 0")
    if not 0 <= momentum < 1:
        raise RequestError(f"optimiser's momentum is {momentum:g}: it must be from 0 to below 1")
