"""Model updates that leave the model unchanged or train it on real or synthetic images."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from distill_jax.augment import NoAugment, Siamese
from distill_jax.contracts import Augmentation, ModelUpdate
from distill_jax.draws import permutations
from distill_jax.train import (
    PLAIN_SGD,
    NetworkSGD,
    Order,
    Pipeline,
    epochs_order,
    flatten,
    images_order,
    real_train_set,
    train,
)
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
    """Leaves the model as it was sampled (DM; trajectory matching)."""

    def update(
        self, net: Net, model: Model, state: PyTree, data: RealData, syn: TrainSet, key: Array
    ) -> tuple[Model, PyTree]:
        return model, state


class Progress(NamedTuple):
    """State of the training on real images between two updates."""

    optimiser: PyTree
    permutation: Array
    """int32 [N]: the order of the real images; redrawn when fewer remain than an update needs"""
    next: Array
    """int32 []: the first position in ``permutation`` that has not been used"""


@choice
class TrainOnReal(ModelUpdate):
    """SGD on real images, with cutmix and with color + crop drawn per image (IDC, Acc-DD, DREAM)."""

    images: int = 2000
    """minimum number of real images per update; training uses full batches until it reaches this number"""
    batch: int = 64
    cutmix: float = static(default=0.5)
    """probability of cutmix in each step"""
    augment: Augmentation = Siamese("color_crop")
    optimiser: NetworkSGD = NetworkSGD()
    early: int = 0
    """epochs of this training that each model takes when it is sampled, before any matching (IDC on ImageNet-10)"""

    def validate(self) -> None:
        if self.images < 1:
            raise RequestError(f"update.images is {self.images}: use --update none to leave the model as it is")
        require_at_least(0, self, "early")
        Pipeline(self.batch, self.cutmix).validate()

    def begin(self, net: Net, model: Model, data: RealData, key: Array) -> tuple[Model, Progress]:
        early_key, order_key, train_key = jax.random.split(key, 3) if self.early else [key] * 3
        n, sgd = data.images.shape[0], self.optimiser.transform()
        state = Progress(sgd.init(flatten(model.params)), permutations(order_key, 1, n)[0], jnp.zeros((), jnp.int32))
        if not self.early:
            return model, state
        order = epochs_order(early_key, n, self.batch, self.early)
        model, optimiser = self._train(net, model, state.optimiser, data, order, train_key)
        return model, state._replace(optimiser=optimiser)

    def update(
        self, net: Net, model: Model, state: Progress, data: RealData, syn: TrainSet, key: Array
    ) -> tuple[Model, Progress]:
        order_key, train_key = jax.random.split(key)
        n, used = data.images.shape[0], -(-self.images // self.batch) * self.batch
        permutation, first = state.permutation, state.next
        if used > n:
            order = images_order(order_key, n, self.batch, self.images)
        else:
            permutation, first = jax.lax.cond(
                first + used > n,
                lambda: (permutations(order_key, 1, n)[0], jnp.zeros_like(first)),
                lambda: (permutation, first),
            )
            rows = jax.lax.dynamic_slice_in_dim(permutation, first, used).reshape(-1, self.batch)
            order = Order(rows, jnp.ones(rows.shape, jnp.float32))
        model, optimiser = self._train(net, model, state.optimiser, data, order, train_key)
        return model, Progress(optimiser, permutation, first + used)

    def _train(
        self, net: Net, model: Model, state: PyTree, data: RealData, order: Order, key: Array
    ) -> tuple[Model, PyTree]:
        pipeline, sgd = Pipeline(self.batch, self.cutmix, self.augment), self.optimiser.transform()
        return train(net, model, sgd, state, real_train_set(data), order, pipeline, key, data.normaliser)[:2]


@choice
class TrainOnSynthetic(ModelUpdate):
    """Epochs of plain SGD on the current synthetic set (DC, DSA)."""

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
        return model, self.optimiser.transform().init(flatten(model.params))

    def update(
        self, net: Net, model: Model, state: PyTree, data: RealData, syn: TrainSet, key: Array
    ) -> tuple[Model, PyTree]:
        order_key, train_key = jax.random.split(key)
        order = epochs_order(order_key, syn.images.shape[0], self.batch, self.epochs)
        pipeline = Pipeline(self.batch, 0.0, self.augment)
        return train(net, model, self.optimiser.transform(), state, syn, order, pipeline, train_key)[:2]
