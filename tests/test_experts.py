"""Tests the experts of trajectory matching: their training, draws from their trajectories, and a run that follows."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax import tree
from distill_jax.augment import NoAugment
from distill_jax.axes.models import EarlyStagePool, ExpertTrajectories, train_pool
from distill_jax.axes.objective import TrajectoryMatching
from distill_jax.axes.optimiser import SGD
from distill_jax.axes.perturb import Directions
from distill_jax.distill import Problem, init_state, run_block
from distill_jax.methods import MTT
from distill_jax.nets import ConvNet
from distill_jax.run import no_tick
from distill_jax.spec import as_arrays
from distill_jax.train import NetworkSGD, Pipeline
from distill_jax.types import Model, PyTree
from tests import toy

SMALL = ConvNet(1, 2)
RATES = NetworkSGD(0.05, 0.0, 0.0)
EXPERTS = ExpertTrajectories(size=2, start=2, ahead=3, optimiser=RATES, batch=8, augment=NoAugment())
LIVE = 4


@pytest.fixture(scope="module")
def trajectories() -> Model:
    """[E, T, ...]"""
    net = SMALL.build(toy.SHAPE, 2)
    return jax.tree.map(np.asarray, EXPERTS.pretrain(net, toy.data(), jax.random.key(0), no_tick))


distance = jax.jit(tree.squared_distance)


def after(models: Model, expert: int, epoch: int) -> PyTree:
    """Return the parameters of an expert after ``epoch`` epochs."""
    return jax.tree.map(lambda a: a[expert, epoch], models.params)


def test_experts_are_recorded_after_every_epoch(trajectories: Model) -> None:
    assert {leaf.shape[:2] for leaf in jax.tree.leaves(trajectories)} == {(2, 5)}
    path = [after(trajectories, 0, t) for t in range(5)]
    assert all(distance(a, b) > 0 for a, b in itertools.pairwise(path))
    assert distance(path[0], after(trajectories, 1, 0)) > 0


def test_experts_learn_at_a_constant_rate(trajectories: Model) -> None:
    """The rate of an early-stage pool drops in the last of four epochs, and the rate of experts does not."""
    net, data = SMALL.build(toy.SHAPE, 2), toy.data()
    falling = jax.tree.map(np.asarray, train_pool(net, data, 2, 4, Pipeline(8, 0.0), RATES, jax.random.key(0), no_tick))
    apart = [
        float(distance(*(jax.tree.map(lambda a, t=t: a[:, t], m.params) for m in (falling, trajectories))))
        for t in range(5)
    ]
    # Not exactly equal, because two programs round differently.
    assert max(apart[:4]) < 1e-12 < 1e-9 < apart[4]


def test_start_and_target_are_of_one_expert(trajectories: Model) -> None:
    net = SMALL.build(toy.SHAPE, 2)
    sampled = jax.jit(lambda pool, key: EXPERTS.sample(net, pool, LIVE, 0, key))(trajectories, jax.random.key(1))
    models = jax.tree.map(np.asarray, sampled)
    drawn = set()
    for k in range(LIVE):
        start, target = (jax.tree.map(lambda a, k=k: a[k], part) for part in (models.params, models.target))
        found = [
            (e, t)
            for e in range(2)
            for t in range(EXPERTS.start)
            if distance(start, after(trajectories, e, t)) == 0
            and distance(target, after(trajectories, e, t + EXPERTS.ahead)) == 0
        ]
        assert len(found) == 1
        drawn.update(found)
    assert len(drawn) > 1

    moved = jax.jit(Directions().perturb)(models, jax.random.key(2))
    assert distance(moved.params, models.params) > 0
    assert distance(moved.target, models.target) == 0


def test_early_stage_pool_with_targets() -> None:
    net, data = SMALL.build(toy.SHAPE, 2), toy.data()
    plain: dict[str, Any] = {"batch": 8, "cutmix": 0.0, "augment": NoAugment()}  # in the program of the experts
    pool = EarlyStagePool(size=1, epochs=1, optimiser=RATES, ahead=2, schedule="constant", **plain)
    models = pool.pretrain(net, data, jax.random.key(0), no_tick)
    assert models.target is not None and distance(models.params, models.target) > 0
    without = replace(pool, ahead=0)
    assert without.pretrain(net, data, jax.random.key(0), no_tick).target is None
    assert (pool.gives_target, without.gives_target) == (True, False)


def test_images_and_rate_learn_to_follow_an_expert(trajectories: Model) -> None:
    objective = TrajectoryMatching(steps=3, rate=0.05, rate_lr=1e-3, augment=NoAugment())
    spec = replace(MTT, models=EXPERTS, live=LIVE, objective=objective, optimiser=SGD(30.0), net=SMALL, outer_steps=30)
    spec = as_arrays(replace(spec, model_chunk=1, class_chunk=1))
    problem = Problem(spec, SMALL.build(toy.SHAPE, 2), toy.data(), trajectories, jax.random.key(0))
    state, losses = run_block(problem, init_state(problem), 30)
    assert np.mean(losses[20:30]) < 0.9 * np.mean(losses[:10])
    assert state.synthetic.learnable is not None and state.synthetic.learnable != jnp.float32(0.05)


def test_progress_is_reported_after_the_work() -> None:
    """JAX calls return before their result is computed. A tick must wait for its epoch, or a signal could not stop the
    training.
    """
    net = SMALL.build(toy.SHAPE, 2)
    pending: list[list[jax.Array]] = []

    def tick(done: int, total: int) -> None:
        pending.append([array for array in jax.live_arrays() if not array.is_ready()])

    train_pool(net, toy.data(), 1, 4, Pipeline(8, 0.0), RATES, jax.random.key(0), tick)
    assert pending == [[], [], [], []]
