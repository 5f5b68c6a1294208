"""Tests what the update of the models between steps trains on: which images, how often and in which order."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax.augment import Siamese
from distill_jax.axes.update import Frozen, TrainOnReal, TrainOnSynthetic, between
from distill_jax.nets import ConvNet
from distill_jax.train import Order, Pipeline
from distill_jax.types import Normaliser, RealData, TrainSet

NET = ConvNet(depth=1, width=4).build((4, 4, 1), 2)
MODEL = NET.init(jax.random.key(0))
REAL = RealData.from_arrays(
    np.arange(8)[:, None, None, None] * np.ones((1, 4, 4, 1), int), np.arange(8) % 2, [0.5], [1]
)
SYN = TrainSet(jnp.zeros((6, 4, 4, 1)), jax.nn.one_hot(jnp.arange(6) // 3, 2))


class Training(NamedTuple):
    """The arguments of one call of ``train``."""

    data: TrainSet
    rows: np.ndarray
    pipeline: Pipeline
    normaliser: Normaliser | None


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Training]:
    """Return the list of trainings that updates ask for. None takes place."""
    calls: list[Training] = []

    def train(net, model, optimiser, state, data, order: Order, pipeline, key, normaliser=None) -> tuple[Any, Any, Any]:
        assert (np.asarray(order.weights) == 1).all()
        calls.append(Training(data, np.asarray(order.rows), pipeline, normaliser))
        return model, state, None

    monkeypatch.setattr(between, "train", train)
    return calls


def update(choice: Any, times: int) -> None:
    model, state = choice.begin(NET, MODEL, REAL, jax.random.key(1))
    for step in range(times):
        model, state = choice.update(NET, model, state, REAL, SYN, jax.random.key(2 + step))


def test_updates_go_on_in_one_permutation_of_the_real_images(trained: list[Training]) -> None:
    """As in IDC's loader. A new one starts when fewer images remain than an update needs."""
    update(TrainOnReal(images=4, batch=2, cutmix=0.3, augment=Siamese("color")), 6)
    assert all(call.rows.shape == (2, 2) for call in trained)
    pairs = [np.concatenate([call.rows.ravel() for call in trained[i : i + 2]]) for i in (0, 2, 4)]
    for pair in pairs:
        np.testing.assert_array_equal(np.sort(pair), np.arange(8))
    assert len({pair.tobytes() for pair in pairs}) == 3
    data, _, pipeline, normaliser = trained[0]
    assert pipeline == Pipeline(2, 0.3, Siamese("color")) and normaliser is REAL.normaliser
    np.testing.assert_array_equal(data.images, REAL.images)
    np.testing.assert_array_equal(data.targets, np.eye(2)[np.arange(8) % 2])


@pytest.mark.parametrize(("images", "steps"), [(5, 2), (3, 1), (8, 3)])
def test_updates_take_full_batches_and_leave_the_rest_of_a_permutation(trained: list[Training], images, steps) -> None:
    update(TrainOnReal(images=images, batch=3), 4)
    assert all(call.rows.shape == (steps, 3) for call in trained)
    if images == 3:  # two updates of three images fit into eight, a third one does not
        first, second, third, fourth = (set(call.rows.ravel().tolist()) for call in trained)
        assert not first & second and not third & fourth
    for call in trained:
        counts = np.bincount(call.rows.ravel(), minlength=8)
        assert counts.max() - counts.min() <= 1


def test_early_training_takes_whole_epochs(trained: list[Training]) -> None:
    update(TrainOnReal(images=4, batch=4, early=3), 1)
    early, later = trained
    np.testing.assert_array_equal(np.sort(early.rows.reshape(3, 8)), [np.arange(8)] * 3)
    assert later.rows.shape == (1, 4)


def test_training_on_synthetic_images_takes_epochs_without_cutmix(trained: list[Training]) -> None:
    update(TrainOnSynthetic(epochs=2, batch=3, augment=Siamese("crop")), 1)
    (call,) = trained
    np.testing.assert_array_equal(np.sort(call.rows.reshape(2, 6)), [np.arange(6)] * 2)
    assert call.data is SYN and call.pipeline == Pipeline(3, 0.0, Siamese("crop")) and call.normaliser is None


@pytest.mark.parametrize(
    "choice", [TrainOnReal(images=4, batch=4), TrainOnReal(images=4, batch=4, early=2), TrainOnSynthetic()]
)
def test_a_model_and_its_momentum_go_on_in_the_next_update(choice: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[list[float]] = []

    def train(net, model, optimiser, state, *_) -> tuple[Any, Any, Any]:
        given.append([float(jnp.ravel(jax.tree.leaves(part)[0])[0]) for part in (model, state)])
        return *jax.tree.map(lambda a: a + 1, (model, state)), None

    monkeypatch.setattr(between, "train", train)
    update(choice, 3)
    np.testing.assert_allclose(np.diff(given, axis=0), 1, rtol=1e-6)


def test_a_frozen_model_keeps_its_weights() -> None:
    assert Frozen().update(NET, MODEL, None, REAL, SYN, jax.random.key(0)) == (MODEL, None)
