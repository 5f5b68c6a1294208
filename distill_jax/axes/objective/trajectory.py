"""Trajectory matching: training on the synthetic images should end where an expert's training on real images ended.

MTT, "Dataset Distillation by Matching Training Trajectories" (Cazenavette et al. 2022), and DATM, "Towards Lossless
Dataset Distillation via Difficulty-Aligned Trajectory Matching" (Guo et al. 2024), which also learns the labels.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from distill_jax import tree
from distill_jax.augment import Siamese
from distill_jax.axes.parameterisation import class_major
from distill_jax.contracts import Augmentation, SetObjective
from distill_jax.train import Order, Pipeline, epochs_order, flatten, train
from distill_jax.types import (
    Array,
    Model,
    Net,
    PyTree,
    RequestError,
    Synthetic,
    TrainSet,
    choice,
    require_at_least,
    require_optimiser,
    static,
)


@choice
class TrajectoryMatching(SetObjective):
    """Distance between a student, after a few steps on the synthetic set, and its expert (MTT eq. 2).

    The student starts at the sampled model; ``model.target`` holds the expert's parameters some epochs later. The
    student takes plain SGD steps, and its learning rate is learned along with the images. The derivative goes through
    all steps.
    """

    needs_target = True
    uses_labels = True
    uses_real = False

    steps: int = 30
    """N: number of steps of the student"""
    batch: int = 0
    """number of synthetic images, over all classes, in a step; 0: all of them"""
    augment: Augmentation = Siamese("color_crop_cutout_flip_scale_rotate", "one")
    """augmentation of each of the student's batches"""
    rate: float = 0.01
    """initial learning rate of the student"""
    rate_lr: float = 1e-5
    """learning rate at which the student's learning rate is learned"""
    rate_momentum: float = 0.5
    threshold: float = static(default=0.0)
    """loss above which a step is skipped, so that nothing moves (DATM's release); 0: skip no step"""

    def validate(self) -> None:
        if self.steps < 1:
            raise RequestError(f"objective.steps is {self.steps}: the student needs at least one step")
        require_at_least(0, self, "batch", zero="all images")
        require_at_least(0, self, "threshold", zero="none")
        require_optimiser(self, "rate")
        require_optimiser(self, "rate_lr", "rate_momentum")

    def learnable(self) -> Array:
        """Return the initial learning rate of the student, float32 []."""
        return jnp.asarray(self.rate, jnp.float32)

    def learnable_optimiser(self) -> optax.GradientTransformation:
        return optax.sgd(self.rate_lr, self.rate_momentum)

    def learned_rate(self, learnable: PyTree) -> Array:
        return learnable

    def skip(self, loss: Array) -> Array | None:
        return loss > self.threshold if self.threshold > 0 else None

    def set_loss(self, net: Net, model: Model, real: Array, syn: Synthetic, key: Array) -> Array:
        """Return the loss, a scalar >= 0 that is 1 if the student did not move.

        It is differentiable in the images, the labels and the learning rate.
        """
        shown = class_major(syn.images, syn.labels)
        n = len(shown.images)
        batch = min(self.batch or n, n)
        order_key, train_key = jax.random.split(key)
        order = epochs_order(order_key, n, batch, -(-self.steps // -(-n // batch)))
        order = Order(*(a[: self.steps] for a in order))
        return self.distance(net, model, shown, syn.learnable, order, train_key)

    def distance(self, net: Net, model: Model, syn: TrainSet, rate: Array, order: Order, key: Array) -> Array:
        """Return |student - target|^2 / |model - target|^2 for a student that trained on ``syn`` in ``order``."""
        sgd = optax.sgd(rate)
        pipeline = Pipeline(order.rows.shape[1], 0.0, self.augment)
        student, _, _ = train(net, model, sgd, sgd.init(flatten(model.params)), syn, order, pipeline, key, remat=True)
        travelled = tree.squared_distance(model.params, model.target)
        return tree.squared_distance(student.params, model.target) / travelled
