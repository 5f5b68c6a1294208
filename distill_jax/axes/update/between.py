"""Model updates: what happens to a live model between two inner steps."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from distill_jax.augment import NoAugment, Siamese
from distill_jax.contracts import Augmentation, ModelUpdate
from distill_jax.draws import permutations
from distill_jax.train import PLAIN_SGD, NetworkSGD, Order, Pipeline, epochs_order, images_order, real_train_set, train
from distill_jax.types import (
    Array,
    Model,
    Net,
    PyTree,
    RealData,
    RequestError,
    TrainSet,
    choice,
    require_at_least,
    static,
)


@choice
class Frozen(ModelUpdate):
    """The model stays as it was drawn (DM; trajectory matching)."""

    def update(
        self, net: Net, model: Model, state: PyTree, data: RealData, syn: TrainSet, key: Array
    ) -> tuple[Model, PyTree]:
        return model, state


class Progress(NamedTuple):
    """What training on real images goes on with."""

    optimiser: PyTree
    permutation: Array
    """int32 [N]: the order of the real images; a new one where the rest does not suffice for an update"""
    next: Array
    """int32 []: the first place in it that has not been shown"""


@choice
class TrainOnReal(ModelUpdate):
    """SGD on real images, with cutmix and colour + crop drawn per image (IDC, Acc-DD, DREAM)."""

    images: int = 2000
    """real images per update; full batches until this many or more were seen"""
    batch: int = 64
    cutmix: float = static(default=0.5)
    """probability per step"""
    augment: Augmentation = Siamese("color_crop")
    optimiser: NetworkSGD = NetworkSGD()
    early: int = 0
    """epochs of the same training that each model takes when it is drawn, before any matching (IDC on ImageNet-10)"""

    def validate(self) -> None:
        if self.images < 1:
            raise RequestError(f"update.images is {self.images}: use --update none to leave the model as it is")
        require_at_least(0, self, "early")
        Pipeline(self.batch, self.cutmix).validate()

    def begin(self, net: Net, model: Model, data: RealData, key: Array) -> tuple[Model, Progress]:
        early_key, order_key, train_key = jax.random.split(key, 3)
        n, sgd = data.images.shape[0], self.optimiser.transform()
        state = Progress(sgd.init(model.params), permutations(order_key, 1, n)[0], jnp.zeros((), jnp.int32))
        if not self.early:
            return model, state
        order = epochs_order(early_key, n, self.batch, self.early)
        model, optimiser = self._trained(net, model, state.optimiser, data, order, train_key)
        return model, state._replace(optimiser=optimiser)

    def update(
        self, net: Net, model: Model, state: Progress, data: RealData, syn: TrainSet, key: Array
    ) -> tuple[Model, Progress]:
        order_key, train_key = jax.random.split(key)
        n, seen = data.images.shape[0], -(-self.images // self.batch) * self.batch
        permutation, first = state.permutation, state.next
        if seen > n:
            order = images_order(order_key, n, self.batch, self.images)
        else:
            permutation, first = jax.lax.cond(
                first + seen > n,
                lambda: (permutations(order_key, 1, n)[0], jnp.zeros_like(first)),
                lambda: (permutation, first),
            )
            rows = jax.lax.dynamic_slice_in_dim(permutation, first, seen).reshape(-1, self.batch)
            order = Order(rows, jnp.ones(rows.shape, jnp.float32))
        model, optimiser = self._trained(net, model, state.optimiser, data, order, train_key)
        return model, Progress(optimiser, permutation, first + seen)

    def _trained(
        self, net: Net, model: Model, state: PyTree, data: RealData, order: Order, key: Array
    ) -> tuple[Model, PyTree]:
        pipeline, sgd = Pipeline(self.batch, self.cutmix, self.augment), self.optimiser.transform()
        return train(net, model, sgd, state, real_train_set(data), order, pipeline, key, data.normaliser)[:2]


@choice
class TrainOnSynthetic(ModelUpdate):
    """Epochs of plain SGD on the synthetic set as it stands (DC, DSA)."""

    uses_synthetic = True

    epochs: int = 1
    batch: int = 256
    augment: Augmentation = NoAugment()
    optimiser: NetworkSGD = PLAIN_SGD

    def validate(self) -> None:
        if self.epochs < 1:
            raise RequestError(f"update.epochs is {self.epochs}: use --update none to leave the model as it is")
        Pipeline(self.batch).validate()

    def begin(self, net: Net, model: Model, data: RealData, key: Array) -> tuple[Model, PyTree]:
        return model, self.optimiser.transform().init(model.params)

    def update(
        self, net: Net, model: Model, state: PyTree, data: RealData, syn: TrainSet, key: Array
    ) -> tuple[Model, PyTree]:
        order_key, train_key = jax.random.split(key)
        order = epochs_order(order_key, syn.images.shape[0], self.batch, self.epochs)
        pipeline = Pipeline(self.batch, 0.0, self.augment)
        return train(net, model, self.optimiser.transform(), state, syn, order, pipeline, train_key)[:2]
