"""Train several networks from scratch, independently of each other, on all devices. Pools and evaluation do this."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from distill_jax import mesh, tree
from distill_jax.micro_batches import TPU_PIXELS
from distill_jax.platform import on_cpu, target
from distill_jax.schedules import SCHEDULES, rate_drops, reset_momentum
from distill_jax.train import (
    FlatNet,
    NetworkAdam,
    NetworkSGD,
    Pipeline,
    epochs_order,
    images_order,
    real_train_set,
    train_flat,
)
from distill_jax.types import Array, Model, Net, Normaliser, PyTree, RealData, TrainSet

Optimiser: TypeAlias = NetworkSGD | NetworkAdam

PIXELS_SIDE_BY_SIDE = 2**21
"""maximum number of pixels in the batches of the networks that an accelerator trains at once: more than enough to fill
the device. In a ConvNet of width 128 their activations take 1.3 kilobytes per pixel."""


class Course(NamedTuple):
    """How each network trains; static under ``jit``."""

    pipeline: Pipeline
    epochs: int
    """E: number of epochs over which ``schedule`` drops the learning rate"""
    schedule: str
    """name in ``schedules.SCHEDULES``"""

    @property
    def restarts(self) -> tuple[int, ...]:
        """Epochs, counted from 0, at whose start the momentum is reset to zero."""
        schedule = SCHEDULES[self.schedule]
        return schedule.drops(self.epochs) if schedule.restarts else ()


class Sets(NamedTuple):
    """R training sets whose images come from one store."""

    store: TrainSet
    rows: Array
    """int32 [R, M]: rows of ``store`` that form each set"""
    rates: Array | None = None
    """float32 [R]: learning rate for each set, which replaces that of the optimiser"""

    @staticmethod
    def same(store: TrainSet, repeats: int) -> Sets:
        """Return ``repeats`` sets that each contain the whole store."""
        rows = np.arange(store.images.shape[0], dtype=np.int32)
        return Sets(store, jnp.asarray(np.tile(rows, (repeats, 1))))


class Networks(NamedTuple):
    """R networks in training."""

    models: Model
    """Model[R], with flat parameters, float32 [R, n]"""
    optimiser: PyTree
    """states of the optimiser [R, ...]"""
    keys: Array
    """key [R], from which a network is initialised and trained"""


def networks_at_once(networks: int, batch: int, shape: tuple[int, ...]) -> int:
    """Return how many of ``networks`` networks a device trains side by side on batches of ``batch`` images of ``shape``
    (H, W, c): one on a CPU; on an accelerator as many as PIXELS_SIDE_BY_SIDE (on a TPU TPU_PIXELS) allows
    (``tree.chunk_within``)."""
    pixels = TPU_PIXELS if target() == "tpu" else PIXELS_SIDE_BY_SIDE
    return 1 if on_cpu() else tree.chunk_within(networks, pixels // (batch * shape[0] * shape[1]))


@partial(jax.jit, static_argnums=0)
def begin(net: Net, optimiser: Optimiser, keys: Array) -> Networks:
    """Return an untrained network for each of ``keys`` [R]."""
    models = jax.lax.map(FlatNet.of(net).init, keys)
    state = jax.vmap(optimiser.transform(rate_drops(1, 1)).init)(models.params)
    return mesh.shard_leading(Networks(models, state, keys), keys.shape[0])


@partial(jax.jit, static_argnums=0)
def models_of(net: Net, networks: Networks) -> Model:
    """Return the networks as Model[R]."""
    models = networks.models
    return models._replace(params=jax.vmap(FlatNet.of(net).unflatten)(models.params))


@partial(jax.jit, static_argnums=(0, 1, 2, 9))
def train_epochs(
    net: Net,
    course: Course,
    chunk: int,
    networks: Networks,
    optimiser: Optimiser,
    data: Sets | RealData,
    normaliser: Normaliser,
    first: Array | int,
    count: Array | int | None = None,
    portions: int = 1,
) -> Networks:
    """Train each network on its set for ``count`` epochs from epoch ``first`` (None: for this epoch, which needs no
    loop), ``chunk`` networks at once on a device.

    On RealData, each network trains on all images. With ``portions``, the data is one of so many portions, and
    ``first`` and ``count`` count portions. A portion has full batches only: each would end with an incomplete one, and
    an epoch has at most one.
    """
    sets = data if isinstance(data, Sets) else None
    size = data.rows.shape[1] if isinstance(data, Sets) else data.images.shape[0]
    batch, flat, whole = min(course.pipeline.batch, size), FlatNet.of(net), portions == 1
    steps = -(-size // batch) if whole else round(size / batch)
    drops = rate_drops(course.epochs, portions * steps, course.schedule)

    def one(
        each: tuple[Networks, Array | None, Array | None],
        store: TrainSet | RealData,
        optimiser: Optimiser,
        normaliser: Normaliser,
        first: Array,
        count: Array | None,
    ) -> Networks:
        network, rows, rate = each
        transform = (optimiser if rate is None else replace(optimiser, lr=rate)).transform(drops)
        train_set = real_train_set(store) if isinstance(store, RealData) else store

        def epoch(e: Array, carry: tuple[Model, PyTree]) -> tuple[Model, PyTree]:
            model, state = carry
            if course.restarts:
                begins = jnp.any(e == jnp.asarray(course.restarts))
                state = jax.tree.map(partial(jnp.where, begins), reset_momentum(state), state)
            order_key, key = jax.random.split(jax.random.fold_in(network.keys, e))
            if whole:
                order = epochs_order(order_key, size, batch, 1)
            else:
                order = images_order(order_key, size, batch, steps * batch)
            if rows is not None:
                order = order._replace(rows=rows[order.rows])
            return train_flat(flat, model, transform, state, train_set, order, course.pipeline, key, normaliser)[:2]

        carry = network.models, network.optimiser
        model, state = epoch(first, carry) if count is None else jax.lax.fori_loop(first, first + count, epoch, carry)
        return network._replace(models=model, optimiser=state)

    each = (networks, sets and sets.rows, sets and sets.rates)
    shared = (sets.store if sets else data, optimiser, normaliser, *jax.tree.map(jnp.asarray, (first, count)))
    return mesh.shard_leading(mesh.map_chunks(one, each, chunk, *shared), networks.keys.shape[0])
