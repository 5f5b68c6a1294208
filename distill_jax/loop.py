"""The host's side of a run: block after block of compiled steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from distill_jax.distill import BLOCK, Problem, State, run_block
from distill_jax.pace import blocks


class Block(NamedTuple):
    """A stretch of a run."""

    state: State
    """after the block; the next block consumes it, so copy what must outlive it"""
    first: int
    """the step the block started at"""
    losses: np.ndarray
    """float32 [steps]: after each step, the mean matching loss of its outer iteration so far"""


def run(problem: Problem, state: State, seconds: float = 2.0) -> Iterator[Block]:
    """Take ``state`` to the end of the run in blocks of about ``seconds``, yielding each."""
    for first, count in blocks(int(state.step), problem.spec.steps, BLOCK, seconds):
        state, losses = run_block(problem, state, count)
        yield Block(state, first, np.asarray(losses)[:count])
