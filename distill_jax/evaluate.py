"""Train networks from scratch on a small set and test them: R repeats in one compiled program."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from distill_jax import tree
from distill_jax.augment import Siamese
from distill_jax.pace import blocks
from distill_jax.train import Regime, correct, drops, epochs_order, sgd, train
from distill_jax.types import Array, Augmentation, Model, Net, PyTree, RequestError, TrainSet


@dataclass(frozen=True)
class Protocol:
    """How a set is scored: train ``epochs`` on it from scratch, test once after the last epoch."""

    name: str = "idc"
    epochs: int = 1000
    batch: int = 64
    rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    cutmix: float = 0.5
    augment: Augmentation = Siamese("color_crop_flip_scale_rotate")

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise RequestError(f"epochs is {self.epochs}: it must be at least 1")
        Regime(self.batch, self.cutmix)

    def schedule(self, steps: int):
        """Learning rate by step, for ``steps`` steps an epoch."""
        return drops(self.rate, self.epochs, steps)


IDC = Protocol()
"""IDC and Acc-DD (facts: 1000 epochs, x0.2 at 2/3 and 5/6, cutmix; cutout gives way to cutmix)."""

PROTOCOLS = {"idc": IDC}


class Sets(NamedTuple):
    """R training sets drawn from one store of images."""

    store: TrainSet
    rows: Array
    """int32 [R, M]: the images of each repeat's set"""

    @staticmethod
    def same(store: TrainSet, repeats: int) -> Sets:
        """Every repeat trains on all of ``store``."""
        rows = jnp.arange(store.images.shape[0], dtype=jnp.int32)
        return Sets(store, jnp.tile(rows, (repeats, 1)))


class Progress(NamedTuple):
    """Where an evaluation stands."""

    epoch: int
    epochs: int
    models: Model
    """[R, ...]"""


def training(
    net: Net, protocol: Protocol, sets: Sets, key: Array, mean: Array, std: Array, chunk: int = 0
) -> Iterator[Progress]:
    """Train R networks, yielding about every two seconds; the last Progress holds the trained models.

    ``chunk`` networks are trained at once (0: one on CPU, all elsewhere); the result does not depend on it, nor on when
    it yields.
    """
    repeats = sets.rows.shape[0]
    chunk = chunk or (1 if jax.default_backend() == "cpu" else repeats)
    keys = jax.random.split(key, repeats)
    models, state = _fresh(net, protocol, keys)
    for first, count in blocks(0, protocol.epochs, at_most=protocol.epochs):
        models, state = jax.block_until_ready(
            _epochs(net, protocol, chunk, models, state, sets, keys, mean, std, first, count)
        )
        yield Progress(first + count, protocol.epochs, models)


def accuracies(
    net: Net, protocol: Protocol, sets: Sets, test: tuple[Array, Array], key: Array, mean: Array, std: Array
) -> list[float]:
    """Accuracy in percent of each of R networks trained from scratch, on ``test`` (uint8 images, int labels)."""
    *_, last = training(net, protocol, sets, key, mean, std)
    return test_accuracies(net, last.models, test, mean, std)


def test_accuracies(net: Net, models: Model, test: tuple[Array, Array], mean: Array, std: Array) -> list[float]:
    """Accuracy in percent of each of the models [R, ...] on ``test`` (uint8 images [N, H, W, c], int labels [N])."""
    hits = _hits(net, models, jnp.asarray(test[0]), jnp.asarray(test[1]), mean, std)
    return [100.0 * float(h) / len(test[1]) for h in np.asarray(hits)]


def matched_epochs(protocol: Protocol, images: int, other: int) -> Protocol:
    """``protocol`` for a set of ``other`` images, with about as many steps as it takes on one of ``images``."""
    steps = protocol.epochs * -(-images // protocol.batch)
    return replace(protocol, epochs=max(1, round(steps / -(-other // protocol.batch))))


@partial(jax.jit, static_argnums=(0, 1))
def _fresh(net: Net, protocol: Protocol, keys: Array) -> tuple[Model, PyTree]:
    models = jax.vmap(net.init)(keys)
    return models, jax.vmap(_optimiser(protocol, 1).init)(models.params)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _epochs(
    net: Net,
    protocol: Protocol,
    chunk: int,
    models: Model,
    state: PyTree,
    sets: Sets,
    keys: Array,
    mean: Array,
    std: Array,
    first: Array | int,
    count: Array | int,
) -> tuple[Model, PyTree]:
    size = sets.rows.shape[1]
    regime = Regime(protocol.batch, protocol.cutmix, protocol.augment)
    optimiser = _optimiser(protocol, -(-size // min(protocol.batch, size)))

    def repeat(each: tuple[Model, PyTree, Array, Array]) -> tuple[Model, PyTree]:
        model, state, rows, key = each

        def epoch(e: Array, carry: tuple[Model, PyTree]) -> tuple[Model, PyTree]:
            order_key, train_key = jax.random.split(jax.random.fold_in(key, e))
            order = epochs_order(order_key, size, protocol.batch, 1)
            order = order._replace(rows=rows[order.rows])
            return train(net, carry[0], optimiser, carry[1], sets.store, order, regime, train_key, mean, std)[:2]

        return jax.lax.fori_loop(first, first + count, epoch, (model, state))

    return tree.map_chunks(repeat, (models, state, sets.rows, keys), chunk)


@partial(jax.jit, static_argnums=0)
def _hits(net: Net, models: Model, images: Array, labels: Array, mean: Array, std: Array) -> Array:
    return jax.lax.map(lambda model: correct(net, model, images, labels, mean, std), models)


def _optimiser(protocol: Protocol, steps: int):
    return sgd(protocol.schedule(steps), protocol.momentum, protocol.weight_decay)
