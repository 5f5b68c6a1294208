"""Presets (``methods.py``) and data-set recipes (one file each); ``resolve`` lays one over the other.

from distill_jax.recipes import resolve
experiment = resolve("acc_dd", "cifar10", ipc=10)     # .spec, .protocol
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from distill_jax.methods import PRESETS
from distill_jax.recipes import (
    cifar10,
    cifar100,
    digits,
    fashion_mnist,
    generic,
    imagenet10,
    imagenet100,
    mnist,
    svhn,
    tiny,
)
from distill_jax.recipes.recipe import Experiment, Recipe, apply
from distill_jax.types import RequestError, near_miss

RECIPES: dict[str, Recipe] = {
    "cifar10": cifar10.recipe,
    "cifar100": cifar100.recipe,
    "mnist": mnist.recipe,
    "fashion_mnist": fashion_mnist.recipe,
    "svhn": svhn.recipe,
    "tiny": tiny.recipe,
    "imagenet10": imagenet10.recipe,
    "imagenet100": imagenet100.recipe,
    "digits": digits.recipe,
    "generic": generic.recipe,
}

RECIPE_OF = {
    "digits": "digits",
    "cifar10": "cifar10",
    "cifar100": "cifar100",
    "mnist": "mnist",
    "fashion_mnist": "fashion_mnist",
    "svhn_cropped": "svhn",
    "imagenette": "imagenet10",
    "imagenet2012": "imagenet100",
}
RECIPE_OF |= {f"zca:{name}": recipe for name, recipe in RECIPE_OF.items()}
"""The recipe a named data set implies; every other source takes ``generic`` unless told."""


def resolve(
    method: str,
    recipe: str = "generic",
    *,
    ipc: int = 1,
    shape: tuple[int, int, int] = (32, 32, 3),
    factor: int | None = None,
    axes: Mapping[str, Any] | None = None,
) -> Experiment:
    """The preset ``method`` with the recipe's numbers for ``ipc`` images per class of ``shape`` (H, W, c).

    ``axes`` replaces choices, e.g. ``{"perturb": Directions()}``, before the recipe's numbers are laid
    on. Raises RequestError for an unknown method or recipe, naming the nearest one.
    """
    spec = replace(named("method", method, PRESETS), ipc=ipc, **(axes or {}))
    experiment = apply(method, Experiment(spec), generic.common(shape))
    wanted = experiment.spec.parameterisation.factor if factor is None else factor
    overrides = named("recipe", recipe, RECIPES)(ipc, shape, wanted)
    experiment = apply(method, experiment, overrides)
    if factor is None and experiment.spec.parameterisation.factor != wanted:
        # The recipe chose another factor than the preset, and may depend on it.
        experiment = apply(method, experiment, RECIPES[recipe](ipc, shape, experiment.spec.parameterisation.factor))
    if factor is not None:
        experiment = apply(method, experiment, {"*": {"parameterisation.factor": factor}})
    # A recipe may know a better default for an axis, but not better than who chose something else.
    chosen = {axis: it for axis, it in (axes or {}).items() if type(getattr(experiment.spec, axis)) is not type(it)}
    return replace(experiment, spec=replace(experiment.spec, **chosen))


def named(what: str, name: str, known: Mapping[str, Any]) -> Any:
    """``known[name]``, or a RequestError that names the nearest known one."""
    if name in known:
        return known[name]
    raise RequestError(f"unknown {what} {name!r}: {near_miss(name, known)}")
