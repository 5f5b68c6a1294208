"""Dataset distillation in JAX: learn a tiny synthetic training set by matching gradients on augmented models.

from distill_jax import distil, evaluate, load, resolve

data = load("digits")
distilled = distil(resolve("acc_dd", "digits", shape=data.shape).spec, data)
images, labels = distilled.arrays()
"""

import importlib
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distill_jax.data import load
    from distill_jax.distilled import DistilledSet
    from distill_jax.evaluation import evaluate
    from distill_jax.recipes import resolve
    from distill_jax.run import distil
    from distill_jax.types import RequestError, choice

__all__ = ["DistilledSet", "RequestError", "choice", "distil", "evaluate", "load", "resolve"]

_HOME = {
    "DistilledSet": "distilled",
    "RequestError": "types",
    "choice": "types",
    "distil": "run",
    "evaluate": "evaluation",
    "load": "data",
    "resolve": "recipes",
}

try:
    __version__ = metadata.version("distill_jax")
except metadata.PackageNotFoundError:  # only the files are there
    __version__ = "0"


def __getattr__(name: str) -> Any:
    # Importing jax and flax takes a second or two, which `--help` need not wait for.
    if name in _HOME:
        return getattr(importlib.import_module(f"distill_jax.{_HOME[name]}"), name)
    raise AttributeError(f"module 'distill_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
