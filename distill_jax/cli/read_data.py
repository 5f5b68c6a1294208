"""How runners read a data set: with progress, and with what is to be said of it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cache

from distill_jax.cli.display import Bar
from distill_jax.data import PHOTOGRAPHS, SHAPES, Dataset, load
from distill_jax.types import RequestError, Shape


def read(dataset: str, side: int | None = None, only: Sequence[str] = ()) -> Dataset:
    """``data.load``, which tells on standard error how far it is, and what it did to the images."""
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
    """Raise RequestError where images of ``shape`` cannot be of the ``side`` that was asked for."""
    if side is not None and side != shape[0]:
        raise RequestError(
            f"{dataset} has images {shape[0]}x{shape[1]}, and --side is for folder:, hf: and sets of varying size: "
            "leave it out"
        )


@cache
def print_once(note: str) -> None:
    """Once in a process, however often it reads the same."""
    print(note, file=sys.stderr)


def assumed_shape(dataset: str, side: int | None = None) -> Shape:
    """The shape of images not read yet, of which ``side`` is asked for."""
    height, width, channels = SHAPES[dataset][0] if dataset in SHAPES else (side or 32, side or 32, 3)
    return (side, side, channels) if side and dataset in PHOTOGRAPHS else (height, width, channels)
