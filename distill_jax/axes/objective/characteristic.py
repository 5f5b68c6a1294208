"""Characteristic-function matching: how features are distributed, not their mean alone (NCFM, Wang et al. 2025)."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from distill_jax.contracts import ClassObjective
from distill_jax.micro_batches import forward
from distill_jax.types import Array, Model, Net, RequestError, choice, require_at_least


class Characteristic(NamedTuple):
    """The empirical characteristic function, the mean of exp(i t.f) over images, at T frequencies."""

    cos: Array
    """[T]: its real part"""
    sin: Array
    """[T]: its imaginary part"""

    @property
    def amplitude(self) -> Array:
        """[T], in [0, 1]"""
        return jnp.sqrt(self.cos**2 + self.sin**2)


def characteristic(features: Array, frequencies: Array) -> Characteristic:
    """That of ``features`` [N, E], each scaled to length 1, at ``frequencies`` [T, E]."""
    length = jnp.sqrt(jnp.maximum(jnp.sum(features**2, axis=1, keepdims=True), 1e-24))
    angles = (features / length) @ frequencies.T
    return Characteristic(jnp.mean(jnp.cos(angles), axis=0), jnp.mean(jnp.sin(angles), axis=0))


def parts(a: Characteristic, b: Characteristic) -> tuple[Array, Array]:
    """(amplitude part, phase part), each [T] and >= 0; their sum is |a - b|^2 (NCFM section 3.3)."""
    amplitude = (a.amplitude - b.amplitude) ** 2
    # Equal to 2 (|a| |b| - Re(a conj b)), whose rounding error, where a and b are near, would be larger than itself.
    phase = (a.cos - b.cos) ** 2 + (a.sin - b.sin) ** 2 - amplitude
    # Where phases are equal the root of a rounding error has a huge derivative: the bound is that of the released code.
    return amplitude, jnp.maximum(phase, 1e-12)


@choice
class CharacteristicFunction(ClassObjective):
    """Distance between the characteristic functions of real and synthetic features, at frequencies drawn anew for each
    class and step from the standard normal distribution (NCFM section 3, without its network that draws them).

    Features are the pooled output of the last block. Equal weights of the two parts make each term, but for a factor,
    the distance of two complex numbers; more ``amplitude`` asks for diversity, more ``phase`` for likeness.
    """

    frequencies: int = 4096
    """T; the paper says 1024, its released configurations 4096"""
    amplitude: float = 0.5
    """weight of the difference of amplitudes (alpha)"""
    phase: float = 0.5
    """weight of the difference of phases (beta)"""
    scale: float = 300.0
    """what the loss is multiplied by"""

    def validate(self) -> None:
        require_at_least(1, self, "frequencies")
        if self.amplitude < 0 or self.phase <= 0:
            raise RequestError(
                f"objective.amplitude {self.amplitude:g} and objective.phase {self.phase:g} are no weights: "
                "give an amplitude of 0 or more and a phase above 0"
            )

    def class_loss(self, net: Net, model: Model, real: Array, syn: Array, c: Array, key: Array) -> Array:
        """Scalar >= 0. The real features are constants."""
        theirs = forward(partial(_features, net, model), model, jax.lax.stop_gradient(real))
        ours = _features(net, model, syn)
        shape = (self.frequencies, ours.shape[1])
        # Branches 0 and 1 of this key are the augmentation's.
        t = jax.random.normal(jax.random.fold_in(key, 2), shape, ours.dtype)
        return self.distance(jax.lax.stop_gradient(theirs), ours, t)

    def distance(self, real: Array, syn: Array, frequencies: Array) -> Array:
        """Scalar >= 0: of features [B, E] and [D, E] at ``frequencies`` [T, E]."""
        amplitude, phase = parts(characteristic(real, frequencies), characteristic(syn, frequencies))
        return self.scale * jnp.mean(jnp.sqrt(self.amplitude * amplitude + self.phase * phase))


@choice
class CalibratedCharacteristic(CharacteristicFunction):
    """The same, and what the trained network has to say: its cross-entropy on the synthetic images (NCFM section 4.1).

    The trained network is the target that each model comes with. The released code takes the two kinds of steps in
    turn; here one step follows the sum of both, which is what the paper writes.
    """

    needs_target = True

    calibration: float = 1.0
    """weight of the cross-entropy"""

    def validate(self) -> None:
        super().validate()
        require_at_least(0, self, "calibration")

    def class_loss(self, net: Net, model: Model, real: Array, syn: Array, c: Array, key: Array) -> Array:
        """Scalar >= 0."""
        matched = super().class_loss(net, model, real, syn, c, key)
        return matched + self.calibration * calibration_loss(net, model, syn, c)


def calibration_loss(net: Net, model: Model, syn: Array, c: Array) -> Array:
    """Scalar >= 0: cross-entropy of ``model.target`` on ``syn`` [D, H, W, c], all of class ``c``."""
    out, _ = net.apply(model._replace(params=model.target), syn, train=True)
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(out.logits, jnp.full(syn.shape[:1], c)))


def _features(net: Net, model: Model, x: Array) -> Array:
    out, _ = net.apply(model, x, train=True)
    return out.blocks[-1].after.reshape(x.shape[0], -1)
