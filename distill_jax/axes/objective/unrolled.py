"""Truncated backpropagation through the training of a network on the synthetic images.

RaT-BPTT, "Embarrassingly Simple Dataset Distillation" (Feng et al. 2024).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from distill_jax.augment import Siamese
from distill_jax.axes.parameterisation import class_major
from distill_jax.contracts import Augmentation, SetObjective
from distill_jax.draws import permutations
from distill_jax.platform import on_cpu
from distill_jax.train import Order, Pipeline, flatten, network_loss_and_gradient, train
from distill_jax.types import (
    Array,
    Choice,
    Model,
    Net,
    PyTree,
    RequestError,
    Synthetic,
    TrainSet,
    choice,
    require_at_least,
    require_optimiser,
)

EPS = 1e-8


class Moments(NamedTuple):
    """The state of ``InnerAdam``."""

    count: Array
    """int32 []: number of steps taken"""
    first: PyTree
    second: PyTree


@choice
class InnerAdam(Choice):
    """Adam for the unrolled network, in the variant of the released code."""

    lr: float = 1e-3
    b1: float = 0.9
    b2: float = 0.999

    def validate(self) -> None:
        require_optimiser(self, "lr", "b1", "b2")

    def transform(self, taped: bool) -> optax.GradientTransformation:
        """Return the optax transformation.

        ``taped`` selects the variant for differentiated steps: it adds epsilon before it corrects the bias of the
        second moment (package ``higher``), not after (PyTorch, optax).
        """

        def init(params: PyTree) -> Moments:
            zeros = jax.tree.map(jnp.zeros_like, params)
            return Moments(jnp.zeros((), jnp.int32), zeros, zeros)

        def update(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, Moments]:
            count = state.count + 1
            first = jax.tree.map(lambda m, g: _mean(self.b1, m, g), state.first, updates)
            second = jax.tree.map(lambda v, g: _mean(self.b2, v, g * g), state.second, updates)

            def step(m: Array, v: Array) -> Array:
                lr, b1, b2 = (jnp.asarray(x, m.dtype) for x in (self.lr, self.b1, self.b2))
                steps = count.astype(m.dtype)
                root, bias = _root(v), jnp.sqrt(1 - b2**steps)
                denominator = (root + EPS) / bias if taped else root / bias + EPS
                return -lr / (1 - b1**steps) * m / denominator

            return jax.tree.map(step, first, second), Moments(count, first, second)

        return optax.GradientTransformation(init, update)


@choice
class TruncatedBackprop(SetObjective):
    """Cross-entropy on real images of a network after some steps of Adam on the synthetic set (RaT-BPTT section 3).

    The network takes a random number of steps, up to ``steps``. The derivative goes through the last ``window`` of
    them; the parameters and Adam's moments before the window are constants. Each step draws new synthetic images and a
    new augmentation; the real images get their own augmentation. Each image step draws a new number of steps (the
    released code keeps one number for ten image steps).
    """

    uses_labels = True

    steps: int = 200
    """T: maximum number of steps of the network"""
    window: int = 60
    """M: number of differentiated steps at the end"""
    least: int = 0
    """minimum number of steps before the window; ``steps - window`` makes the number of steps constant"""
    batch: int = 0
    """number of synthetic images per class in a step; 0: all of them"""
    class_batch: int = 0
    """number of classes in a step; 0: all of them"""
    inner: InnerAdam = InnerAdam()
    """optimiser of the network"""
    augment: Augmentation = Siamese("flip_rotate", "one")
    """augmentation of each synthetic batch and of the real images, drawn per image"""

    def validate(self) -> None:
        if self.window < 1:
            raise RequestError(f"objective.window is {self.window}: at least one step must be differentiated")
        if self.steps < self.window:
            raise RequestError(
                f"objective.window is {self.window}, but the network takes {self.steps} steps: "
                f"give --objective.steps {self.window} or more"
            )
        if not 0 <= self.least <= self.steps - self.window:
            raise RequestError(
                f"objective.least is {self.least}: with steps {self.steps} and window {self.window} it must be from 0 "
                f"to {self.steps - self.window}"
            )
        require_at_least(0, self, "batch", "class_batch", zero="all")

    def set_loss(self, net: Net, model: Model, real: Array, syn: Synthetic, key: Array) -> Array:
        """Return the loss, a scalar >= 0, differentiable in images and labels.

        ``real`` is [C, B, H, W, c]; ``syn.images`` is [C, D, H, W, c]; ``syn.labels`` is [C, D, C] or None; all are
        float, the images in network space.
        """
        classes, decoded = syn.images.shape[:2]
        shown, real_set = class_major(syn.images, syn.labels), class_major(real)
        length_key, before_key, order_key, within_key, real_key = jax.random.split(key, 5)
        # The end of randint is exclusive.
        before = jax.random.randint(length_key, (), self.least, self.steps - self.window + 1)
        model, state = self.warm(net, model, shown, before, classes, before_key)
        order = jax.vmap(lambda k: self.picks(k, classes, decoded))(jax.random.split(order_key, self.window))
        real_set = real_set._replace(images=self.augment.each(real_key, real_set.images))
        taped = self.inner.transform(taped=True)
        return after_window(net, model, taped, state, shown, order, real_set, within_key, self.augment)

    def warm(
        self, net: Net, model: Model, syn: TrainSet, steps: Array, classes: int, key: Array
    ) -> tuple[Model, PyTree]:
        """Return the model and Adam's state after ``steps`` (int32 []) steps, as constants to the derivative."""
        constants, adam = jax.lax.stop_gradient(syn), self.inner.transform(taped=False)
        decoded = constants.images.shape[0] // classes

        def step(i: Array, carry: tuple[Model, PyTree]) -> tuple[Model, PyTree]:
            pick_key, train_key = jax.random.split(jax.random.fold_in(key, i))
            order = jax.tree.map(lambda a: a[None], self.picks(pick_key, classes, decoded))
            pipeline = Pipeline(order.rows.shape[1], 0.0, self.augment)
            model, state = carry
            return train(net, model, adam, state, constants, order, pipeline, train_key)[:2]

        return jax.lax.fori_loop(0, steps, step, (model, adam.init(flatten(model.params))))

    def picks(self, key: Array, classes: int, decoded: int) -> Order:
        """Draw the synthetic images of one step: rows int32 [n] of a set that is sorted by class."""
        batch, shown = min(self.batch or decoded, decoded), min(self.class_batch or classes, classes)
        class_key, image_key = jax.random.split(key)
        numbers = jnp.arange(classes, dtype=jnp.int32)
        if shown < classes:
            numbers = permutations(class_key, 1, classes)[0, :shown]
        images = jnp.broadcast_to(jnp.arange(decoded, dtype=jnp.int32), (shown, decoded))
        if batch < decoded:
            images = permutations(image_key, shown, decoded)[:, :batch]
        rows = (numbers[:, None] * decoded + images).reshape(-1)
        return Order(rows, jnp.ones(rows.shape, jnp.float32))


def after_window(
    net: Net,
    model: Model,
    optimiser: optax.GradientTransformation,
    state: PyTree,
    syn: TrainSet,
    order: Order,
    real: TrainSet,
    key: Array,
    augment: Augmentation,
) -> Array:
    """Return the mean cross-entropy on ``real`` of ``model`` after it trains on ``syn`` in ``order``.

    Every step is differentiable. Targets may be any numbers >= 0: they weigh log-probabilities without normalisation.
    """
    pipeline = Pipeline(order.rows.shape[1], 0.0, augment)
    model, _, _ = train(net, model, optimiser, state, syn, order, pipeline, key, remat=True)
    if on_cpu() or model.stats:
        out, _ = net.apply(model, real.images, train=True)
        return jnp.mean(optax.softmax_cross_entropy(out.logits, real.targets))
    # The gradient on thousands of real images is summed in micro-batches, so it is computed here and not by jax.
    params, n = jax.lax.stop_gradient(model.params), len(real.images)
    batch = (real.images, real.targets, jnp.full(n, 1 / n))
    loss, gradient = jax.lax.stop_gradient(network_loss_and_gradient(net, batch, params))
    changes = jax.tree.map(jnp.subtract, model.params, params)  # zero, with the derivative one
    return loss + optax.tree.vdot(gradient, changes)


def _mean(decay: float, old: Array, new: Array) -> Array:
    share = jnp.asarray(decay, old.dtype)
    return share * old + (1 - share) * new


def _root(v: Array) -> Array:
    """Return the root of ``v`` >= 0, with derivative 0 instead of infinity at 0, which no gradient ever reached."""
    positive = v > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, v, 1)), 0)
