"""CAFE's dynamic bi-level loop: the accuracy on real images says when the network, and when the images, had enough."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from distill_jax.augment import NoAugment
from distill_jax.axes.selector import draw_distinct
from distill_jax.contracts import Augmentation, ModelUpdate
from distill_jax.train import PLAIN_SGD, NetworkSGD, Pipeline, epochs_order, train
from distill_jax.types import Array, Model, Net, PyTree, RealData, TrainSet, choice, require_at_least

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


class Phases(NamedTuple):
    """What the dynamic loop remembers."""

    optimiser: PyTree
    watcher: Watcher
    """of the image phase"""
    ended: Array
    """bool []: the image phase of this network has ended"""


@choice
class DynamicTraining(ModelUpdate):
    """After an image step: leave if the accuracy is flat, else train on the synthetic set until it has moved.

    CAFE's two loops: the image phase of a network ends when its accuracy has stayed within ``flat`` over the last ten
    image steps, each network phase when it has changed by more than ``moved`` over the last ten epochs. The released
    code bounds neither; here the inner steps bound the first and ``max_epochs`` the second.
    """

    leaves_early = True
    uses_synthetic = True

    flat: float = 0.04
    """the image phase ends where ten readings of the accuracy lie closer together than this (CAFE's lambda 1)"""
    moved: float = 0.03
    """a network phase ends where ten readings of the accuracy lie further apart than this (CAFE's lambda 2)"""
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
    augment: Augmentation = NoAugment()
    optimiser: NetworkSGD = PLAIN_SGD

    def validate(self) -> None:
        require_at_least(1, self, "max_epochs", "images")
        require_at_least(0, self, "flat", "moved")
        Pipeline(self.batch).validate()

    def begin(self, net: Net, model: Model, data: RealData, key: Array) -> tuple[Model, Phases]:
        return model, Phases(self.optimiser.transform().init(model.params), Watcher.new(), jnp.zeros((), bool))

    def update(
        self, net: Net, model: Model, state: Phases, data: RealData, syn: TrainSet, key: Array
    ) -> tuple[Model, Phases]:
        read_key, phase_key = jax.random.split(key)
        pipeline, sgd = Pipeline(self.batch, 0.0, self.augment), self.optimiser.transform()

        def read(watcher: Watcher, model: Model, key: Array) -> Watcher:
            leak = 1 / data.classes if self.leak else 0.0
            return watcher.with_reading(accuracy(net, model, data, self.images, key), leak)

        def epoch(carry: tuple[Model, PyTree, Watcher]) -> tuple[Model, PyTree, Watcher]:
            model, optimiser, watcher = carry
            order_key, train_key, key = jax.random.split(jax.random.fold_in(phase_key, watcher.seen), 3)
            order = epochs_order(order_key, syn.images.shape[0], self.batch, 1)
            model, optimiser, _ = train(net, model, sgd, optimiser, syn, order, pipeline, train_key)
            return model, optimiser, read(watcher, model, key)

        def goes_on(carry: tuple[Model, PyTree, Watcher]) -> Array:
            watcher = carry[2]
            return (watcher.seen < self.max_epochs) & ~watcher.moved(self.moved)

        watcher = read(state.watcher, model, read_key)
        ended = watcher.flat(self.flat)
        # No network training follows the last image step: the phase then begins at its bound.
        phase = Watcher.new()
        phase = phase._replace(seen=jnp.where(ended, self.max_epochs, phase.seen))
        model, optimiser, _ = jax.lax.while_loop(goes_on, epoch, (model, state.optimiser, phase))
        return model, Phases(optimiser, watcher, ended)

    def leave(self, state: Phases) -> Array:
        return state.ended


def accuracy(net: Net, model: Model, data: RealData, images: int, key: Array) -> Array:
    """Share of ``images`` random real training images of each class that the network, in training mode, gets right."""
    rows = jnp.take_along_axis(data.index, draw_distinct(key, data, images), axis=1)

    def hits(each: tuple[Array, Array]) -> Array:
        rows, c = each
        out, _ = net.apply(model, data.normaliser.to_network(data.images[rows]), train=True)
        return jnp.sum(jnp.argmax(out.logits, axis=-1) == c)

    # Class by class, as the released code does: thousands of images at once would be the largest thing in memory.
    return jnp.sum(jax.lax.map(hits, (rows, jnp.arange(data.classes)))) / rows.size
