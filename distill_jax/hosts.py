"""Several processes as one: what their hosts have to agree on, and what only the first of them does.

Every host runs the same program over the devices of all. What follows from a file, the clock or a signal may differ
between hosts, and a host that takes another turn waits for the others without end: such things are decided once.
Everything here but ``first`` is called by all hosts together, in the same order; with one host it costs nothing.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, TypeVar, cast

import jax
import numpy as np
from jax.experimental import multihost_utils

from distill_jax.types import PyTree

T = TypeVar("T")

REPORTED = "the first host has said so already"
"""the note on an error that all hosts raise because the first did"""

_deciding: ContextVar[bool] = ContextVar("deciding", default=False)
"""set while the first host does something without the others"""


def is_multihost() -> bool:
    """Whether other hosts take part in what happens now."""
    return not _deciding.get() and jax.distributed.is_initialized() and jax.process_count() > 1


def is_first() -> bool:
    """Whether this is the host that reads and writes the files of a run, and talks to the user."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def broadcast(make: Callable[[], T]) -> T:
    """What ``make()`` returns on the first host, on all of them; where it raises, all raise the same.

    It runs on the first host alone, must not wait for the others, and returns something that can be pickled.
    """
    if not is_multihost():
        return make()
    fine, value = True, None
    if is_first():
        token = _deciding.set(True)
        try:
            value = make()
        except Exception as error:
            fine, value = False, error
        finally:
            _deciding.reset(token)
    text = np.frombuffer(pickle.dumps((fine, value)), np.uint8)
    # In two numbers, for jax has none of 64 bits; and lengths in powers of two, for few programs to compile.
    high, low = multihost_utils.broadcast_one_to_all(np.asarray(divmod(len(text), 2**20), np.int32))
    size = int(high) * 2**20 + int(low)
    padded = np.zeros(1 << (size - 1).bit_length(), np.uint8)
    if is_first():
        padded[:size] = text
    heard = np.asarray(multihost_utils.broadcast_one_to_all(padded))
    if not is_first():
        fine, value = pickle.loads(heard[:size].tobytes())
    if isinstance(value, Exception) and not fine:
        if not is_first():
            value.add_note(REPORTED)
        raise value
    return cast(T, value)


def maximum(number: int) -> int:
    """The largest of what the hosts give: the common answer where each has one of its own."""
    return int(multihost_utils.process_allgather(np.int32(number)).max()) if is_multihost() else number


def gather(arrays: PyTree) -> PyTree:
    """``arrays``, those that are shared out over hosts gathered on every host, as NumPy arrays."""
    if not is_multihost():
        return arrays

    def of(a: Any) -> Any:
        shared = isinstance(a, jax.Array) and not (a.is_fully_addressable or a.is_fully_replicated)
        return np.asarray(multihost_utils.process_allgather(a, tiled=True) if shared else a)

    return jax.tree.map(of, arrays)
