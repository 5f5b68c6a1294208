"""The optimiser axis: the update rule of the synthetic images."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import jax
import jax.numpy as jnp
import optax

from distill_jax.contracts import Optimiser
from distill_jax.types import Array, PyTree, RequestError, choice, require_optimiser


@choice
class ClassByClassSGD(Optimiser):
    """SGD with momentum in the update order of IDC's release, vectorised over classes.

    In the release, classes take turns, and every turn is a step on all images with gradient zero for the other classes.
    So momentum moves class c during the c turns before its own and the C - 1 - c turns after it. Classes do not
    interact, so the vectorised form is exact. The state is the momentum, with the shape of the images.
    """

    lr: float = 5e-3
    momentum: float = 0.5

    def validate(self) -> None:
        require_optimiser(self, "lr", "momentum")

    def init(self, images: Array) -> Array:
        return jnp.zeros_like(images)

    def before(self, images: Array, state: Array, scale: Array | float) -> tuple[Array, Array]:
        return self._idle_turns(images, state, scale, jnp.arange(len(images)))

    def after(self, gradients: Array, images: Array, state: Array, scale: Array | float) -> tuple[Array, Array]:
        state = jnp.asarray(self.momentum, images.dtype) * state + gradients
        images = images - jnp.asarray(self.lr * scale, images.dtype) * state
        return self._idle_turns(images, state, scale, len(images) - 1 - jnp.arange(len(images)))

    def _idle_turns(self, images: Array, state: Array, scale: Array | float, count: Array) -> tuple[Array, Array]:
        # After k turns without a gradient, m has become mu^k m and x has moved by -lr (mu + mu^2 + ... + mu^k) m.
        powers = jnp.asarray(self.momentum, images.dtype) ** jnp.arange(len(images), dtype=images.dtype)
        decay, drift = (series[count][:, None, None, None, None] for series in (powers, jnp.cumsum(powers) - 1))
        return images - jnp.asarray(self.lr * scale, images.dtype) * drift * state, decay * state


@choice
class ClassByClassAdam(Optimiser):
    """AdamW in the update order of NCFM's release, vectorised over classes.

    In the release, classes take turns, and every turn is a step on all images with gradient zero for the other classes.
    So every class takes C - 1 steps without a gradient, in which weight decay and momentum act, and the bias
    corrections count all C steps. Classes do not interact, so the vectorised form is exact.
    """

    lr: float = 1e-3
    b1: float = 0.9
    b2: float = 0.999
    weight_decay: float = 5e-4

    def validate(self) -> None:
        require_optimiser(self, "lr", "b1", "b2")

    def init(self, images: Array) -> tuple[Array, Array, Array]:
        """Return (first moment, second moment, number of turns taken)."""
        return jnp.zeros_like(images), jnp.zeros_like(images), jnp.zeros((), jnp.int32)

    def before(self, images: Array, state: PyTree, scale: Array | float) -> tuple[Array, PyTree]:
        """Return the images and the state of each class c after the c turns before its own."""
        first, second, turns = state
        own = jnp.arange(len(images), dtype=jnp.int32)

        def take_turn(i: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            i = i.astype(jnp.int32)
            return self._turn(carry, jnp.zeros_like(images), i < own, turns + 1 + i, scale)

        images, first, second = jax.lax.fori_loop(0, len(images) - 1, take_turn, (images, first, second))
        return images, (first, second, turns)

    def after(self, gradients: Array, images: Array, state: PyTree, scale: Array | float) -> tuple[Array, PyTree]:
        first, second, turns = state
        own = jnp.arange(len(images), dtype=jnp.int32)

        def take_turn(i: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            i = i.astype(jnp.int32)
            current = jnp.where(i == 0, gradients, jnp.zeros_like(gradients))
            return self._turn(carry, current, own + i < len(images), turns + 1 + own + i, scale)

        images, first, second = jax.lax.fori_loop(0, len(images), take_turn, (images, first, second))
        return images, (first, second, turns + len(images))

    def _turn(
        self, carry: tuple[Array, Array, Array], gradients: Array, moves: Array, number: Array, scale: Array | float
    ) -> tuple[Array, Array, Array]:
        """Return (images, moments) after turn ``number``, int32 [C] or [], of each class that ``moves``, bool [C]."""
        images, first, second = carry
        kind = images.dtype
        b1, b2, decay, rate = (jnp.asarray(x, kind) for x in (self.b1, self.b2, self.weight_decay, self.lr * scale))
        number = jnp.broadcast_to(number, moves.shape).astype(kind)[:, None, None, None, None]
        moves = moves[:, None, None, None, None]
        m, v = b1 * first + (1 - b1) * gradients, b2 * second + (1 - b2) * gradients**2
        step = (m / (1 - b1**number)) / (jnp.sqrt(v / (1 - b2**number)) + 1e-8) + decay * images
        return jnp.where(moves, images - rate * step, images), jnp.where(moves, m, first), jnp.where(moves, v, second)


class _Optax(Optimiser):
    """Base class: applies an optax transformation to all images at once."""

    @abstractmethod
    def transform(self, scale: Array | float) -> optax.GradientTransformation: ...

    def init(self, images: Array) -> PyTree:
        return self.transform(1.0).init(images)

    def after(self, gradients: Array, images: Array, state: PyTree, scale: Array | float) -> tuple[Array, PyTree]:
        steps: Any
        # Adam corrects its bias by powers of the integer step count, which strict dtype promotion forbids.
        with jax.numpy_dtype_promotion("standard"):
            steps, state = self.transform(scale).update(gradients, state, images)
        return images + steps, state


@choice
class SGD(_Optax):
    """SGD with momentum that steps on all classes together (DC, DSA, DM, CAFE, MTT)."""

    lr: float = 0.1
    momentum: float = 0.5
    halve_at: tuple[float, ...] = ()
    """fractions of the run after which the learning rate is halved (CAFE)"""

    def validate(self) -> None:
        require_optimiser(self, "lr", "momentum")
        if not all(0 <= share <= 1 for share in self.halve_at):
            raise RequestError(f"optimiser.halve_at is {self.halve_at}: give fractions of the run, from 0 to 1")

    def schedule(self, outer: Array, outer_steps: Array | int) -> Array | float:
        if not self.halve_at:
            return 1.0
        drops = jnp.round(jnp.asarray(self.halve_at, jnp.float32) * jnp.asarray(outer_steps, jnp.float32))
        return jnp.prod(jnp.where(jnp.asarray(outer, jnp.float32) < drops, 1.0, 0.5))

    def transform(self, scale: Array | float) -> optax.GradientTransformation:
        return optax.sgd(self.lr * scale, self.momentum)


@choice
class Adam(_Optax):
    """Adam on all images (Kingma and Ba 2015), or AdamW if ``weight_decay`` is above 0."""

    lr: float = 0.01
    b1: float = 0.9
    b2: float = 0.999
    weight_decay: float = 0.0

    def validate(self) -> None:
        require_optimiser(self, "lr", "b1", "b2")

    def transform(self, scale: Array | float) -> optax.GradientTransformation:
        return optax.adamw(self.lr * scale, self.b1, self.b2, weight_decay=self.weight_decay)


@choice
class ResidualAdam(Adam):
    """Adam whose weight decay pulls towards the initial images instead of zero (CIM).

    This is AdamW on the difference from the initial images. The state is (Adam's state, the initial images).
    """

    weight_decay: float = 0.01

    def init(self, images: Array) -> tuple[PyTree, Array]:
        return super().init(images), jnp.copy(images)

    def after(self, gradients: Array, images: Array, state: PyTree, scale: Array | float) -> tuple[Array, PyTree]:
        adam, first = state
        residual, adam = super().after(gradients, images - first, adam, scale)
        return first + residual, (adam, first)


@choice
class ClippedAdam(Adam):
    """Adam on a gradient that is clipped to ``most`` times the running mean of its own norm (RaT-BPTT appendix).

    The mean starts at the first norm, and is updated with the current norm before clipping. The state is (Adam's,
    mean).
    """

    lr: float = 1e-3
    most: float = 2.0
    memory: float = 0.9
    """decay rate of the running mean per step"""

    def validate(self) -> None:
        super().validate()
        if self.most <= 0 or not 0 <= self.memory < 1:
            raise RequestError(
                f"optimiser.most is {self.most:g} and optimiser.memory is {self.memory:g}: "
                "give most above 0, and memory from 0 to below 1"
            )

    def init(self, images: Array) -> tuple[PyTree, Array]:
        return super().init(images), jnp.asarray(-1, images.dtype)

    def after(self, gradients: Array, images: Array, state: PyTree, scale: Array | float) -> tuple[Array, PyTree]:
        adam, mean = state
        norm = jnp.sqrt(jnp.sum(gradients**2))
        mean = self.mean(mean, norm)
        bound = jnp.asarray(self.most, mean.dtype) * mean
        gradients = gradients * jnp.where(norm > bound, bound / jnp.where(norm > 0, norm, 1), 1)
        images, adam = super().after(gradients, images, adam, scale)
        return images, (adam, mean)

    def mean(self, before: Array, norm: Array) -> Array:
        """Return the running mean ``before``, negative at the start, updated with ``norm``: float []."""
        memory = jnp.asarray(self.memory, norm.dtype)
        return jnp.where(before < 0, norm, memory * before + (1 - memory) * norm)
