"""Model updates: what happens to a live model between two inner steps."""

from __future__ import annotations

import jax

from distill_jax.augment import NoAugment, Siamese
from distill_jax.contracts import Augmentation, ModelUpdate
from distill_jax.train import NetworkSGD, Pipeline, epochs_order, images_order, real_set, train
from distill_jax.types import Array, Model, Net, PyTree, RealData, RequestError, TrainSet, choice, static


@choice
class Frozen(ModelUpdate):
    """The model stays as it was drawn (DM; trajectory matching)."""

    def update(
        self, net: Net, model: Model, state: PyTree, data: RealData, syn: TrainSet, key: Array
    ) -> tuple[Model, PyTree]:
        return model, state


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

    def validate(self) -> None:
        if self.images < 1:
            raise RequestError(f"update.images is {self.images}: use --update none to leave the model as it is")
        Pipeline(self.batch, self.cutmix).validate()

    def init(self, model: Model) -> PyTree:
        return self.optimiser.transform().init(model.params)

    def update(
        self, net: Net, model: Model, state: PyTree, data: RealData, syn: TrainSet, key: Array
    ) -> tuple[Model, PyTree]:
        order_key, train_key = jax.random.split(key)
        order = images_order(order_key, data.images.shape[0], self.batch, self.images)
        pipeline, sgd = Pipeline(self.batch, self.cutmix, self.augment), self.optimiser.transform()
        return train(net, model, sgd, state, real_set(data), order, pipeline, train_key, data.normaliser)[:2]


@choice
class TrainOnSynthetic(ModelUpdate):
    """Epochs of SGD on the synthetic set as it stands (DC, DSA)."""

    epochs: int = 1
    batch: int = 256
    augment: Augmentation = NoAugment()
    optimiser: NetworkSGD = NetworkSGD()

    def validate(self) -> None:
        if self.epochs < 1:
            raise RequestError(f"update.epochs is {self.epochs}: use --update none to leave the model as it is")
        Pipeline(self.batch).validate()

    def init(self, model: Model) -> PyTree:
        return self.optimiser.transform().init(model.params)

    def update(
        self, net: Net, model: Model, state: PyTree, data: RealData, syn: TrainSet, key: Array
    ) -> tuple[Model, PyTree]:
        order_key, train_key = jax.random.split(key)
        order = epochs_order(order_key, syn.images.shape[0], self.batch, self.epochs)
        pipeline = Pipeline(self.batch, 0.0, self.augment)
        return train(net, model, self.optimiser.transform(), state, syn, order, pipeline, train_key)[:2]
