"""The platform that programs are made for: the one place that decides between forms for a CPU, a GPU and a TPU.

It is that of the default device, or another while a program is compiled for a device that is not there:

    with compiled_for("gpu"):
        jax.jit(f).lower(...)  # traced as on a GPU

What is traced inside can also run here, slowly: the same values by another path.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TypeAlias

import jax

Platform: TypeAlias = Literal["cpu", "gpu", "tpu"]

# A context that jit knows: the caches of traced and compiled programs never mix two targets.
_target = jax.make_user_context(default_value=None)


def target() -> str:
    """The platform that is being compiled for: 'cpu', 'gpu', 'tpu', or what else the default backend is called."""
    return _target.value or jax.default_backend()


def on_cpu() -> bool:
    """Whether that is a CPU, where one thing after the other is fastest."""
    return target() == "cpu"


@contextmanager
def compiled_for(platform: Platform) -> Iterator[None]:
    """Everything traced inside is meant for ``platform``, whatever devices there are."""
    with _target(platform):
        yield
