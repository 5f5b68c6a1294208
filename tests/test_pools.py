"""Tests pools: what a network trains on and at which rate, which of its states are kept, and how a run draws them."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax.augment import Siamese
from distill_jax.axes.models import (
    EarlyStagePool,
    ExpertTrajectories,
    InterpolatedPool,
    pools,
    train_pool,
    trajectories,
)
from distill_jax.contracts import ModelSource
from distill_jax.run import no_tick
from distill_jax.train import NetworkSGD, Pipeline
from distill_jax.types import Model, RealData
from tests.recorder import Recorder

COLOUR = Siamese("color")
RATES = NetworkSGD(0.3, 0.2, 0.1)


def test_each_epoch_of_a_network_shows_the_images_anew_and_goes_on_with_its_momentum() -> None:
    """Image i of five is the constant i and moves by less than half. A step's logits go on with the momentum of its
    gradient, and the rate drops in the fourth epoch.
    """
    epochs, n, momentum = 4, 5, 0.5
    net = Recorder(3 * epochs, 2, (1, 1, 1), 2)
    data = RealData.from_arrays(np.arange(n).reshape(n, 1, 1, 1), np.arange(n) % 2, [0], [1 / 255])
    sgd = NetworkSGD(0.4, momentum, 0.0)
    pool = train_pool(
        net, data, 2, epochs, Pipeline(2, 0.0, COLOUR), sgd, jax.random.key(0), no_tick, keep=(1, 3, epochs)
    )
    np.testing.assert_array_equal(pool.stats["steps"], [[3, 9, 12]] * 2)

    images, slopes = net.seen(jax.tree.map(lambda a: a[:, -1], pool))
    pixels = images.reshape(2 * epochs, 6)[:, :n]
    shown = np.round(pixels)
    np.testing.assert_array_equal(np.sort(shown), [np.arange(n)] * len(shown))
    assert len(np.unique(shown, axis=0)) == len(shown) and len(np.unique(pixels - shown)) == pixels.size
    np.testing.assert_array_equal(np.argmax(slopes, axis=3).reshape(2 * epochs, 6)[:, :n], shown % 2)
    rates = np.repeat([0.4, 0.4, 0.4, 0.08], 3)
    moves = [sum(rates[k] * momentum ** (k - t) for k in range(t, len(rates))) for t in range(len(rates))]
    weights = np.reshape(moves, (epochs, 3, 1)) * [[0.5, 0.5], [0.5, 0.5], [1, 0]]
    np.testing.assert_allclose(np.abs(slopes).sum(axis=3).reshape(2, epochs, 3, 2), [weights] * 2, rtol=1e-5)


def test_members_are_written_into_one_pool_that_stays_in_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Joining groups at the end would need the memory of two pools. Members that a store gives back are not trained."""
    net = Recorder(4, 2, (1, 1, 1), 2)
    data = RealData.from_arrays(np.arange(4).reshape(4, 1, 1, 1), np.arange(4) % 2, [0], [1 / 255])
    places, stored, write = [], {}, pools._write

    def recorded(net: Any, pool: Model, *args: Any) -> Model:
        pool = write(net, pool, *args)
        places.append([leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(pool)])
        return pool

    def trained(epochs: int) -> Model:
        args = Pipeline(2, 0.0, COLOUR), RATES, jax.random.key(0), no_tick, store
        return jax.tree.map(np.array, train_pool(net, data, 3, epochs, *args))

    store: Any = SimpleNamespace(
        get=lambda first, like: stored.get(first),
        put=lambda first, member: stored.update({first: jax.tree.map(np.array, member)}),
    )
    monkeypatch.setattr(pools, "_write", recorded)
    whole = trained(2)
    assert len(places) > len(stored) and all(place == places[0] for place in places)
    for first, members in stored.items():
        rows = slice(first, first + len(members.stats["steps"]))
        jax.tree.map(np.testing.assert_array_equal, members, jax.tree.map(lambda a, rows=rows: a[rows], whole))
    places.clear()
    jax.tree.map(np.testing.assert_array_equal, trained(2), whole)
    assert len(places) == len(stored)


@pytest.mark.parametrize(
    ("size", "at_once", "devices", "groups"),
    [
        (5, 1, 1, [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]),
        (5, 2, 2, [(0, 2), (2, 4), (3, 5)]),
        (5, 12, 12, [(0, 5)]),
        (10, 8, 1, [(0, 5), (5, 10)]),
        (11, 8, 1, [(0, 6), (5, 11)]),
        (100, 64, 8, [(0, 56), (44, 100)]),
    ],
)
def test_members_train_in_groups_of_equal_length(
    size: int, at_once: int, devices: int, groups: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools.mesh, "size", lambda: devices)
    assert [(group.start, group.stop) for group in pools._groups(size, at_once)] == groups


EARLY = EarlyStagePool(size=3, epochs=4, optimiser=RATES, batch=2, cutmix=0.3, augment=COLOUR)
LINES = InterpolatedPool(size=3, epochs=4, optimiser=RATES, batch=2, cutmix=0.3, augment=COLOUR)
EXPERTS = ExpertTrajectories(size=3, start=2, ahead=3, optimiser=RATES, batch=2, augment=COLOUR)


@pytest.mark.parametrize(
    ("source", "cutmix", "falling", "keep"),
    [
        (EARLY, 0.3, True, (4,)),
        (replace(EARLY, schedule="constant"), 0.3, False, (4,)),
        (replace(EARLY, ahead=2), 0.3, False, (4, 6)),
        (LINES, 0.3, True, (0, 4)),
        (EXPERTS, 0.0, False, (0, 1, 2, 3, 4)),
        (replace(EXPERTS, first=1, epochs=9), 0.0, False, (1, 2, 3, 4, 9)),
    ],
)
def test_each_source_trains_as_its_fields_say(
    source: ModelSource, cutmix: float, falling: bool, keep: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, ...]] = []
    states = Model({"w": jnp.tile(jnp.asarray(keep), (3, 1))}, {})

    def train_pool(net, data, size, epochs, pipeline, optimiser, key, tick, members, falling, keep) -> Model:
        asked.append((size, epochs, pipeline, optimiser, falling, keep))
        return states

    for module in (pools, trajectories):
        monkeypatch.setattr(module, "train_pool", train_pool)
    pool = source.pretrain(None, None, jax.random.key(0), no_tick)  # type: ignore[arg-type]
    assert asked == [(3, keep[-1], Pipeline(2, cutmix, COLOUR), RATES, falling, keep)]
    if isinstance(source, EarlyStagePool):
        assert pool.params["w"].tolist() == [4] * 3
        assert pool.target is None if not source.ahead else pool.target["w"].tolist() == [6] * 3


def test_members_are_drawn_uniformly_and_with_replacement() -> None:
    pool = Model({"w": jnp.arange(4)}, {})
    keys = jax.random.split(jax.random.key(0), 1500)
    drawn = jax.vmap(lambda key: EARLY.sample(None, pool, 2, 0, key).params["w"])(keys)  # type: ignore[arg-type]
    counts = np.histogram2d(*np.asarray(drawn).T, bins=4)[0]
    np.testing.assert_allclose(counts / 1500, 1 / 16, atol=0.032)  # five standard errors


def test_interpolated_models_are_uniform_on_their_lines() -> None:
    """Parameters are 1 before and 0 after training, plus 10 for the second member."""
    ends = jnp.asarray([[1.0, 0.0], [11.0, 10.0]])
    pool = Model({"w": ends}, {"mean": ends})
    drawn = LINES.sample(None, pool, 4000, 0, jax.random.key(0))  # type: ignore[arg-type]
    members, shares = np.divmod(np.asarray(drawn.params["w"]), 10)
    np.testing.assert_allclose(np.quantile(shares, np.linspace(0, 1, 11)), np.linspace(0, 1, 11), atol=0.03)
    assert 0.45 < np.mean(members) < 0.55 and abs(np.corrcoef(members, shares)[0, 1]) < 0.06
    np.testing.assert_array_equal(drawn.stats["mean"], 10 * members)


def test_experts_and_their_epochs_are_drawn_independently() -> None:
    numbers = jnp.arange(40.0).reshape(8, 5)
    drawn = EXPERTS.sample(None, Model({"w": numbers}, {}), 4000, 0, jax.random.key(0))  # type: ignore[arg-type]
    starts, counts = np.unique(np.asarray(drawn.params["w"]), return_counts=True)
    np.testing.assert_array_equal(starts, np.asarray(numbers)[:, :2].ravel())
    np.testing.assert_allclose(counts / 4000, 1 / 16, atol=0.02)  # five standard errors
