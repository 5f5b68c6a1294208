"""Trajectory matching: train on the synthetic images and arrive where an expert arrived on the real ones.

MTT, "Dataset Distillation by Matching Training Trajectories" (Cazenavette et al. 2022).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from distill_jax import tree
from distill_jax.augment import Siamese
from distill_jax.train import Order, Regime, epochs_order, train
from distill_jax.types import Array, Augmentation, Model, Net, RequestError, Synthetic, TrainSet


@dataclass(frozen=True)
class TrajectoryMatching:
    """Distance between a student, after a few steps on the synthetic set, and its expert (MTT eq. 2).

    The student starts where the model was drawn, ``model.target`` is where the expert was some epochs later. Its steps
    are plain SGD with the learnable rate, and the derivative goes through all of them.
    """

    learns_rate: ClassVar[bool] = True
    needs_target: ClassVar[bool] = True
    """the models must come from a source that ``gives_target``"""

    steps: int = 30
    """N: steps of the student"""
    batch: int = 0
    """synthetic images of all classes in a step; 0: all of them"""
    augment: Augmentation = Siamese("color_crop_cutout_flip_scale_rotate", "one")
    """of each of the student's batches"""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise RequestError(f"objective.steps is {self.steps}: the student needs at least one step")
        if self.batch < 0:
            raise RequestError(f"objective.batch is {self.batch}: it must be 0 (all images) or more")

    def set_loss(self, net: Net, model: Model, real: Array, syn: Synthetic, hyper: Any, key: Array) -> Array:
        """Scalar >= 0; 1 where the student did not move. Differentiable in ``syn.images`` and ``syn.rate``."""
        classes, decoded = syn.images.shape[:2]
        labels = jnp.repeat(jnp.arange(classes), decoded)
        shown = TrainSet(syn.images.reshape(-1, *syn.images.shape[2:]), jax.nn.one_hot(labels, classes))
        n = len(labels)
        batch = min(self.batch or n, n)
        order_key, train_key = jax.random.split(key)
        order = epochs_order(order_key, n, batch, -(-self.steps // -(-n // batch)))
        order = Order(*(a[: self.steps] for a in order))
        return self.distance(net, model, shown, syn.rate, order, train_key)

    def distance(self, net: Net, model: Model, syn: TrainSet, rate: Array | None, order: Order, key: Array) -> Array:
        """|student - target|^2 / |model - target|^2 for a student that saw ``syn`` in ``order`` (golden section 11)."""
        assert rate is not None
        sgd = optax.sgd(rate)
        regime = Regime(order.rows.shape[1], 0.0, self.augment)
        student, _, _ = train(net, model, sgd, sgd.init(model.params), syn, order, regime, key, remat=True)
        travelled = tree.squared_distance(model.params, model.target)
        return tree.squared_distance(student.params, model.target) / travelled
