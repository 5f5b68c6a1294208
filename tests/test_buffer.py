"""Tests the resident class buffer: the contents of portions, exact runs, and the arrays on the device."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import jax
import numpy as np
import pytest

from distill_jax import train_many
from distill_jax.augment import NoAugment
from distill_jax.axes.models import pools
from distill_jax.axes.objective import FeatureMatching
from distill_jax.axes.perturb import NoPerturbation
from distill_jax.axes.selector import Anchors, NoReal, RandomBatch, Representative
from distill_jax.axes.update import Frozen
from distill_jax.data import Buffer, Dataset, feed
from distill_jax.distill import State, init_state, run_block
from distill_jax.recipes import resolve
from distill_jax.run import BlockSize, distil, prepare, run, steps_per_portion
from distill_jax.schedules import rate_drops
from distill_jax.spec import Spec
from distill_jax.train import Order
from distill_jax.types import RealData
from tests import toy
from tests.test_data import refused

COUNTS = (23, 5, 12)


def data() -> Dataset:
    """Return unsorted, unbalanced classes. The first pixel of an image is its index."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(3), COUNTS))
    images = np.random.default_rng(1).integers(0, 256, (len(labels), *toy.SHAPE), np.uint8)
    images[:, 0, 0, 0] = np.arange(len(labels))
    return Dataset.from_arrays("toy", images, labels, images[:3], np.arange(3))


def spec(**changes: Any) -> Spec:
    """Return Acc-DD with one live model, and without augmentation, perturbation and second derivatives, which compiles
    fastest.
    """
    small = toy.shrunk(resolve("acc_dd", "digits", ipc=2, shape=toy.SHAPE).spec)
    plain: dict[str, Any] = {
        axis: replace(getattr(small, axis), augment=NoAugment(), cutmix=0.0) for axis in ("models", "update")
    }
    plain |= {"augment": NoAugment(), "perturb": NoPerturbation(), "objective": FeatureMatching()}
    return replace(small, **{"outer_steps": 6, "live": 1, **plain, **changes})


def indices(portion: Dataset | RealData) -> list[int]:
    images = portion.x_train if isinstance(portion, Dataset) else np.asarray(portion.images)
    return images[:, 0, 0, 0].tolist()


# ------------------------------------------------------------------ portions


def test_portions_show_every_image() -> None:
    whole, buffer = data(), Buffer(data(), 5, 0)
    assert buffer.portions == 5 and buffer.counts.tolist() == [5, 5, 5]
    shown = [indices(buffer.read(n)) for n in range(10)]
    for rows in shown:
        assert rows == sorted(set(rows)) and np.bincount(whole.y_train[rows]).tolist() == [5, 5, 5]
    for c, passes in ((0, (range(5), range(5, 10))), (1, [range(n, n + 1) for n in range(10)]), (2, (range(3),))):
        members = set(np.flatnonzero(whole.y_train == c).tolist())
        assert all(set().union(*(shown[n] for n in one)) >= members for one in passes)
    assert shown[:5] != shown[5:]


def test_every_pass_over_a_class_has_its_own_permutation() -> None:
    """Classes of eight images make two portions, so passes begin at the even portions."""
    labels = np.arange(16) % 2
    images = np.zeros((16, *toy.SHAPE), np.uint8)
    images[:, 0, 0, 0] = np.arange(16)
    buffer = Buffer(Dataset.from_arrays("toy", images, labels, images, labels), 4, 0)
    halves = [indices(buffer.read(n)) for n in range(0, 40, 2)]
    shown = [[tuple(row // 2 for row in half if row % 2 == c) for half in halves] for c in (0, 1)]
    for of_class in shown:
        assert len(set(of_class)) > 10, "twenty draws of 70 possible halves"
    assert np.mean([one == other for one, other in zip(*shown, strict=True)]) < 0.5, "classes differ"


def test_a_portion_follows_from_the_seed_and_its_number() -> None:
    buffer, other = Buffer(data(), 4, 7), Buffer(data(), 4, 8)
    forth = [indices(buffer.at(n)) for n in range(6)]
    assert [indices(buffer.at(n)) for n in (5, 0, 3, 3, 4)] == [forth[n] for n in (5, 0, 3, 3, 4)]
    assert [indices(other.at(n)) for n in range(6)] != forth


def test_statistics_are_those_of_all_images() -> None:
    for given in ((), (0.4,)):
        portion, whole = (of.normaliser for of in (Buffer(data(), 4, 0, given, given), data().real_data(given, given)))
        jax.tree.map(np.testing.assert_array_equal, portion, whole)


def test_feed_makes_a_buffer_only_if_needed() -> None:
    assert isinstance(feed(data(), 0, 0), RealData) and isinstance(feed(data(), 23, 0), RealData)
    assert isinstance(feed(data(), 22, 0), Buffer)
    refused("resident is -1: it must be 0 .all of them. or more", feed, data(), -1, 0)


# ------------------------------------------------------------------ runs


@cache
def run_of_portions(seed: int) -> State:
    """Run without interruption on portions of four images per class."""
    buffer = Buffer(data(), 4, seed)
    problem = prepare(spec(), data(), seed, real=buffer)
    return run(problem, init_state(problem), real=buffer)


def leaf_bytes(value: Any) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(value)]


def test_a_buffer_of_all_images_equals_the_resident_path() -> None:
    """Results are bit-identical, pretraining included, and the compiled program is the same."""
    buffer = Buffer(data(), max(COUNTS), 0)
    assert leaf_bytes(buffer.at(0)) == leaf_bytes(data().real_data())
    problem = prepare(spec(), data())
    resident = run(problem, init_state(problem))
    programs = run_block._cache_size()  # type: ignore[attr-defined]
    buffered = prepare(spec(), data(), real=buffer)
    assert leaf_bytes(buffered.pool) == leaf_bytes(problem.pool)
    buffer.portions = 2  # so that portions, which all equal the data, alternate
    state = run(buffered, init_state(buffered), real=buffer)
    assert leaf_bytes(state) == leaf_bytes(resident)
    assert run_block._cache_size() == programs  # type: ignore[attr-defined]
    assert buffer.at(2) is buffer.at(2)


@pytest.mark.parametrize(
    ("images", "inner", "changes", "steps"),
    [
        (19, 6, {}, 1),  # a step shows 20 images
        (60, 6, {}, 3),
        (100, 6, {}, 3),  # five steps do not divide six
        (130, 6, {}, 6),
        (250, 6, {}, 12),
        (19, 6, {"selector": Representative(batch=4, every=2)}, 2),
        (19, 6, {"selector": Representative(batch=4, every=4)}, 6),
        (19, 6, {"selector": RandomBatch(4), "update": Frozen(), "classes": (1,)}, 3),
        (19, 6, {"selector": NoReal(), "update": Frozen()}, 36),
        (19, 6, {"selector": Anchors(4)}, 36),
    ],
)
def test_the_steps_of_a_portion_show_every_image_about_once(
    images: int, inner: int, changes: dict[str, Any], steps: int
) -> None:
    portion = data().real_data()._replace(images=np.zeros((images, 1, 1, 1)))
    assert steps_per_portion(spec(inner_steps=inner, **changes), portion) == steps


def test_a_step_sees_the_portion_of_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """The portion depends neither on the block sizes nor on the step from which a run resumes."""
    whole, buffer = run_of_portions(0), Buffer(data(), 4, 0)
    problem = prepare(spec(), data(), real=buffer)
    seen: list[int] = []
    at = Buffer.at
    monkeypatch.setattr(Buffer, "at", lambda self, n: seen.append(n) or at(self, n))
    half = run(problem, init_state(problem), [lambda block: block.end >= 5], BlockSize(every=5), real=buffer)
    reached = int(half.step)
    assert leaf_bytes(run(problem, half, (), BlockSize(longest=1), real=buffer)) == leaf_bytes(whole)
    assert reached == 5 and list(dict.fromkeys(seen)) == list(range(12))


def test_one_portion_is_on_the_device() -> None:
    """Earlier portions are deleted even if they are still referenced, as by the initial problem of a run."""
    buffer = Buffer(data(), 4, 0)
    problem = prepare(spec(), data(), real=buffer)

    def check(*_: object) -> None:
        assert sum(a.shape == (12, *toy.SHAPE) and a.dtype == np.uint8 for a in jax.live_arrays()) == 1

    check()
    run(problem, init_state(problem), [check], real=buffer)


def test_distil_accepts_resident() -> None:
    sets = [distil(spec(), data(), 3, resident=resident) for resident in (0, 23, 4, 4)]
    first, everything, some, again = (one.images.tobytes() for one in sets)
    assert first == everything and some == again != first


def test_clustering_works_on_a_portion() -> None:
    dream = resolve("dream", "digits", ipc=2, shape=toy.SHAPE).spec
    changed = spec(selector=replace(dream.selector, batch=3), init=dream.init)
    assert np.isfinite(distil(changed, data(), resident=4).images).all()


def test_a_pretraining_epoch_uses_every_portion(monkeypatch: pytest.MonkeyPatch) -> None:
    """The learning rate is scheduled by the steps over all portions: three full batches for 17 images each."""
    seen: list[tuple[int, int]] = []
    orders: list[Order | int] = []
    epochs, train = pools.train_epochs, train_many.train_flat
    monkeypatch.setattr(pools, "train_epochs", lambda *args: seen.append(args[-3:]) or epochs(*args))
    monkeypatch.setattr(train_many, "train_flat", lambda *args: orders.append(args[5]) or train(*args))
    monkeypatch.setattr(train_many, "rate_drops", lambda *args: orders.append(args[1]) or rate_drops(*args))
    models = replace(spec().models, size=1, epochs=2, batch=5)
    prepare(spec(models=models), data(), real=Buffer(data(), 6, 0))
    assert seen == [(n + 1, None, 4) for n in range(8)]
    steps = [order for order in orders if isinstance(order, int)]
    shapes = [order.rows.shape for order in orders if isinstance(order, Order)]
    assert shapes == [(3, 5)] and steps[-1] == 12
