"""The training loop of networks. Pretraining, the model update and evaluation all call ``train``."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from distill_jax import mesh
from distill_jax.augment import NoAugment, draw_patches, mix
from distill_jax.contracts import Augmentation
from distill_jax.draws import permutations
from distill_jax.micro_batches import TRAINING_PIXELS, forward_batch, loss_and_gradient
from distill_jax.types import (
    Array,
    Choice,
    Model,
    Net,
    Normaliser,
    PyTree,
    RealData,
    RequestError,
    TrainSet,
    accumulator_dtype,
    choice,
    require_at_least,
    require_optimiser,
)


class Pipeline(NamedTuple):
    """The batching and augmentation of a training set; static under ``jit``."""

    batch: int = 64
    """number of images per step"""
    cutmix: float = 0.5
    """probability of cutmix in a step"""
    augment: Augmentation = NoAugment()
    """augmentation of each image, applied before cutmix"""

    def validate(self) -> None:
        """Raise RequestError if the batch or the probability is invalid."""
        require_at_least(1, self, "batch")
        if not 0 <= self.cutmix <= 1:
            raise RequestError(f"cutmix is {self.cutmix}: it is a probability, from 0 to 1")


class Order(NamedTuple):
    """The images of each step."""

    rows: Array
    """int32 [steps, batch]"""
    weights: Array
    """float32 [steps, batch]: 1, or 0 for rows that pad an incomplete batch"""


@choice
class NetworkSGD(Choice):
    """PyTorch's SGD for networks, which adds the weight decay of *all* parameters to the gradient."""

    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4

    def validate(self) -> None:
        require_optimiser(self, "lr", "momentum")
        require_at_least(0, self, "weight_decay")

    def transform(self, schedule: optax.Schedule | None = None) -> optax.GradientTransformation:
        """Return the optax transformation. ``schedule`` maps a step to a factor on the learning rate."""
        rate = self.lr if schedule is None else lambda count: self.lr * schedule(count)
        return optax.chain(optax.add_decayed_weights(self.weight_decay), optax.sgd(rate, self.momentum))


@choice
class NetworkAdam(Choice):
    """AdamW for networks."""

    lr: float = 1e-3
    momentum: float = 0.9
    """beta 1"""
    weight_decay: float = 0.0

    def transform(self, schedule: optax.Schedule) -> optax.GradientTransformation:
        """Return the optax transformation. ``schedule`` maps a step to a factor on the learning rate."""
        adam = optax.adamw(lambda count: self.lr * schedule(count), b1=self.momentum, weight_decay=self.weight_decay)

        def update(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
            # Adam's bias correction takes powers of the integer step, which strict dtype promotion forbids.
            with jax.numpy_dtype_promotion("standard"):
                return adam.update(updates, state, params)

        return optax.GradientTransformation(adam.init, update)


PLAIN_SGD = NetworkSGD(momentum=0.0, weight_decay=0.0)
"""the optimiser of networks in DC, DSA and CAFE, and of MTT's experts"""


def epochs_order(key: Array, n: int, batch: int, epochs: int) -> Order:
    """Return an order with a new permutation of ``n`` images in each epoch.

    If the last batch of an epoch is incomplete, the first images of the epoch pad it with weight 0, so that batch-norm
    statistics still come from real images.
    """
    batch = min(batch, n)
    steps = -(-n // batch)
    rows = jax.vmap(lambda order: jnp.resize(order, (steps, batch)))(permutations(key, epochs, n))
    weights = (jnp.arange(steps * batch) < n).astype(jnp.float32).reshape(steps, batch)
    return Order(rows.reshape(-1, batch), jnp.tile(weights, (epochs, 1)))


def images_order(key: Array, n: int, batch: int, images: int) -> Order:
    """Return an order of full batches with at least ``images`` images. An image repeats only after all ``n``."""
    steps = -(-images // batch)
    rounds = -(-steps * batch // n)
    rows = permutations(key, rounds, n).reshape(-1)
    return Order(rows[: steps * batch].reshape(steps, batch), jnp.ones((steps, batch), jnp.float32))


class FlatNet(NamedTuple):
    """A network whose parameters are one vector, so that an optimiser step is one kernel. This changes no number,
    because the optimisers of networks treat all parameters equally."""

    net: Net
    unflatten: Callable[[Array], PyTree]
    """vector [n] -> the parameters of ``net``"""

    @staticmethod
    @cache
    def of(net: Net) -> FlatNet:
        """Return ``net`` with flat parameters."""
        found: list[FlatNet] = []
        key = jax.eval_shape(jax.random.key, 0)
        jax.eval_shape(lambda key: found.append(FlatNet.like(net, net.init(key).params)), key)
        return found[0]

    @staticmethod
    def like(net: Net, params: PyTree) -> FlatNet:
        """Return ``net``, whose parameters look like ``params``, with flat parameters."""
        return FlatNet(net, ravel_pytree(params)[1])

    def init(self, key: Array) -> Model:
        """Return an untrained model, with flat parameters."""
        model = self.net.init(key)
        return model._replace(params=flatten(model.params))


def flatten(params: PyTree) -> Array:
    """Return parameters as one vector."""
    return ravel_pytree(params)[0]


def train(
    net: Net,
    model: Model,
    optimiser: optax.GradientTransformation,
    state: PyTree,
    data: TrainSet,
    order: Order,
    pipeline: Pipeline,
    key: Array,
    normaliser: Normaliser | None = None,
    remat: bool = False,
) -> tuple[Model, PyTree, Array]:
    """Train along ``order``; return the model, the state of the optimiser and the loss of each step [steps].

    ``state`` is initially ``optimiser.init(flatten(model.params))``. Images are in network space, or uint8, which
    ``normaliser`` converts. With ``remat``, differentiating the result recomputes each step instead of storing its
    activations.
    """
    flat = FlatNet.like(net, model.params)
    model = model._replace(params=flatten(model.params))
    rest = data, order, pipeline, key, normaliser, remat
    model, state, losses = train_flat(flat, model, optimiser, state, *rest)
    return model._replace(params=flat.unflatten(model.params)), state, losses


def train_flat(
    flat: FlatNet,
    model: Model,
    optimiser: optax.GradientTransformation,
    state: PyTree,
    data: TrainSet,
    order: Order,
    pipeline: Pipeline,
    key: Array,
    normaliser: Normaliser | None = None,
    remat: bool = False,
) -> tuple[Model, PyTree, Array]:
    """Train as ``train`` a model with flat parameters."""
    net = flat.net
    steps, batch = order.rows.shape
    shape = (batch, *data.images.shape[1:])
    # One draw for all steps, because a draw in the loop would launch a kernel in each step.
    augment_key, mix_key = jax.random.split(key)
    draws = pipeline.augment.draw_batches(augment_key, steps, batch)
    patches = draw_patches(mix_key, steps, shape) if pipeline.cutmix > 0 else None

    def step(carry: tuple[Array, PyTree, PyTree], xs: tuple[Order, PyTree, Any]) -> tuple[Any, Array]:
        (vector, stats, state), (order, draws, patch) = carry, xs
        x, targets = data.images[order.rows], data.targets[order.rows]
        if x.dtype == jnp.uint8:
            assert normaliser is not None
            x = normaliser.to_network(x)
        x = pipeline.augment.apply_each(x, draws)
        if patch is not None:
            x, targets = mix(x, targets, patch, pipeline.cutmix)
        # Devices share the passes through the network, but not the augmentation, where cutmix combines images.
        weights = order.weights.astype(accumulator_dtype(x.dtype))
        batch, params = (x, targets, weights / jnp.sum(weights)), flat.unflatten(vector)
        if stats or remat:  # batch norm combines images in the network too, and remat differentiates the whole step
            batch = mesh.split_batch(batch, pad=not stats)
            (loss, stats), grads = jax.value_and_grad(partial(_loss, net), has_aux=True)(params, stats, *batch)
        else:
            loss, grads = mesh.batch_sum(partial(network_loss_and_gradient, net), batch, params)
        updates, state = optimiser.update(flatten(grads), state, vector)
        return (optax.apply_updates(vector, updates), stats, state), loss

    if remat:
        step = jax.checkpoint(step, prevent_cse=False)
    (vector, stats, state), losses = jax.lax.scan(step, (model.params, model.stats, state), (order, draws, patches))
    return model._replace(params=vector, stats=stats), state, losses


def _loss(net: Net, params: PyTree, stats: PyTree, x: Array, targets: Array, weights: Array) -> tuple[Array, PyTree]:
    """Return the cross-entropy of ``x`` [N, ...], weighted by ``weights`` [N], and the new running statistics."""
    out, new = net.apply(Model(params, stats), x, train=True)
    losses = optax.softmax_cross_entropy(out.logits, targets)
    return jnp.sum(losses * weights.astype(losses.dtype)), new


def network_loss_and_gradient(net: Net, batch: tuple[Array, Array, Array], params: PyTree) -> tuple[Array, PyTree]:
    """Return the loss (see ``_loss``) and gradient of a network without running statistics."""

    def loss(params: PyTree, *part: Array) -> Array:
        return _loss(net, params, {}, *part)[0]

    return loss_and_gradient(loss, params, *batch, on_accelerator=TRAINING_PIXELS)


def real_train_set(data: RealData) -> TrainSet:
    """Return the real training set as a TrainSet."""
    return TrainSet(data.images, jax.nn.one_hot(data.labels, data.classes))


def count_correct(
    net: Net, model: Model, images: Array, labels: Array, normaliser: Normaliser, chunk: int = 0
) -> Array:
    """Return int32 []: the number of ``images`` (uint8 [N, H, W, c]) that the network, in evaluation mode, classifies
    correctly. ``chunk`` is the batch size; 0: ``micro_batches.forward_batch``."""
    n = images.shape[0]
    chunk = min(chunk, n) or forward_batch(images)
    rows = jnp.arange(-(-n // chunk) * chunk)

    def hits(rows: Array) -> Array:
        out, _ = net.apply(model, normaliser.to_network(images[rows % n]), train=False)
        return jnp.sum((jnp.argmax(out.logits, axis=-1) == labels[rows % n]) & (rows < n))

    return jnp.sum(jax.lax.map(hits, rows.reshape(-1, chunk)))
