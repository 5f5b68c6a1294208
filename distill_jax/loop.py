"""The host's side of a run: block after block of compiled steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from distill_jax.data import Dataset
from distill_jax.distill import BLOCK, Problem, State, run_block
from distill_jax.pace import blocks
from distill_jax.spec import Hyper, Spec, check, with_chunks
from distill_jax.types import Tick


class Block(NamedTuple):
    """A stretch of a run."""

    state: State
    """after the block; the next block consumes it, so copy what must outlive it"""
    first: int
    """the step the block started at"""
    losses: np.ndarray
    """float32 [steps]: after each step, the mean matching loss of its outer iteration so far"""


def prepare(spec: Spec, hyper: Hyper, data: Dataset, seed: int = 0, tick: Tick = lambda done, total: None) -> Problem:
    """Everything that a run needs: the spec's chunks chosen, its network built, its pool pretrained.

    ``tick(done, total)`` is called between epochs of pretraining. The same seed takes the same path as
    ``experiments.distill --seed``. Raises RequestError where the spec does not fit the data.
    """
    check(spec, data.shape, data.counts.tolist())
    spec = with_chunks(spec, data.classes, jax.default_backend())
    net, real = spec.net.build(data.shape, data.classes), data.real_data()
    hyper = jax.tree.map(jnp.float32, hyper)
    pool_key, root = jax.random.split(jax.random.key(seed))
    return Problem(spec, net, hyper, real, spec.models.pretrain(net, real, hyper, pool_key, tick), root)


def run(problem: Problem, state: State, seconds: float = 2.0) -> Iterator[Block]:
    """Take ``state`` to the end of the run in blocks of about ``seconds``, yielding each."""
    for first, count in blocks(int(state.step), problem.spec.steps, BLOCK, seconds):
        state, losses = run_block(problem, state, count)
        yield Block(state, first, np.asarray(losses)[:count])
