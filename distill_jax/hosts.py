"""Coordination of several hosts: decisions of the first host that all hosts follow.

Every host runs the same program over all devices. Files, clocks and signals may differ between hosts, and a host that
branches differently would wait for the other hosts forever. Therefore one host decides, and the others follow. All
hosts must call each function here, except ``is_first``, together and in the same order. On one host they cost nothing.
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

REPORTED = "the first host has already reported this error"
"""Note on an error that the other hosts raise because the first host raised it."""

_deciding: ContextVar[bool] = ContextVar("deciding", default=False)
"""True while the first host runs a function without the other hosts."""


def is_multihost() -> bool:
    """Return whether other hosts take part in the current computation."""
    return not _deciding.get() and jax.distributed.is_initialized() and jax.process_count() > 1


def is_first() -> bool:
    """Return whether this host reads and writes the files of the run and prints to the terminal."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def broadcast(make: Callable[[], T]) -> T:
    """Call ``make`` on the first host and return its result on every host. If it raises, all hosts raise its error.

    ``make`` must not wait for other hosts. Its result must be picklable.
    """
    if not is_multihost():
        return make()
    succeeded, value = True, None
    if is_first():
        token = _deciding.set(True)
        try:
            value = make()
        except Exception as error:
            succeeded, value = False, error
        finally:
            _deciding.reset(token)
    message = np.frombuffer(pickle.dumps((succeeded, value)), np.uint8)
    # The size is sent as two numbers, because jax has no 64-bit integers here. The message is padded to a power of two,
    # so that few programs are compiled.
    high, low = multihost_utils.broadcast_one_to_all(np.asarray(divmod(len(message), 2**20), np.int32))
    size = int(high) * 2**20 + int(low)
    padded = np.zeros(1 << (size - 1).bit_length(), np.uint8)
    if is_first():
        padded[:size] = message
    received = np.asarray(multihost_utils.broadcast_one_to_all(padded))
    if not is_first():
        succeeded, value = pickle.loads(received[:size].tobytes())
    if isinstance(value, Exception) and not succeeded:
        if not is_first():
            value.add_note(REPORTED)
        raise value
    return cast(T, value)


def maximum(number: int) -> int:
    """Return the maximum of ``number`` over all hosts."""
    return int(multihost_utils.process_allgather(np.int32(number)).max()) if is_multihost() else number


def gather(arrays: PyTree) -> PyTree:
    """Gather the arrays that are sharded over several hosts. With several hosts, all leaves become NumPy arrays."""
    if not is_multihost():
        return arrays

    def gathered(a: Any) -> Any:
        sharded = isinstance(a, jax.Array) and not (a.is_fully_addressable or a.is_fully_replicated)
        return np.asarray(multihost_utils.process_allgather(a, tiled=True) if sharded else a)

    return jax.tree.map(gathered, arrays)
