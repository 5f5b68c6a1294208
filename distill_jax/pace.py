"""Cut a long loop of compiled steps into blocks, so that progress, interruption and NaN checks stay alive."""

from __future__ import annotations

import time
from collections.abc import Iterator

GROWTH = 8
"""a block has at most so many times the steps of the one before: steps of a dynamic loop (CAFE) differ much"""


def blocks(start: int, stop: int, at_most: int, seconds: float = 2.0) -> Iterator[tuple[int, int]]:
    """Yield ``(first, count)`` covering start..stop, each sized by how long the one before it took.

    The first two have length 1: the very first also compiles, and tells nothing about speed. How a loop is cut must not
    change what it computes.
    """
    first, count, compiled = start, 1, False
    while first < stop:
        count = min(count, at_most, stop - first)
        began = time.perf_counter()
        yield first, count
        first += count
        if compiled:
            fitting = int(seconds * count / max(time.perf_counter() - began, 1e-6))
            count = max(1, min(fitting, GROWTH * count))
        compiled = True
