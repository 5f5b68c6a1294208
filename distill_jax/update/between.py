"""Model updates: what happens to a live model between two inner steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from distill_jax.augment import Siamese
from distill_jax.train import Regime, epochs_order, images_order, real_set, sgd, train
from distill_jax.types import Array, Augmentation, Model, Net, PyTree, RealData, RequestError, TrainSet, Updated


@dataclass(frozen=True)
class Frozen:
    """The model stays as it was drawn (DM; trajectory matching)."""

    def start(self, model: Model, hyper: Any) -> tuple[PyTree, PyTree]:
        return (), ()

    def update(
        self,
        net: Net,
        model: Model,
        optimiser: PyTree,
        watch: PyTree,
        data: RealData,
        syn: TrainSet,
        hyper: Any,
        key: Array,
    ) -> Updated:
        return Updated(model, optimiser, watch, jnp.zeros((), bool))


@dataclass(frozen=True)
class TrainOnReal:
    """SGD on real images, with cutmix and colour + crop drawn per image (IDC, Acc-DD, DREAM)."""

    images: int = 2000
    """real images per update; full batches until this many or more were seen"""
    batch: int = 64
    cutmix: float = 0.5
    augment: Augmentation = Siamese("color_crop")

    def __post_init__(self) -> None:
        if self.images < 1:
            raise RequestError(f"update.images is {self.images}: use --update frozen to leave the model as it is")
        Regime(self.batch, self.cutmix)

    def start(self, model: Model, hyper: Any) -> tuple[PyTree, PyTree]:
        return _sgd(hyper).init(model.params), ()

    def update(
        self,
        net: Net,
        model: Model,
        optimiser: PyTree,
        watch: PyTree,
        data: RealData,
        syn: TrainSet,
        hyper: Any,
        key: Array,
    ) -> Updated:
        order_key, train_key = jax.random.split(key)
        order = images_order(order_key, data.images.shape[0], self.batch, self.images)
        regime = Regime(self.batch, self.cutmix, self.augment)
        model, optimiser, _ = train(
            net, model, _sgd(hyper), optimiser, real_set(data), order, regime, train_key, data.mean, data.std
        )
        return Updated(model, optimiser, watch, jnp.zeros((), bool))


@dataclass(frozen=True)
class TrainOnSynthetic:
    """Epochs of SGD on the synthetic set as it stands (DC, DSA)."""

    epochs: int = 1
    batch: int = 256
    augment: Augmentation = Siamese("")

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise RequestError(f"update.epochs is {self.epochs}: use --update frozen to leave the model as it is")

    def start(self, model: Model, hyper: Any) -> tuple[PyTree, PyTree]:
        return _sgd(hyper).init(model.params), ()

    def update(
        self,
        net: Net,
        model: Model,
        optimiser: PyTree,
        watch: PyTree,
        data: RealData,
        syn: TrainSet,
        hyper: Any,
        key: Array,
    ) -> Updated:
        order_key, train_key = jax.random.split(key)
        order = epochs_order(order_key, syn.images.shape[0], self.batch, self.epochs)
        regime = Regime(self.batch, 0.0, self.augment)
        model, optimiser, _ = train(net, model, _sgd(hyper), optimiser, syn, order, regime, train_key)
        return Updated(model, optimiser, watch, jnp.zeros((), bool))


def _sgd(hyper: Any):
    return sgd(hyper.model_lr, hyper.model_momentum, hyper.model_weight_decay)
