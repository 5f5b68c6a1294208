"""Tests what the update of the models between steps trains on: which images, how often and in which order."""

from __future__ import annotations

from collections.abc import Callable
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


def follow(choice: Any, times: int, recorded: Callable[..., Any], trained: Callable[..., Any]) -> list[Any]:
    """Update a model ``times`` times in compiled programs. ``trained`` takes the place of ``train``. Return the arrays
    ``recorded`` of the arguments of each of its calls."""
    asked: list[Any] = []

    def train(*arguments: Any) -> tuple[Any, Any, Any]:
        asked.append(recorded(*arguments))
        return *trained(*arguments[1:4:2]), None

    def watched(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            asked.clear()
            return function(*arguments), list(asked)

        return jax.jit(run)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(between, "train", train)
        begin = watched(lambda key: choice.begin(NET, MODEL, REAL, key))
        step = watched(lambda model, state, key: choice.update(NET, model, state, REAL, SYN, key))
        (model, state), calls = begin(jax.random.key(1))
        for number in range(times):
            (model, state), more = step(model, state, jax.random.key(2 + number))
            calls += more
    return jax.device_get(calls)


def update(choice: Any, times: int) -> list[Training]:
    """Return the trainings that updates ask for. None takes place."""
    static: list[Any] = []

    def recorded(net, model, optimiser, state, data, order: Order, pipeline, key, normaliser=None) -> Any:
        static[:] = [pipeline, normaliser, data is SYN]
        return data, order

    calls = follow(choice, times, recorded, lambda *model_and_state: model_and_state)
    pipeline, normaliser, synthetic = static
    for _, order in calls:
        assert (order.weights == 1).all()
    return [Training(SYN if synthetic else data, order.rows, pipeline, normaliser) for data, order in calls]


def test_updates_go_on_in_one_permutation_of_the_real_images() -> None:
    """As in IDC's loader. A new one starts when fewer images remain than an update needs."""
    trained = update(TrainOnReal(images=4, batch=2, cutmix=0.3, augment=Siamese("color")), 6)
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
def test_updates_take_full_batches_and_leave_the_rest_of_a_permutation(images, steps) -> None:
    trained = update(TrainOnReal(images=images, batch=3), 4)
    assert all(call.rows.shape == (steps, 3) for call in trained)
    if images == 3:  # two updates of three images fit into eight, a third one does not
        first, second, third, fourth = (set(call.rows.ravel().tolist()) for call in trained)
        assert not first & second and not third & fourth
    for call in trained:
        counts = np.bincount(call.rows.ravel(), minlength=8)
        assert counts.max() - counts.min() <= 1


def test_early_training_takes_whole_epochs() -> None:
    early, later = update(TrainOnReal(images=4, batch=4, early=3), 1)
    np.testing.assert_array_equal(np.sort(early.rows.reshape(3, 8)), [np.arange(8)] * 3)
    assert later.rows.shape == (1, 4)


def test_training_on_synthetic_images_takes_epochs_without_cutmix() -> None:
    (call,) = update(TrainOnSynthetic(epochs=2, batch=3, augment=Siamese("crop")), 1)
    np.testing.assert_array_equal(np.sort(call.rows.reshape(2, 6)), [np.arange(6)] * 2)
    assert call.data is SYN and call.pipeline == Pipeline(3, 0.0, Siamese("crop")) and call.normaliser is None


@pytest.mark.parametrize(
    "choice", [TrainOnReal(images=4, batch=4), TrainOnReal(images=4, batch=4, early=2), TrainOnSynthetic()]
)
def test_a_model_and_its_momentum_go_on_in_the_next_update(choice: Any) -> None:
    def recorded(net, model, optimiser, state, *_) -> Any:
        return [jnp.ravel(jax.tree.leaves(part)[0])[0] for part in (model, state)]

    given = follow(choice, 3, recorded, lambda *model_and_state: jax.tree.map(lambda a: a + 1, model_and_state))
    np.testing.assert_allclose(np.diff(given, axis=0), 1, rtol=1e-6)


def test_a_frozen_model_keeps_its_weights() -> None:
    assert Frozen().update(NET, MODEL, None, REAL, SYN, jax.random.key(0)) == (MODEL, None)
