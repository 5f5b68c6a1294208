"""Soft labels: class probabilities of the distilled images under networks trained on the real data."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from distill_jax.distilled import DistilledSet
from distill_jax.micro_batches import forward_batch
from distill_jax.spec import Spec
from distill_jax.types import Array, Model, Net, PyTree, TrainSet


def with_teacher_labels(distilled: DistilledSet, net: Net, teachers: Model) -> DistilledSet:
    """Return ``distilled`` with soft labels: the mean class probabilities of the ``teachers``, Model[P], for each
    decoded image. The teachers are in evaluation mode and the images are not augmented."""
    return distilled.with_soft(probabilities(net, teachers, distilled.arrays()[0]))


def with_labels(made: TrainSet, spec: Spec, net: Net, pool: PyTree) -> TrainSet:
    """Return ``made`` with the probabilities of the ``pool``'s networks as targets if ``spec`` asks for soft labels."""
    teachers = spec.models.teachers(pool) if spec.labels.from_teachers else None
    return made if teachers is None else made._replace(targets=jnp.asarray(probabilities(net, teachers, made.images)))


def probabilities(net: Net, teachers: Model, images: np.ndarray | Array) -> np.ndarray:
    """Return float32 [N, C]: the mean class probabilities of the ``teachers``, Model[P] in evaluation mode, for
    ``images`` [N, H, W, c] in network space."""
    step = forward_batch(images)
    parts = [jnp.asarray(images[first : first + step]) for first in range(0, len(images), step)]
    return np.concatenate([np.asarray(_probabilities(net, teachers, part)) for part in parts])


@partial(jax.jit, static_argnums=0)
def _probabilities(net: Net, teachers: Model, images: Array) -> Array:
    def of_teacher(model: Model) -> Array:
        return jax.nn.softmax(net.apply(model, images, train=False)[0].logits)

    return jnp.mean(jax.lax.map(of_teacher, teachers), axis=0)
