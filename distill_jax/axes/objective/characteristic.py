"""Characteristic-function matching: compares feature distributions, not only means (NCFM, Wang et al. 2025)."""

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
    """[T]: the real part"""
    sin: Array
    """[T]: the imaginary part"""

    @property
    def amplitude(self) -> Array:
        """Return the amplitude at each frequency: [T], in [0, 1]."""
        return jnp.sqrt(self.cos**2 + self.sin**2)


def characteristic(features: Array, frequencies: Array) -> Characteristic:
    """Return the characteristic function of ``features`` [N, E], each scaled to length 1, at ``frequencies`` [T, E]."""
    length = jnp.sqrt(jnp.maximum(jnp.sum(features**2, axis=1, keepdims=True), 1e-24))
    angles = (features / length) @ frequencies.T
    return Characteristic(jnp.mean(jnp.cos(angles), axis=0), jnp.mean(jnp.sin(angles), axis=0))


def parts(a: Characteristic, b: Characteristic) -> tuple[Array, Array]:
    """Return (amplitude part, phase part), each [T] and >= 0; their sum is |a - b|^2 (NCFM section 3.3)."""
    amplitude = (a.amplitude - b.amplitude) ** 2
    # This equals 2 (|a| |b| - Re(a conj b)), a form whose rounding error would exceed its value if a and b are close.
    phase = (a.cos - b.cos) ** 2 + (a.sin - b.sin) ** 2 - amplitude
    # If the phases are equal, the root of a rounding error has a huge derivative. The released code uses this bound.
    return amplitude, jnp.maximum(phase, 1e-12)


@choice
class CharacteristicFunction(ClassObjective):
    """Distance between the characteristic functions of real and synthetic features (NCFM section 3).

    The frequencies are drawn from the standard normal distribution for each class and step; NCFM's network that samples
    frequencies is omitted. The features are the pooled output of the last block. If both parts have equal weights, each
    term is the distance between two complex numbers, up to a factor. More ``amplitude`` weight favours diversity, more
    ``phase`` weight favours realism.
    """

    frequencies: int = 4096
    """T, the number of frequencies; the paper states 1024, its released configurations 4096"""
    amplitude: float = 0.5
    """weight of the amplitude difference (alpha)"""
    phase: float = 0.5
    """weight of the phase difference (beta)"""
    scale: float = 300.0
    """factor on the loss"""

    def validate(self) -> None:
        require_at_least(1, self, "frequencies")
        if self.amplitude < 0 or self.phase <= 0:
            raise RequestError(
                f"objective.amplitude is {self.amplitude:g} and objective.phase is {self.phase:g}: "
                "give an amplitude of 0 or more and a phase above 0"
            )

    def class_loss(self, net: Net, model: Model, real: Array, syn: Array, c: Array, key: Array) -> Array:
        """Return the loss, a scalar >= 0. The real features are constants."""
        real_features = forward(partial(_features, net, model), model, jax.lax.stop_gradient(real))
        syn_features = _features(net, model, syn)
        shape = (self.frequencies, syn_features.shape[1])
        # The augmentation uses branches 0 and 1 of this key.
        t = jax.random.normal(jax.random.fold_in(key, 2), shape, syn_features.dtype)
        return self.distance(jax.lax.stop_gradient(real_features), syn_features, t)

    def distance(self, real: Array, syn: Array, frequencies: Array) -> Array:
        """Return the loss, a scalar >= 0, of features [B, E] and [D, E] at ``frequencies`` [T, E]."""
        amplitude, phase = parts(characteristic(real, frequencies), characteristic(syn, frequencies))
        return self.scale * jnp.mean(jnp.sqrt(self.amplitude * amplitude + self.phase * phase))


@choice
class CalibratedCharacteristic(CharacteristicFunction):
    """Adds a trained network's cross-entropy on the synthetic images to the distance above (NCFM section 4.1).

    The trained network is the target that each model comes with. The released code alternates between steps on the two
    losses; here each step follows their sum, as the paper writes it.
    """

    needs_target = True

    calibration: float = 1.0
    """weight of the cross-entropy"""

    def validate(self) -> None:
        super().validate()
        require_at_least(0, self, "calibration")

    def class_loss(self, net: Net, model: Model, real: Array, syn: Array, c: Array, key: Array) -> Array:
        """Return the loss, a scalar >= 0."""
        distance = super().class_loss(net, model, real, syn, c, key)
        return distance + self.calibration * calibration_loss(net, model, syn, c)


def calibration_loss(net: Net, model: Model, syn: Array, c: Array) -> Array:
    """Return the cross-entropy of ``model.target`` on ``syn`` [D, H, W, c], all of class ``c``: a scalar >= 0."""
    out, _ = net.apply(model._replace(params=model.target), syn, train=True)
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(out.logits, jnp.full(syn.shape[:1], c)))


def _features(net: Net, model: Model, x: Array) -> Array:
    out, _ = net.apply(model, x, train=True)
    return out.blocks[-1].after.reshape(x.shape[0], -1)
