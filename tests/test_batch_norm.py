"""Tests that batch norm's running statistics are part of a model in training, evaluation and distillation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax.augment import NoAugment
from distill_jax.axes.init import CorrectlyClassified
from distill_jax.axes.labels import LearnedLabels
from distill_jax.axes.selector import embed
from distill_jax.axes.update import accuracy
from distill_jax.contracts import ClassObjective
from distill_jax.distill import init_state, run_block
from distill_jax.evaluation import Protocol, train_networks
from distill_jax.nets import ConvNet
from distill_jax.spec import CHOICES
from distill_jax.train import count_correct
from distill_jax.train_many import Sets
from distill_jax.types import Array, Model, Net, NetOutput, Normaliser, Synthetic, TrainSet
from tests import toy

BATCH = ConvNet(depth=1, width=4, norm="batch")
NET = BATCH.build((4, 4, 1), 2)


def test_running_statistics_follow_the_batches_of_training() -> None:
    """With constant weights, n full batches give 0.9^n of the initial and 1 - 0.9^n of the batch's statistics."""
    images = 2 + np.random.default_rng(1).normal(size=(6, 4, 4, 1)).astype(np.float32)
    store = TrainSet(*jax.device_put((images, np.eye(2, dtype=np.float32)[np.arange(6) % 2])))
    protocol = Protocol(epochs=5, rate=0.0, cutmix=0.0, augment=NoAugment())
    plain = Normaliser(*jax.device_put((np.zeros(1, np.float32), np.ones(1, np.float32))))
    models = jax.device_get(train_networks(NET, protocol, Sets.same(store, 2), jax.random.key(0), plain))
    trained = jax.jit(lambda model: NET.apply(model, store.images, train=True)[1])
    for r, key in enumerate(jax.random.split(jax.random.key(0), 2)):
        model: Model = jax.tree.map(lambda a, r=r: a[r], models)
        start = jax.device_get(NET.init(key))
        once = jax.device_get(trained(start))
        for name in ("mean", "var"):
            before, after = start.stats["norm0"][name], once["norm0"][name]
            batch = (after - 0.9 * before) / 0.1
            expected = 0.9**5 * before + (1 - 0.9**5) * batch
            np.testing.assert_allclose(model.stats["norm0"][name], expected, rtol=1e-4, atol=1e-5)


def test_evaluation_uses_the_running_statistics_and_nothing_of_the_batch() -> None:
    rng = np.random.default_rng(1)
    images, labels = rng.integers(0, 256, (60, 4, 4, 1), np.uint8), np.arange(60) % 2
    normaliser = Normaliser(*jax.device_put((np.full(1, 0.5, np.float32), np.full(1, 0.2, np.float32))))
    model = NET.init(jax.random.key(0))

    def with_stats(mean: float, var: float) -> Model:
        values = {"mean": np.full(4, mean, np.float32), "var": np.full(4, var, np.float32)}
        return model._replace(stats={"norm0": values})

    @jax.jit
    def counts(images: Array, labels: Array, model: Model) -> list[Array]:
        return [count_correct(NET, model, images, labels, normaliser, chunk) for chunk in (1, 7, 60)]

    @jax.jit
    def logits_and_stats(model: Model, x: Array) -> tuple[Array, Array, Any]:
        whole, stats = NET.apply(model, x, train=False)
        return whole.logits, NET.apply(model, x[:1], train=False)[0].logits, stats

    model = with_stats(0.3, 0.5)
    assert len({int(count) for count in counts(images, labels, model)}) == 1
    x = rng.normal(size=(5, 4, 4, 1)).astype(np.float32)
    whole, alone, stats = jax.device_get(logits_and_stats(model, x))
    np.testing.assert_allclose(whole[:1], alone, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, stats, model.stats)
    other, *_ = logits_and_stats(with_stats(-1.0, 2.0), x)
    assert not np.allclose(other, whole, atol=1e-3)


class Asked:
    """A network that keeps the mode of each of its calls."""

    def __init__(self, net: Net) -> None:
        self.net, self.trains = net, set[bool]()

    def init(self, key: Array) -> Model:
        return self.net.init(key)

    def apply(self, model: Model, x: Array, train: bool) -> tuple[NetOutput, Any]:
        self.trains.add(train)
        return self.net.apply(model, x, train)


def test_objectives_see_networks_in_training_mode_and_only_paired_features_in_evaluation_mode() -> None:
    """Only batch norm makes a difference, and the golden networks of the other objectives have none."""
    net = BATCH.build(toy.SHAPE, 2)
    model = net.init(jax.random.key(0))
    model = model._replace(target=model.params)
    images, key = jnp.zeros((2, 3, *toy.SHAPE)), jax.random.key(1)
    for name, make in CHOICES["objective"].items():
        objective, asked = make(), Asked(net)
        if isinstance(objective, ClassObjective):
            loss = partial(objective.class_loss, asked, model, images[0], images[0], jnp.asarray(0))
        else:
            shown = Synthetic(images, learnable=objective.learnable())
            loss = partial(objective.set_loss, asked, model, images, shown)
        jax.eval_shape(loss, key)
        assert asked.trains == {name != "paired"}, name


def test_labels_and_initial_images_come_from_networks_in_evaluation_mode_and_cafes_readings_do_not() -> None:
    net, data = BATCH.build(toy.SHAPE, 2), toy.data()
    model, key = net.init(jax.random.key(0)), jax.random.key(1)
    teachers = jax.tree.map(lambda a: np.asarray(a)[None], model)
    initial = TrainSet(jnp.zeros((4, *toy.SHAPE)), jax.device_put(np.eye(2, dtype=np.float32)[np.arange(4) // 2]))
    calls: dict[bool, list[Callable[[Any], Any]]] = {
        False: [
            lambda net: LearnedLabels(start="teachers").init(net, teachers, initial),
            lambda net: CorrectlyClassified().images(net, model, data, 2, 1, key),
            lambda net: embed(net, model, data, True),
        ],
        True: [lambda net: accuracy(net, model, data, 3, key)],
    }
    for train, functions in calls.items():
        for function in functions:
            asked = Asked(net)
            jax.eval_shape(partial(function, asked))
            assert asked.trains == {train}


@pytest.mark.parametrize(
    ("method", "learns"),
    [*(pytest.param(m, True, marks=pytest.mark.slow) for m in ("acc_dd", "dsa")), ("dm", False)],
)
def test_a_distillation_network_with_batch_norm(method: str, learns: bool) -> None:
    """The statistics change only if the model is trained between steps (in acc_dd, on real images)."""
    problem = toy.problem(method, net=BATCH, augment=NoAugment())
    # One outer iteration, so that the second step uses the models that the first one drew.
    problem = replace(problem, spec=replace(problem.spec, inner_steps=4))
    state = init_state(problem)
    images = np.asarray(state.synthetic.images)
    starts = state.models.stats["norm0"]["mean"]
    if problem.pool is not None:
        starts = problem.pool.stats["norm0"]["mean"]
        assert starts.shape == (2, 4) and np.all(np.abs(starts) > 0), "pretraining moved them"
    starts = np.asarray(starts)
    state, losses = run_block(problem, state, 2)
    assert np.all(np.isfinite(losses[:2]))
    moved = np.abs(np.asarray(state.models.stats["norm0"]["mean"]) - starts).max(axis=1)
    assert np.all(moved > 1e-3) if learns else np.all(moved == 0)
    assert np.all(np.isfinite(state.synthetic.images)) and np.any(np.asarray(state.synthetic.images) != images)
