"""The target platform: decides whether a program takes its CPU, GPU or TPU form.

The target is the platform of the default device, unless a program is compiled for a device that this machine lacks:

    with compiled_for("gpu"):
        jax.jit(f).lower(...)  # traced as on a GPU

A function traced this way can also run here. It computes the same values, but slowly.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TypeAlias

import jax

Platform: TypeAlias = Literal["cpu", "gpu", "tpu"]

# A context that is part of jit's cache keys, so that programs traced for two targets are never mixed up.
_target = jax.make_user_context(default_value=None)


def target() -> str:
    """Return the target platform: 'cpu', 'gpu', 'tpu', or the name of another default backend."""
    return _target.value or jax.default_backend()


def on_cpu() -> bool:
    """Return whether the target is a CPU, which runs sequential programs fastest."""
    return target() == "cpu"


@contextmanager
def compiled_for(platform: Platform) -> Iterator[None]:
    """Trace the block for ``platform``, whatever devices this machine has."""
    with _target(platform):
        yield
