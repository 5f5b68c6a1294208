"""Tests what the networks of an evaluation are trained on, step by step, and by which optimiser."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax import train_many
from distill_jax.augment import Siamese
from distill_jax.evaluation import PROTOCOLS, Protocol
from distill_jax.schedules import rate_drops
from distill_jax.train import Pipeline
from distill_jax.train_many import Sets
from distill_jax.types import TrainSet
from tests.recorder import Recorder
from tests.test_evaluate import NET, PLAIN, C, images, trained


@pytest.mark.parametrize(("schedule", "drop"), [("half", 1), ("constant", 9)])
def test_each_epoch_of_a_network_shows_its_own_set_anew_at_the_rate_of_the_epoch(schedule: Any, drop: int) -> None:
    """Two sets of five images, image i of which is the constant i and moves by less than half, in batches of two: the
    last batch has one image.
    """
    epochs, n = 2, 5
    net = Recorder(3 * epochs, 2, (1, 1, 1), C)
    store = TrainSet(jnp.arange(10.0).reshape(10, 1, 1, 1), jax.nn.one_hot(jnp.arange(10) % C, C))
    sets = Sets(store, jnp.arange(10, dtype=jnp.int32).reshape(2, n))
    plain = Protocol(schedule=schedule, epochs=epochs, batch=2, momentum=0.0, weight_decay=0.0, rate=0.4)
    protocol = replace(plain, cutmix=0.0, augment=Siamese("color"))
    batches, slopes = net.seen(trained(net, protocol, sets))
    pixels, weights = batches.reshape(2, epochs, 6)[..., :n], np.abs(slopes).sum(axis=3).reshape(2, epochs, 6)
    shown = np.round(pixels)
    for r in range(2):
        np.testing.assert_array_equal(np.sort(shown[r]), [np.arange(n) + r * n] * epochs)
    labels = np.argmax(slopes, axis=3).reshape(2, epochs, 6)[..., :n]
    np.testing.assert_array_equal(labels, shown % C)
    assert len(np.unique((shown % n).reshape(4, n), axis=0)) == 4 and len(np.unique(pixels - shown)) == pixels.size
    rates = np.where(np.arange(epochs) < drop, 0.4, 0.04)[:, None] * [0.5, 0.5, 0.5, 0.5, 1, 0]
    np.testing.assert_allclose(weights, [rates] * 2, rtol=1e-5)


def test_networks_train_with_the_augmentation_and_the_cutmix_of_the_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Pipeline] = []

    def train_flat(net, model, optimiser, state, store, order, pipeline, key, normaliser) -> tuple[Any, ...]:
        asked.append(pipeline)
        return model, state, None

    monkeypatch.setattr(train_many, "train_flat", train_flat)
    trained(NET, Protocol(epochs=1, batch=3, cutmix=0.4, augment=Siamese("crop")), Sets.same(images(5), 1))
    assert asked == [Pipeline(3, 0.4, Siamese("crop"))]


def test_adam_trains_where_the_protocol_says_so() -> None:
    """Adam's first step moves each parameter that has a gradient by the learning rate, however small the gradient."""
    net = Recorder(1, 4, (1, 1, 1), C)
    store = TrainSet(jnp.arange(4.0).reshape(4, 1, 1, 1), jnp.asarray([[1, 0], [0, 1], [0.6, 0.4], [0.4, 0.6]]))
    _, slopes = net.seen(trained(net, replace(PLAIN["rat"], epochs=1, rate=0.01), Sets.same(store, 1)))
    np.testing.assert_allclose(np.abs(slopes), 0.01, rtol=1e-4)


def test_adam_has_the_momentum_and_the_weight_decay_of_the_protocol() -> None:
    """The second step has no gradient: only the first moment of the first step and the decay move the weight."""
    protocol = replace(PROTOCOLS["rat"], rate=0.01, momentum=0.7)
    for decay in (0.0, 0.1):
        adam = replace(protocol, weight_decay=decay).network_optimiser.transform(rate_drops(1, 1, "constant"))
        weight, state = jnp.ones(()), adam.init(jnp.ones(()))
        moved: Any
        for gradient in (1.0, 0.0):
            moved, state = adam.update(jnp.asarray(gradient), state, weight)
        first, second = 0.7 * 0.3 / (1 - 0.7**2), 0.999 * 0.001 / (1 - 0.999**2)
        np.testing.assert_allclose(moved, -0.01 * (first / np.sqrt(second) + decay), rtol=3e-4)  # 0.999 in float32
