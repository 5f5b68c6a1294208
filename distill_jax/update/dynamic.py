"""CAFE's dynamic bi-level loop: the accuracy on real images says when the network, and when the images, had enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from distill_jax.augment import Siamese
from distill_jax.synthetic import draw_distinct, to_network
from distill_jax.train import Regime, epochs_order, sgd, train
from distill_jax.types import Array, Augmentation, Model, Net, PyTree, RealData, RequestError, TrainSet, Updated

WINDOW = 10
"""readings that a watcher looks back on"""


class Watcher(NamedTuple):
    """The latest readings of an accuracy."""

    readings: Array  # float32 [WINDOW], oldest first
    seen: Array  # int32 []: readings so far; before WINDOW of them there is no verdict

    @staticmethod
    def new() -> Watcher:
        return Watcher(jnp.zeros(WINDOW), jnp.zeros((), jnp.int32))

    def with_reading(self, accuracy: Array, leak: float | Array) -> Watcher:
        """One reading more: ``accuracy``, plus the share ``leak`` of the reading before."""
        reading = accuracy + leak * self.readings[-1]
        return Watcher(jnp.append(self.readings[1:], reading), self.seen + 1)

    def flat(self, threshold: float | Array) -> Array:
        """bool []: the last readings lie closer together than ``threshold``."""
        return (self.seen >= WINDOW) & (jnp.ptp(self.readings) < threshold)

    def moved(self, threshold: float | Array) -> Array:
        """bool []: the last readings lie further apart than ``threshold``."""
        return (self.seen >= WINDOW) & (jnp.ptp(self.readings) > threshold)


@dataclass(frozen=True)
class DynamicTraining:
    """After an image step: leave if the accuracy is flat, else train on the synthetic set until it has moved.

    CAFE's two loops (golden section 16.2): the image phase of a network ends when its accuracy has stayed within
    hyper.watch_flat over the last ten image steps, each network phase when it has changed by more than
    hyper.watch_moved over the last ten epochs. The released code bounds neither; here spec.inner_steps bounds the
    first and ``max_epochs`` the second.
    """

    max_epochs: int = 50
    """epochs of one network phase at most; it takes at least ten"""
    images: int = 128
    """real images per class in a reading of the accuracy"""
    batch: int = 256
    """synthetic images per step"""
    leak: bool = True
    """add a C-th of the reading before to each reading, as the released code does (its sum is never reset). The first
    readings of a phase then rise by themselves, so most phases end after ten epochs; without it a phase on a plateau
    goes on to ``max_epochs``"""
    augment: Augmentation = Siamese("")

    def __post_init__(self) -> None:
        for name in ("max_epochs", "images"):
            if getattr(self, name) < 1:
                raise RequestError(f"update.{name} is {getattr(self, name)}: it must be at least 1")
        Regime(self.batch)

    def start(self, model: Model, hyper: Any) -> tuple[PyTree, Watcher]:
        return _sgd(hyper).init(model.params), Watcher.new()

    def update(
        self,
        net: Net,
        model: Model,
        optimiser: PyTree,
        watch: Watcher,
        data: RealData,
        syn: TrainSet,
        hyper: Any,
        key: Array,
    ) -> Updated:
        read_key, phase_key = jax.random.split(key)
        regime = Regime(self.batch, 0.0, self.augment)

        def read(watcher: Watcher, model: Model, key: Array) -> Watcher:
            leak = 1 / data.classes if self.leak else 0.0
            return watcher.with_reading(accuracy(net, model, data, self.images, key), leak)

        def epoch(carry: tuple[Model, PyTree, Watcher]) -> tuple[Model, PyTree, Watcher]:
            model, optimiser, watcher = carry
            order_key, train_key, key = jax.random.split(jax.random.fold_in(phase_key, watcher.seen), 3)
            order = epochs_order(order_key, syn.images.shape[0], self.batch, 1)
            model, optimiser, _ = train(net, model, _sgd(hyper), optimiser, syn, order, regime, train_key)
            return model, optimiser, read(watcher, model, key)

        def goes_on(carry: tuple[Model, PyTree, Watcher]) -> Array:
            watcher = carry[2]
            return (watcher.seen < self.max_epochs) & ~watcher.moved(hyper.watch_moved)

        watch = read(watch, model, read_key)
        leave = watch.flat(hyper.watch_flat)
        # No network training follows the last image step: the phase then begins at its bound.
        phase = Watcher.new()
        phase = phase._replace(seen=jnp.where(leave, self.max_epochs, phase.seen))
        model, optimiser, _ = jax.lax.while_loop(goes_on, epoch, (model, optimiser, phase))
        return Updated(model, optimiser, watch, leave)


def accuracy(net: Net, model: Model, data: RealData, images: int, key: Array) -> Array:
    """Share of ``images`` random real training images of each class that the network, in training mode, gets right."""
    rows = jnp.take_along_axis(data.index, draw_distinct(key, data, images), axis=1)

    def hits(each: tuple[Array, Array]) -> Array:
        rows, c = each
        out, _ = net.apply(model, to_network(data.images[rows], data.mean, data.std), train=True)
        return jnp.sum(jnp.argmax(out.logits, axis=-1) == c)

    # Class by class, as the released code does: thousands of images at once would be the largest thing in memory.
    return jnp.sum(jax.lax.map(hits, (rows, jnp.arange(data.classes)))) / rows.size


def _sgd(hyper: Any):
    return sgd(hyper.model_lr, hyper.model_momentum, hyper.model_weight_decay)
