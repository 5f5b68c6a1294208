"""The early-stage pool, and training several networks side by side (Acc-DD section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from distill_jax import tree
from distill_jax.models.perturb import Drawn
from distill_jax.train import Regime, drops, epochs_order, fresh, real_set, sgd, train
from distill_jax.types import Array, Model, Net, PyTree, RealData, RequestError, Tick

AT_ONCE = 8
"""networks that an accelerator trains side by side at most: a hundred experts' activations do not fit"""


@dataclass(frozen=True)
class EarlyStagePool(Drawn):
    """A few networks trained for a few epochs on the real data, picked uniformly (Acc-DD section 3.2)."""

    size: int = 5
    """P: networks in the pool; they differ by seed"""
    epochs: int = 2
    batch: int = 64
    cutmix: float = 0.5
    ahead: int = 0
    """epochs that each network is trained on for the parameters it should be led to (trajectory matching); 0: none"""

    @property
    def gives_target(self) -> bool:
        return self.ahead > 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size < 1:
            raise RequestError(f"models.size is {self.size}: an early-stage pool needs at least one network")
        for name in ("epochs", "ahead"):
            if getattr(self, name) < 0:
                raise RequestError(f"models.{name} is {getattr(self, name)}: it must be 0 or more")
        Regime(self.batch, self.cutmix)

    def pretrain(self, net: Net, data: RealData, hyper: Any, key: Array, tick: Tick) -> Model:
        """Model[P]: SGD hyper.model_lr, dropped as in evaluation if ``epochs`` is long enough (golden section 9).

        With ``ahead`` the rate is constant and the pool has targets.
        """
        epochs, falling = self.epochs + self.ahead, self.ahead == 0
        regime = Regime(self.batch, self.cutmix)
        snapshots = train_many(net, data, self.size, epochs, regime, hyper, key, tick, falling)
        pool = snapshots[self.epochs]
        return pool._replace(target=snapshots[-1].params) if self.ahead else pool

    def sample(self, net: Net, pool: Model, hyper: Any, key: Array) -> Model:
        """Model[K]: members of the pool drawn with replacement, then perturbed."""
        pick_key, perturb_key = jax.random.split(key)
        members = jax.tree.leaves(pool)[0].shape[0]
        picks = jax.random.randint(pick_key, (self.live,), 0, members)
        return self.perturbed(tree.take(pool, picks), hyper, perturb_key)

    def teachers(self, pool: Model) -> Model:
        """Model[P]: the pool."""
        return pool._replace(target=None)


def train_many(
    net: Net,
    data: RealData,
    members: int,
    epochs: int,
    regime: Regime,
    hyper: Any,
    key: Array,
    tick: Tick,
    falling: bool = True,
) -> list[Model]:
    """``members`` networks from different seeds after 0, 1, ..., ``epochs`` epochs on the real data, each Model[P].

    One call of a compiled epoch per network on a CPU, for AT_ONCE of them on an accelerator. ``falling``: the learning
    rate drops towards the end as in evaluation; else it is hyper.model_lr throughout.
    """
    at_once = 1 if jax.default_backend() == "cpu" else AT_ONCE
    length = epochs if falling else None
    groups = []
    for first in range(0, members, at_once):
        group = range(first, min(first + at_once, members))
        keys = jnp.stack([jax.random.fold_in(key, i) for i in group])
        models = fresh(net, keys)
        state = _optimisers(length, hyper, models.params)
        history = [models]
        for epoch in range(epochs):
            models, state = _epoch(net, regime, length, models, state, data, hyper, keys, epoch)
            history.append(models)
            tick(first * epochs + (epoch + 1) * len(group), members * epochs)
        groups.append(history)
    return [jax.tree.map(lambda *a: jnp.concatenate(a), *snapshots) for snapshots in zip(*groups, strict=True)]


@partial(jax.jit, static_argnums=0)
def _optimisers(length: int | None, hyper: Any, params: PyTree) -> PyTree:
    return jax.vmap(_optimiser(hyper, length, 1).init)(params)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _epoch(
    net: Net,
    regime: Regime,
    length: int | None,
    models: Model,
    state: PyTree,
    data: RealData,
    hyper: Any,
    keys: Array,
    epoch: int,
) -> tuple[Model, PyTree]:
    n = data.images.shape[0]
    optimiser = _optimiser(hyper, length, -(-n // regime.batch))

    def one(model: Model, state: PyTree, key: Array) -> tuple[Model, PyTree]:
        order_key, train_key = jax.random.split(jax.random.fold_in(key, epoch + 1))
        order = epochs_order(order_key, n, regime.batch, 1)
        model, state, _ = train(
            net, model, optimiser, state, real_set(data), order, regime, train_key, data.mean, data.std
        )
        return model, state

    return tree.map_chunks(lambda each: one(*each), (models, state, keys), keys.shape[0])


def _optimiser(hyper: Any, length: int | None, steps: int) -> optax.GradientTransformation:
    rate = hyper.model_lr if length is None else drops(hyper.model_lr, length + 1, steps)
    return sgd(rate, hyper.model_momentum, hyper.model_weight_decay)
