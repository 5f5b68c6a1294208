"""The labels axis: the training targets of the synthetic images."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from distill_jax.contracts import Labels
from distill_jax.micro_batches import forward_batch
from distill_jax.types import Array, Model, Net, RequestError, TrainSet, choice, require_optimiser


@choice
class HardLabels(Labels):
    """One-hot labels: the class of each image."""


@choice
class SoftLabels(Labels):
    """Class probabilities: the mean prediction of the pool's models on the finished images."""

    from_teachers = True


@choice
class LearnedLabels(Labels):
    """Logits that are learned together with the images (DATM section 3.3)."""

    learned = True

    lr: float = 1.0
    momentum: float = 0.5
    confidence: float = 5.0
    """initial logit of an image's own class; the other logits start at 0"""
    start: str = "class"
    """initial logits: 'class': ``confidence`` times one-hot; 'teachers': the logits of the pool's networks"""

    @property
    def init_uses_teachers(self) -> bool:
        return self.start == "teachers"

    def validate(self) -> None:
        if self.start not in ("class", "teachers"):
            raise RequestError(f"labels.start is {self.start!r}: it must be 'class' or 'teachers'")
        require_optimiser(self, "lr", "momentum")

    def init(self, net: Net, teachers: Model | None, initial: TrainSet) -> Array:
        """Return the initial logits, float32 [C, D, C]."""
        classes = initial.targets.shape[1]
        if not self.init_uses_teachers or teachers is None:
            return self.confidence * initial.targets.reshape(classes, -1, classes)

        n, step = len(initial.images), forward_batch(initial.images)
        rows = (jnp.arange(-(-n // step) * step) % n).reshape(-1, step)

        def teacher_logits(model: Model) -> Array:
            batches = jax.lax.map(lambda rows: net.apply(model, initial.images[rows], train=False)[0].logits, rows)
            return batches.reshape(-1, classes)[:n]

        logits = teachers_logits(jax.lax.map(teacher_logits, teachers), jnp.argmax(initial.targets, axis=-1))
        return logits.reshape(classes, -1, classes)

    def optimiser(self) -> optax.GradientTransformation:
        return optax.sgd(self.lr, self.momentum)


def teachers_logits(logits: Array, labels: Array) -> Array:
    """Return [M, C]: for each image the mean of ``logits`` [P, M, C] over the teachers that predict its label, int [M].

    If no teacher predicts the label, the mean is over all teachers: the released code divides by zero.
    """
    correct = (jnp.argmax(logits, axis=-1) == labels[None, :]).astype(logits.dtype)
    correct = jnp.where(jnp.any(correct > 0, axis=0, keepdims=True), correct, jnp.ones_like(correct))
    return jnp.sum(correct[:, :, None] * logits, axis=0) / jnp.sum(correct, axis=0)[:, None]
