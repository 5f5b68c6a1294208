"""The labels axis: what the synthetic images are trained towards."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from distill_jax.contracts import Labels
from distill_jax.types import Array, Model, Net, RequestError, TrainSet, choice


@choice
class HardLabels(Labels):
    """The class of each image."""


@choice
class SoftLabels(Labels):
    """Class probabilities: the mean of what the models of the pool see in the finished images."""

    from_teachers = True


@choice
class LearnedLabels(Labels):
    """Logits that are learned along with the images (DATM section 3.3)."""

    learned = True

    lr: float = 1.0
    momentum: float = 0.5
    confidence: float = 5.0
    """logit of an image's own class at the start; the others are 0"""
    start: str = "class"
    """where logits start: 'class': ``confidence`` times one-hot; 'teachers': what the pool's networks see"""

    @property
    def init_uses_teachers(self) -> bool:
        return self.start == "teachers"

    def validate(self) -> None:
        if self.start not in ("class", "teachers"):
            raise RequestError(f"labels.start is {self.start!r}: it must be 'class' or 'teachers'")
        if self.lr <= 0 or not 0 <= self.momentum < 1:
            raise RequestError(
                f"labels.lr {self.lr:g} and labels.momentum {self.momentum:g} make no optimiser: "
                "give a rate above 0 and a momentum from 0 to below 1"
            )

    def init(self, net: Net, teachers: Model | None, shown: TrainSet) -> Array:
        """float32 [C, D, C]."""
        classes = shown.targets.shape[1]
        if not self.init_uses_teachers or teachers is None:
            return self.confidence * shown.targets.reshape(classes, -1, classes)

        def of_teacher(model: Model) -> Array:
            return net.apply(model, shown.images, train=False)[0].logits

        logits = teachers_logits(jax.lax.map(of_teacher, teachers), jnp.argmax(shown.targets, axis=-1))
        return logits.reshape(classes, -1, classes)

    def optimiser(self) -> optax.GradientTransformation:
        return optax.sgd(self.lr, self.momentum)


def teachers_logits(logits: Array, labels: Array) -> Array:
    """[M, C]: each image's mean of ``logits`` [P, M, C] over the teachers that see its class, int [M], in it.

    Over all teachers where none does: the released code divides by zero.
    """
    right = (jnp.argmax(logits, axis=-1) == labels[None, :]).astype(logits.dtype)
    right = jnp.where(jnp.any(right > 0, axis=0, keepdims=True), right, jnp.ones_like(right))
    return jnp.sum(right[:, :, None] * logits, axis=0) / jnp.sum(right, axis=0)[:, None]
