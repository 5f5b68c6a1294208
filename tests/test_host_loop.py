"""Tests the host loop: which blocks it runs, and what callbacks see."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from distill_jax import run
from distill_jax.run import Block, BlockSize, host_loop


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every block take a second."""
    monkeypatch.setattr(run, "time", SimpleNamespace(perf_counter=itertools.count().__next__))


def advance(state: list[int], first: int, count: int) -> tuple[list[int], np.ndarray]:
    steps = list(range(first, first + count))
    return state + steps, np.asarray(steps)


@pytest.mark.parametrize(
    ("start", "size", "ends"),
    [
        (0, BlockSize(seconds=2), [1, 2, 4, 8, 16, 20]),
        (0, BlockSize(seconds=100), [1, 2, 10, 20]),  # a block is at most eight times as long as the one before
        (0, BlockSize(seconds=100, longest=3), [1, 2, 5, 8, 11, 14, 17, 20]),
        (0, BlockSize(seconds=0.1), list(range(1, 21))),
        (3, BlockSize(seconds=100, every=5), [4, 5, 10, 15, 20]),
        (3, BlockSize(seconds=100, every=4), [4, 5, 8, 12, 16, 20]),
        (20, BlockSize(), []),
    ],
)
def test_blocks_are_sized_by_the_one_before_and_end_at_multiples(start: int, size: BlockSize, ends: list[int]) -> None:
    blocks: list[Block] = []
    state = host_loop(advance, [], start, 20, [blocks.append], size)
    assert state == list(range(start, 20))
    assert [block.end for block in blocks] == ends and [block.first for block in blocks] == [start, *ends][: len(ends)]
    assert [step for block in blocks for step in block.losses] == state
    assert all(block.seconds == 1 and block.state[-1] == block.end - 1 for block in blocks)


def test_every_callback_sees_the_block_in_which_one_ends_the_loop() -> None:
    seen: list[int] = []
    state = host_loop(advance, [], 0, 20, [lambda block: block.end >= 4, lambda block: seen.append(block.end)])
    assert seen == [1, 2, 4] and state == [0, 1, 2, 3]
