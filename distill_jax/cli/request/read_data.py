"""Reading a data set in a runner, with progress and notes on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cache

from distill_jax.cli.output.display import Bar
from distill_jax.data import PHOTOGRAPHS, SHAPES, Dataset, load
from distill_jax.types import RequestError, Shape


def read(dataset: str, side: int | None = None, only: Sequence[str] = ()) -> Dataset:
    """Call ``data.load``, showing progress and its notes on standard error."""
    with ExitStack() as stack:
        bars: list[Bar] = []

        def tick(done: int, total: int) -> None:
            if not bars:
                bars.append(stack.enter_context(Bar("reading images", total)))
            bars[0].update(done)

        data = load(dataset, side, only, tick)
    for note in data.notes:
        print_once(note)
    return data


def refuse_side(dataset: str, side: int | None, shape: Shape) -> None:
    """Raise RequestError if ``side`` is given and images of ``shape`` do not have it."""
    if side is not None and side != shape[0]:
        raise RequestError(
            f"{dataset} has images {shape[0]}x{shape[1]}, and --side is only for folder:, hf: and data sets whose "
            "image size varies: leave it out"
        )


@cache
def print_once(note: str) -> None:
    """Print ``note`` on standard error, once per process."""
    print(note, file=sys.stderr)


def assumed_shape(dataset: str, side: int | None = None) -> Shape:
    """Return the expected image shape of a data set that has not been read yet, given ``--side``."""
    height, width, channels = SHAPES[dataset][0] if dataset in SHAPES else (side or 32, side or 32, 3)
    return (side, side, channels) if side and dataset in PHOTOGRAPHS else (height, width, channels)
