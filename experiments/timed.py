"""The parts of an inner step, compiled and ready to be timed, on random images. For ``benchmark`` alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from configs import resolve
from configs.recipe import Experiment
from distill_jax import tree
from distill_jax.distill import Problem, State, init_state, run_block
from distill_jax.evaluate import Sets, training
from distill_jax.nets import ConvNet
from distill_jax.select import RandomBatch
from distill_jax.spec import check, with_chunks
from distill_jax.synthetic import decoded_set
from distill_jax.types import Array, Objective, RealData
from distill_jax.update import Frozen, TrainOnReal


@dataclass(frozen=True)
class Size:
    """Shapes of a step."""

    shape: tuple[int, int, int]
    """(H, W, c)"""
    depth: int
    width: int
    ipc: int
    factor: int
    classes: int = 10
    batch: int = 64
    """real images per class in a sweep, and images per step of an update"""
    update: int = 640
    """real images per model update"""
    epochs: int = 2
    """of training from scratch on the decoded images, when evaluation is timed"""

    def real(self) -> tuple[np.ndarray, np.ndarray]:
        """Random images: uint8 [N, H, W, c], labels int32 [N] that go round the classes."""
        n = max(2 * self.classes * self.batch, self.update)
        images = np.random.default_rng(0).integers(0, 256, (n, *self.shape), np.uint8)
        return images, np.arange(n, dtype=np.int32) % self.classes


SIZES = {
    "cifar10": Size((32, 32, 3), depth=3, width=128, ipc=10, factor=2),
    "digits": Size((8, 8, 1), depth=2, width=32, ipc=1, factor=1, epochs=100),
    "tiny": Size((8, 8, 1), depth=1, width=4, ipc=1, factor=1, classes=2, batch=4, update=8),
}
"""``tiny`` is for trying out the benchmark itself"""


NETWORKS = 2
"""trained from scratch when evaluation is timed"""


class Step(NamedTuple):
    """An implementation of the two parts. Each function does its work n times and returns the seconds that took."""

    sweep: Callable[[int], float]
    """match all classes and step their images"""
    update: Callable[[int], float]
    """train the model on ``size.update`` real images"""
    compile_s: float


def step(size: Size, objective: Objective | None = None) -> Step:
    """Ours: the sweep is the very block of steps that ``distill`` runs, with the model update left out.

    ``objective``: another one than acc_dd's. Raises RequestError where it does not fit the rest.
    """
    whole, state = _problem(size, objective)
    frozen = replace(whole, spec=replace(whole.spec, update=Frozen()))
    state = state._replace(model_optimisers=(), step=jnp.ones((), jnp.int32))
    live = tree.take(state.models, 0)
    carry = (live, *whole.spec.update.start(live, whole.hyper))
    syn = decoded_set(whole.spec.parameterisation, state.synthetic.images, whole.data)

    @jax.jit
    def updates(problem: Problem, carry: tuple, n: Array) -> tuple:
        def update(i: Array, carry: tuple) -> tuple:
            key = jax.random.fold_in(problem.root, i)
            model, optimiser, watch = carry
            spec, net, hyper, data = problem.spec, problem.net, problem.hyper, problem.data
            return tuple(spec.update.update(net, model, optimiser, watch, data, syn, hyper, key)[:3])

        return jax.lax.fori_loop(0, n, update, carry)

    began = time.perf_counter()
    run_sweeps = run_block.lower(frozen, state, jnp.int32(1)).compile()
    run_updates = updates.lower(whole, carry, jnp.int32(1)).compile()
    compile_s = time.perf_counter() - began

    def sweep(n: int) -> float:
        nonlocal state
        began = time.perf_counter()
        state, _ = jax.block_until_ready(run_sweeps(frozen, state, jnp.int32(n)))
        return time.perf_counter() - began

    def update(n: int) -> float:
        nonlocal carry
        began = time.perf_counter()
        carry = jax.block_until_ready(run_updates(whole, carry, jnp.int32(n)))
        return time.perf_counter() - began

    return Step(sweep, update, compile_s)


def evaluation(size: Size) -> Callable[[], float]:
    """Train NETWORKS networks for ``size.epochs`` on the decoded images; returns seconds. The first call compiles."""
    problem, state = _problem(size)
    store = decoded_set(problem.spec.parameterisation, state.synthetic.images, problem.data)
    protocol = replace(_experiment(size).protocol, epochs=size.epochs)
    mean, std = problem.data.mean, problem.data.std

    def train() -> float:
        began = time.perf_counter()
        for _ in training(problem.net, protocol, Sets.same(store, NETWORKS), problem.root, mean, std):
            pass
        return time.perf_counter() - began

    return train


def _experiment(size: Size) -> Experiment:
    return resolve("acc_dd", "cifar10", ipc=size.ipc, shape=size.shape, factor=size.factor)


def _problem(size: Size, objective: Objective | None = None) -> tuple[Problem, State]:
    """acc_dd at ``size`` on random images and random models, and its first state."""
    experiment = _experiment(size)
    update = experiment.spec.update
    assert isinstance(update, TrainOnReal)
    spec = replace(
        experiment.spec,
        net=ConvNet(depth=size.depth, width=size.width),
        selector=RandomBatch(size.batch),
        objective=objective or experiment.spec.objective,
        update=replace(update, images=size.update, batch=size.batch),
        inner_steps=10**6,  # no step that is timed begins an outer iteration
    )
    spec = with_chunks(spec, size.classes, jax.default_backend())
    net = spec.net.build(size.shape, size.classes)
    images, labels = size.real()
    index = np.stack([np.flatnonzero(labels == c) for c in range(size.classes)])
    counts = jnp.full(size.classes, index.shape[1], jnp.int32)
    check(spec, size.shape, counts.tolist())
    grey = jnp.full(size.shape[2], 0.5), jnp.full(size.shape[2], 0.25)
    data = RealData(jnp.asarray(images), jnp.asarray(labels), jnp.asarray(index, jnp.int32), counts, *grey)
    pool = jax.vmap(net.init)(jax.random.split(jax.random.key(1), 2))
    problem = Problem(spec, net, jax.tree.map(jnp.float32, experiment.hyper), data, pool, jax.random.key(0))
    return problem, init_state(problem)
