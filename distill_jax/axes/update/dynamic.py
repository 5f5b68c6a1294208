"""CAFE's dynamic bi-level loop: accuracy on real images decides when network training and image updates stop."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from distill_jax import tree
from distill_jax.augment import NoAugment
from distill_jax.axes.selector import draw_distinct
from distill_jax.contracts import Augmentation, ModelUpdate
from distill_jax.train import PLAIN_SGD, NetworkSGD, Pipeline, epochs_order, flatten, train
from distill_jax.train_many import networks_at_once
from distill_jax.types import Array, Model, Net, PyTree, RealData, TrainSet, choice, require_at_least

WINDOW = 10
"""number of readings that a watcher compares"""


class Watcher(NamedTuple):
    """The latest readings of an accuracy."""

    readings: Array  # float32 [WINDOW], oldest first
    seen: Array  # int32 []: number of readings so far; ``flat`` and ``moved`` are false until it reaches WINDOW

    @staticmethod
    def new() -> Watcher:
        return Watcher(jnp.zeros(WINDOW), jnp.zeros((), jnp.int32))

    def with_reading(self, accuracy: Array, leak: float | Array) -> Watcher:
        """Return the watcher with one more reading: ``accuracy`` plus ``leak`` times the previous reading."""
        reading = accuracy + leak * self.readings[-1]
        return Watcher(jnp.append(self.readings[1:], reading), self.seen + 1)

    def flat(self, threshold: float | Array) -> Array:
        """Return whether the last WINDOW readings span less than ``threshold``: bool []."""
        return (self.seen >= WINDOW) & (jnp.ptp(self.readings) < threshold)

    def moved(self, threshold: float | Array) -> Array:
        """Return whether the last WINDOW readings span more than ``threshold``: bool []."""
        return (self.seen >= WINDOW) & (jnp.ptp(self.readings) > threshold)


class Phases(NamedTuple):
    """State of the dynamic loop."""

    optimiser: PyTree
    watcher: Watcher
    """readings taken during the image phase"""
    ended: Array
    """bool []: whether the image phase of this network has ended"""


@choice
class DynamicTraining(ModelUpdate):
    """Ends the outer iteration if the accuracy is flat after an image step, else trains the network until it has moved.

    These are CAFE's two loops. The image phase of a network ends when the last ten readings, one per image step, span
    less than ``flat``. Each network phase, which trains on the synthetic set, ends when the last ten readings, one per
    epoch, span more than ``moved``. The released code bounds neither phase. Here the inner steps bound the image phase
    and ``max_epochs`` bounds each network phase.
    """

    leaves_early = True
    uses_synthetic = True

    flat: float = 0.04
    """range of ten accuracy readings below which the image phase ends (CAFE's lambda 1)"""
    moved: float = 0.03
    """range of ten accuracy readings above which a network phase ends (CAFE's lambda 2)"""
    max_epochs: int = 50
    """maximum number of epochs in one network phase; the minimum is ten"""
    images: int = 128
    """number of real images per class in an accuracy reading"""
    batch: int = 256
    """number of synthetic images per step"""
    leak: bool = True
    """add 1/C of the previous reading to each reading, as the released code does (it never resets its sum). The first
    readings of a phase then rise by themselves, so most phases end after ten epochs; without the leak a phase on a
    plateau runs until ``max_epochs``"""
    augment: Augmentation = NoAugment()
    optimiser: NetworkSGD = PLAIN_SGD

    def validate(self) -> None:
        require_at_least(1, self, "max_epochs", "images")
        require_at_least(0, self, "flat", "moved")
        Pipeline(self.batch).validate()

    def begin(self, net: Net, model: Model, data: RealData, key: Array) -> tuple[Model, Phases]:
        return model, Phases(self.optimiser.transform().init(flatten(model.params)), Watcher.new(), jnp.zeros((), bool))

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

        def should_continue(carry: tuple[Model, PyTree, Watcher]) -> Array:
            watcher = carry[2]
            return (watcher.seen < self.max_epochs) & ~watcher.moved(self.moved)

        watcher = read(state.watcher, model, read_key)
        ended = watcher.flat(self.flat)
        # No network training follows the last image step, so that phase starts at its epoch limit.
        phase = Watcher.new()
        phase = phase._replace(seen=jnp.where(ended, self.max_epochs, phase.seen))
        model, optimiser, _ = jax.lax.while_loop(should_continue, epoch, (model, state.optimiser, phase))
        return model, Phases(optimiser, watcher, ended)

    def leave(self, state: Phases) -> Array:
        return state.ended


def accuracy(net: Net, model: Model, data: RealData, images: int, key: Array) -> Array:
    """Return the accuracy of the network, in training mode, on ``images`` random real training images of each class."""
    rows = jnp.take_along_axis(data.index, draw_distinct(key, data, images), axis=1)

    def correct(args: tuple[Array, Array]) -> Array:
        rows, c = args
        out, _ = net.apply(model, data.normaliser.to_network(data.images[rows]), train=True)
        return jnp.sum(jnp.argmax(out.logits, axis=-1) == c)

    # A batch of all classes would dominate peak memory. The batches of several classes are as independent as those of
    # several networks, so an accelerator visits as many at once.
    at_once = networks_at_once(data.classes, images, data.images.shape[1:])
    return jnp.sum(tree.map_chunks(correct, (rows, jnp.arange(data.classes)), at_once)) / rows.size
