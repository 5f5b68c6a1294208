"""The labels axis: what the synthetic images are trained towards."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from distill_jax.contracts import Labels
from distill_jax.types import Array, RequestError, choice


@choice
class HardLabels(Labels):
    """The class of each image."""


@choice
class SoftLabels(Labels):
    """Class probabilities: the mean of what the models of the pool see in the finished images."""

    from_teachers = True


@choice
class LearnedLabels(Labels):
    """Logits that are learned along with the images (DATM section 3.3), from ``confidence`` times one-hot."""

    learned = True

    lr: float = 1.0
    momentum: float = 0.5
    confidence: float = 5.0
    """logit of an image's own class at the start; the others are 0"""

    def validate(self) -> None:
        if self.lr <= 0 or not 0 <= self.momentum < 1:
            raise RequestError(
                f"labels.lr {self.lr:g} and labels.momentum {self.momentum:g} make no optimiser: "
                "give a rate above 0 and a momentum from 0 to below 1"
            )

    def init(self, classes: int, decoded: int) -> Array:
        own = jax.nn.one_hot(jnp.arange(classes), classes, dtype=jnp.float32)
        return jnp.broadcast_to(self.confidence * own[:, None, :], (classes, decoded, classes))

    def optimiser(self) -> optax.GradientTransformation:
        return optax.sgd(self.lr, self.momentum)
