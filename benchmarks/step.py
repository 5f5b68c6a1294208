"""Compile the parts of an inner step on random images, ready to be timed by ``benchmark``."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from distill_jax import tree
from distill_jax.axes.parameterisation import decoded_set
from distill_jax.axes.selector import RandomBatch
from distill_jax.axes.update import Frozen, TrainOnReal
from distill_jax.check_spec import check
from distill_jax.contracts import Objective
from distill_jax.distill import Problem, State, begin_outer, init_state, run_block
from distill_jax.evaluation import train_networks
from distill_jax.nets import ConvNet, conv
from distill_jax.nets.net import DTypeName
from distill_jax.platform import target
from distill_jax.recipes import Experiment, resolve
from distill_jax.run import with_chunks
from distill_jax.spec import as_arrays
from distill_jax.train_many import Sets
from distill_jax.types import Array, RealData


@dataclass(frozen=True)
class Size:
    """The shapes of a step."""

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
    """real images per timed model update"""
    run_update: int = 2000
    """real images per model update of a run, for the time of the whole step"""
    epochs: int = 2
    """epochs of training from scratch on the decoded images, when evaluation is timed"""

    def real(self) -> tuple[np.ndarray, np.ndarray]:
        """Draw random images, uint8 [N, H, W, c], with labels 0, 1, ..., C-1, 0, ..., int32 [N]."""
        n = max(2 * self.classes * self.batch, self.update)
        images = np.random.default_rng(0).integers(0, 256, (n, *self.shape), np.uint8)
        return images, np.arange(n, dtype=np.int32) % self.classes


SIZES = {
    "cifar10": Size((32, 32, 3), depth=3, width=128, ipc=10, factor=2),
    "cifar10-small": Size((32, 32, 3), depth=3, width=32, ipc=1, factor=2, run_update=512, epochs=20),
    "digits": Size((8, 8, 1), depth=2, width=32, ipc=1, factor=1, run_update=256, epochs=100),
    "tiny": Size((8, 8, 1), depth=1, width=4, ipc=1, factor=1, classes=2, batch=4, update=8, run_update=8),
}
"""``cifar10-small`` is a step that two cores can manage (results/cifar10_small.md); ``tiny`` is for testing the
benchmark itself"""


NETWORKS = 2
"""number of networks trained from scratch when evaluation is timed"""


class Step(NamedTuple):
    """An implementation of the two parts. Each function does its work n times and returns the elapsed seconds."""

    sweep: Callable[[int], float]
    """match all classes and step their images"""
    update: Callable[[int], float]
    """train the model on ``size.update`` real images"""
    compile_s: float


def step(size: Size, objective: Objective | None = None, dtype: DTypeName = "float32") -> Step:
    """Compile our implementation. The sweep is the same block of steps that ``distill`` runs, without the model update.

    ``objective``: replaces the one of acc_dd. Raises RequestError if it does not fit the other choices.
    """
    whole, state = _problem(size, objective, dtype)
    frozen = replace(whole, spec=replace(whole.spec, update=Frozen()))
    state = state._replace(update=(), step=jnp.ones((), jnp.int32))
    live = tree.take(state.models, 0)
    carry = whole.spec.update.begin(whole.net, live, whole.data, whole.root)
    syn = decoded_set(whole.spec.parameterisation, state.synthetic, whole.data)

    @jax.jit
    def updates(problem: Problem, carry: tuple, n: Array) -> tuple:
        def update(i: Array, carry: tuple) -> tuple:
            key = jax.random.fold_in(problem.root, i)
            model, memory = carry
            return problem.spec.update.update(problem.net, model, memory, problem.data, syn, key)

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


def group_filters() -> None:
    """From now on in this process, compute convolutions with different filters per class as one grouped convolution."""
    plain: dict[Any, Callable[..., Array]] = {conv._conv: conv._conv_one, conv._correlate: conv._correlate_one}

    def each(f: partial, a: Array, b: Array) -> Array:
        return jax.vmap(partial(plain[f.func], **f.keywords))(a, b)

    conv._each = each


def evaluation(size: Size) -> Callable[[], float]:
    """Return a function that trains NETWORKS networks for ``size.epochs`` on the decoded images and returns the elapsed
    seconds. Its first call compiles."""
    problem, state = _problem(size)
    store = decoded_set(problem.spec.parameterisation, state.synthetic, problem.data)
    protocol = replace(_experiment(size).protocol, epochs=size.epochs)

    def train() -> float:
        began = time.perf_counter()
        sets = Sets.same(store, NETWORKS)
        jax.block_until_ready(train_networks(problem.net, protocol, sets, problem.root, problem.data.normaliser))
        return time.perf_counter() - began

    return train


def _experiment(size: Size) -> Experiment:
    return resolve("acc_dd", "cifar10", ipc=size.ipc, shape=size.shape, factor=size.factor)


def _problem(size: Size, objective: Objective | None = None, dtype: DTypeName = "float32") -> tuple[Problem, State]:
    """Return the problem of acc_dd at ``size`` on random images and random models, and its initial state."""
    experiment = _experiment(size)
    update = experiment.spec.update
    assert isinstance(update, TrainOnReal)
    spec = replace(
        experiment.spec,
        net=ConvNet(depth=size.depth, width=size.width, dtype=dtype),
        selector=RandomBatch(size.batch),
        objective=objective or experiment.spec.objective,
        update=replace(update, images=size.update, batch=size.batch),
        inner_steps=10**6,  # so that no timed step begins an outer iteration
    )
    spec = with_chunks(spec, size.shape, size.classes, target())
    net = spec.net.build(size.shape, size.classes)
    images, labels = size.real()
    grey = np.full(size.shape[2], 0.5), np.full(size.shape[2], 0.25)
    data = RealData.from_arrays(images, labels, *grey)
    check(spec, size.shape, data.counts.tolist())
    pool = jax.vmap(net.init)(jax.random.split(jax.random.key(1), 2))
    problem = Problem(as_arrays(spec), net, data, pool, jax.random.key(0))
    return problem, begin_outer(problem, init_state(problem), problem.root)
