"""The one training loop: pretraining, the model update between steps, and evaluation all call ``train``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from distill_jax import mesh
from distill_jax.augment import NoAugment, draw_patches, mix
from distill_jax.contracts import Augmentation
from distill_jax.draws import permutations
from distill_jax.micro_batches import forward_batch, loss_and_gradient
from distill_jax.platform import on_cpu
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
    choice,
    require_at_least,
)


class Pipeline(NamedTuple):
    """How a network is shown a training set: everything about training except its optimiser and length. Static."""

    batch: int = 64
    """images per step"""
    cutmix: float = 0.5
    """probability per step"""
    augment: Augmentation = NoAugment()
    """drawn per image, before cutmix"""

    def validate(self) -> None:
        """Raise RequestError for a batch or a probability that makes no sense."""
        require_at_least(1, self, "batch")
        if not 0 <= self.cutmix <= 1:
            raise RequestError(f"cutmix is {self.cutmix}: it is a probability, from 0 to 1")


class Order(NamedTuple):
    """Which images each step sees."""

    rows: Array
    """int32 [steps, batch]"""
    weights: Array
    """float32 [steps, batch]: 0 for the rows that pad an incomplete batch"""


@choice
class NetworkSGD(Choice):
    """PyTorch's SGD for networks: weight decay on *all* parameters, added to the gradient."""

    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4

    def validate(self) -> None:
        if self.lr <= 0:
            raise RequestError(f"lr is {self.lr:g}: a learning rate must be above 0")
        if not 0 <= self.momentum < 1:
            raise RequestError(f"momentum is {self.momentum:g}: it must be from 0 to below 1")
        require_at_least(0, self, "weight_decay")

    def transform(self, schedule: optax.Schedule | None = None) -> optax.GradientTransformation:
        """The optax form; ``schedule`` multiplies the learning rate by step."""
        rate = self.lr if schedule is None else lambda count: self.lr * schedule(count)
        return optax.chain(optax.add_decayed_weights(self.weight_decay), optax.sgd(rate, self.momentum))


PLAIN_SGD = NetworkSGD(momentum=0.0, weight_decay=0.0)
"""how DC, DSA, CAFE and MTT's experts train their networks"""


class Schedule(NamedTuple):
    """How the learning rate falls over E epochs of training."""

    drops: Callable[[int], tuple[int, ...]]
    """E -> how many epochs come before each drop"""
    factor: float
    """what each drop multiplies the rate by"""
    extra: int = 0
    """epochs beyond E"""
    restarts: bool = False
    """each drop also makes a new optimiser: momentum starts again from zero"""


SCHEDULES = {
    "thirds": Schedule(lambda epochs: (2 * epochs // 3, 5 * epochs // 6), 0.2),
    "constant": Schedule(lambda epochs: (), 1.0),
    "half": Schedule(lambda epochs: (epochs // 2,), 0.1),
    "dc": Schedule(lambda epochs: (epochs // 2 + 2,), 0.1, extra=1, restarts=True),
}
"""thirds: IDC, Acc-DD; dc: DC, DSA, DM, MTT and DC-Bench, as released; half: DD-Ranking; constant: RaT-BPTT"""


def rate_drops(epochs: int, steps: int, schedule: str = "thirds") -> optax.Schedule:
    """What the learning rate is multiplied by at each step of ``epochs`` epochs of ``steps`` steps: 1, then less."""
    how = SCHEDULES[schedule]
    return piecewise_constant([epoch * steps for epoch in how.drops(epochs)], how.factor)


def piecewise_constant(drops: Sequence[int], factor: float) -> optax.Schedule:
    """1, multiplied by ``factor`` from each count in ``drops`` on; several drops may coincide."""
    scales: dict[int, float] = {}
    for count in drops:
        scales[count] = scales.get(count, 1.0) * factor
    schedule = optax.piecewise_constant_schedule(1.0, scales)
    # optax mixes the count, an integer, with floats, which strict promotion forbids.
    return lambda count: schedule(jnp.asarray(count, float))


def reset_momentum(state: PyTree) -> PyTree:
    """The state of ``NetworkSGD`` with its momentum zero, as in a new optimiser; the schedule goes on."""
    return optax.tree.set(state, trace=jax.tree.map(jnp.zeros_like, optax.tree.get(state, "trace")))


@partial(jax.jit, static_argnums=0)
def init_networks(net: Net, keys: Array) -> Model:
    """Untrained networks, one from each of ``keys`` [P]: Model[P]."""
    return jax.lax.map(net.init, keys)


def epochs_order(key: Array, n: int, batch: int, epochs: int) -> Order:
    """A fresh permutation of ``n`` images per epoch; the last batch of an epoch may be incomplete.

    Its padding repeats the epoch's first images with weight 0, so batch-norm statistics still come from real images.
    """
    batch = min(batch, n)
    steps = -(-n // batch)
    rows = jax.vmap(lambda order: jnp.resize(order, (steps, batch)))(permutations(key, epochs, n))
    weights = (jnp.arange(steps * batch) < n).astype(jnp.float32).reshape(steps, batch)
    return Order(rows.reshape(-1, batch), jnp.tile(weights, (epochs, 1)))


def images_order(key: Array, n: int, batch: int, images: int) -> Order:
    """Full batches until ``images`` or more were seen, without repetition while ``n`` lasts."""
    steps = -(-images // batch)
    rounds = -(-steps * batch // n)
    rows = permutations(key, rounds, n).reshape(-1)
    return Order(rows[: steps * batch].reshape(steps, batch), jnp.ones((steps, batch), jnp.float32))


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
    """Scan over ``order``; returns the model, the optimiser's state and the loss of each step [steps].

    ``data.images`` in network space are used as they are; uint8 images go through ``normaliser``.
    ``remat``: a derivative of the result computes each step again instead of keeping its activations.
    """

    steps, batch = order.rows.shape
    shape, packed = (batch, *data.images.shape[1:]), _packing(model.params)
    # Drawn for all steps at once: in the loop each draw would be a kernel of its own.
    augment_key, mix_key = jax.random.split(key)
    draws = pipeline.augment.draw_batches(augment_key, steps, batch)
    patches = draw_patches(mix_key, steps, shape) if pipeline.cutmix > 0 else None

    def step(carry: tuple[PyTree, PyTree, PyTree], now: tuple[Order, PyTree, Any]) -> tuple[Any, Array]:
        (held, stats, state), (picks, draws, patch) = carry, now
        x, targets = data.images[picks.rows], data.targets[picks.rows]
        if x.dtype == jnp.uint8:
            assert normaliser is not None
            x = normaliser.to_network(x)
        x = pipeline.augment.apply_each(x, draws)
        if patch is not None:
            x, targets = mix(x, targets, patch, pipeline.cutmix)
        # Devices share the passes through the network; before them images meet each other, which would cost more.
        batch, params = (x, targets, picks.weights / jnp.sum(picks.weights)), packed.unpack(held)
        if stats or remat:  # with batch norm, images meet in the network too; and a derivative is taken of the whole
            batch = mesh.split_batch(batch)
            (loss, stats), grads = jax.value_and_grad(partial(_loss, net), has_aux=True)(params, stats, *batch)
        else:
            loss, grads = mesh.batch_sum(partial(_loss_and_gradient, net), batch, params)
        updates, state = optimiser.update(packed.pack(grads), state, held)
        return (optax.apply_updates(held, updates), stats, state), loss

    if remat:
        step = jax.checkpoint(step, prevent_cse=False)
    carry = (packed.pack(model.params), model.stats, packed.pack_state(state))
    (held, stats, after), losses = jax.lax.scan(step, carry, (order, draws, patches))
    return model._replace(params=packed.unpack(held), stats=stats), packed.unpack_state(after, state), losses


def _loss(net: Net, params: PyTree, stats: PyTree, x: Array, targets: Array, weights: Array) -> tuple[Array, PyTree]:
    """The cross-entropy of ``x`` [N, ...], summed with ``weights`` [N], and the new running statistics."""
    out, new = net.apply(Model(params, stats), x, train=True)
    losses = optax.softmax_cross_entropy(out.logits, targets)
    return jnp.sum(losses * weights.astype(losses.dtype)), new


def _loss_and_gradient(net: Net, batch: tuple[Array, Array, Array], params: PyTree) -> tuple[Array, PyTree]:
    """Of a batch whose images do not meet in the network."""
    return loss_and_gradient(lambda params, *part: _loss(net, params, {}, *part)[0], params, *batch)


class _Packing(NamedTuple):
    """Parameters as the loop holds them: on an accelerator one vector, so that a step of the optimiser is one kernel
    and not one for each array. That changes no number, because what trains networks treats every parameter alike."""

    pack: Callable[[PyTree], PyTree]
    unpack: Callable[[PyTree], PyTree]
    like: Any
    """the structure of the parameters"""

    def pack_state(self, state: PyTree) -> PyTree:
        """An optimiser's state with what is shaped like the parameters packed."""
        return jax.tree.map(lambda part: self.pack(part) if self._is_like(part) else part, state, is_leaf=self._is_like)

    def unpack_state(self, packed: PyTree, state: PyTree) -> PyTree:
        """The inverse; ``state`` is one that is not packed."""

        def part(was: PyTree, now: PyTree) -> PyTree:
            return self.unpack(now) if self._is_like(was) else now

        return jax.tree.map(part, state, packed, is_leaf=self._is_like)

    def _is_like(self, part: PyTree) -> bool:
        return self.like is not None and jax.tree.structure(part) == self.like


def _packing(params: PyTree) -> _Packing:
    if on_cpu():
        return _Packing(lambda tree: tree, lambda tree: tree, None)
    return _Packing(lambda tree: ravel_pytree(tree)[0], ravel_pytree(params)[1], jax.tree.structure(params))


def real_train_set(data: RealData) -> TrainSet:
    """The real training set as the training loop takes it."""
    return TrainSet(data.images, jax.nn.one_hot(data.labels, data.classes))


def count_correct(
    net: Net, model: Model, images: Array, labels: Array, normaliser: Normaliser, chunk: int = 0
) -> Array:
    """How many of ``images`` (uint8 [N, H, W, c]) the network, in evaluation mode, classifies right: int32 [].
    ``chunk`` of them go through it at once; 0: ``micro_batches.forward_batch``."""
    n = images.shape[0]
    chunk = min(chunk, n) or forward_batch(images)
    rows = jnp.arange(-(-n // chunk) * chunk)

    def hits(rows: Array) -> Array:
        out, _ = net.apply(model, normaliser.to_network(images[rows % n]), train=False)
        return jnp.sum((jnp.argmax(out.logits, axis=-1) == labels[rows % n]) & (rows < n))

    return jnp.sum(jax.lax.map(hits, rows.reshape(-1, chunk)))
