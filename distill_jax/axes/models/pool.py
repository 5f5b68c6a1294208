"""Training the networks of a pool, member by member, so that a killed run keeps those that are finished."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from distill_jax import tree
from distill_jax.train import NetworkSGD, Pipeline, epochs_order, fresh, rate_drops, real_set, train
from distill_jax.types import Array, Members, Model, Net, PyTree, RealData, Tick

AT_ONCE = 8
"""networks that an accelerator trains side by side at most: a hundred experts' activations do not fit"""


def train_pool(
    net: Net,
    data: RealData,
    size: int,
    epochs: int,
    pipeline: Pipeline,
    optimiser: NetworkSGD,
    key: Array,
    tick: Tick,
    members: Members | None = None,
    falling: bool = True,
    keep: tuple[int, ...] | None = None,
) -> Model:
    """``size`` networks from different seeds after each epoch in ``keep`` (None: 0, 1, ..., ``epochs``): Model[P, T].

    One call of a compiled epoch per network on a CPU, for AT_ONCE of them on an accelerator. ``falling``: the learning
    rate drops towards the end as in evaluation; else it is constant. ``members`` keeps each group when it is finished.
    """
    at_once = 1 if jax.default_backend() == "cpu" else AT_ONCE
    length = epochs if falling else None
    keep = tuple(range(epochs + 1)) if keep is None else keep
    groups = []
    for first in range(0, size, at_once):
        group = range(first, min(first + at_once, size))
        keys = jnp.stack([jax.random.fold_in(key, i) for i in group])
        models = fresh(net, keys)
        like = jax.eval_shape(lambda m: tree.stack([m] * len(keep), axis=1), models)
        found = None if members is None else members.get(first, like)
        if found is None:
            state = _init(length, optimiser, models.params)
            history = [models] if 0 in keep else []
            for epoch in range(epochs):
                models, state = _epoch(net, pipeline, length, models, state, data, optimiser, keys, epoch)
                history += [models] if epoch + 1 in keep else []
                tick(first * epochs + (epoch + 1) * len(group), size * epochs)
            found = tree.stack(history, axis=1)
            if members is not None:
                members.put(first, found)
        groups.append(found)
    return jax.tree.map(lambda *a: jnp.concatenate(a), *groups)


@partial(jax.jit, static_argnums=0)
def _init(length: int | None, optimiser: NetworkSGD, params: PyTree) -> PyTree:
    return jax.vmap(_transform(optimiser, length, 1).init)(params)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _epoch(
    net: Net,
    pipeline: Pipeline,
    length: int | None,
    models: Model,
    state: PyTree,
    data: RealData,
    optimiser: NetworkSGD,
    keys: Array,
    epoch: int,
) -> tuple[Model, PyTree]:
    n = data.images.shape[0]
    transform = _transform(optimiser, length, -(-n // pipeline.batch))

    def one(model: Model, state: PyTree, key: Array) -> tuple[Model, PyTree]:
        order_key, train_key = jax.random.split(jax.random.fold_in(key, epoch + 1))
        order = epochs_order(order_key, n, pipeline.batch, 1)
        model, state, _ = train(
            net, model, transform, state, real_set(data), order, pipeline, train_key, data.normaliser
        )
        return model, state

    return tree.map_chunks(lambda each: one(*each), (models, state, keys), keys.shape[0])


def _transform(optimiser: NetworkSGD, length: int | None, steps: int):
    return optimiser.transform(None if length is None else rate_drops(length + 1, steps))
