"""Tests what the functions of ``distill_jax`` say about wrong arguments, and that they can be found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import distill_jax
from distill_jax import DistilledSet, RequestError, distil, evaluate, load, resolve
from distill_jax.axes.perturb import Directions
from distill_jax.data import Dataset
from distill_jax.spec import Spec


def wrong(value: Any) -> Any:
    """Return ``value`` as one that every argument accepts, for the type checker."""
    return value


def spec(**changes: Any) -> Spec:
    return replace(resolve("dm", "digits", shape=(8, 8, 1)).spec, outer_steps=0, **changes)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load("digits")


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda data, made: distil(wrong("acc_dd"), data), r"spec is of type str: give Spec, such as resolve\("),
        (lambda data, made: distil(wrong(resolve("dm")), data), r"spec is of type Experiment: give Spec"),
        (lambda data, made: distil(resolve("dm").spec, wrong("digits")), r"data is of type str: give Dataset"),
        (lambda data, made: evaluate(wrong(data), wrong(made)), r"distilled is of type Dataset: give DistilledSet"),
        (lambda data, made: evaluate(made, wrong("digits")), r"data is of type str: give Dataset"),
        (lambda data, made: evaluate(made, data, wrong("idc")), r"protocol is of type str: give Protocol"),
        (lambda data, made: evaluate(made, data, net=wrong("mlp")), r"net is of type str: give Architecture"),
        (lambda data, made: resolve("dm", axes={"pertrub": Directions()}), "unknown axis 'pertrub': .* perturb"),
        (lambda data, made: resolve("dm", axes={"perturb": "directions"}), r"'directions': .*, such as Directions\(\)"),
        (
            lambda data, made: resolve("dm", axes={"perturb": Directions}),
            r"perturb is <class .*, such as Directions\(\)",
        ),
        (lambda data, made: resolve("dm", axes={"net": "mlp"}), r"net is 'mlp': give Architecture, such as"),
        (lambda data, made: distil(spec(perturb="directions"), data), "perturb is 'directions': give Perturbation"),
        (
            lambda data, made: distil(spec(mean=np.ones(1), std=np.ones(1)), data),
            "mean is of type ndarray: give a tuple",
        ),
        (lambda data, made: distil(spec(classes=[0, 1]), data), "classes is of type list: give a tuple"),
        (lambda data, made: distil(spec(), data, resident=-1), "^resident is -1"),
        (lambda data, made: evaluate(made, data, repeats=0), "repeats is 0: it must be at least 1"),
    ],
)
def test_an_argument_of_another_type_is_named(call: Callable[..., Any], said: str, data: Dataset) -> None:
    with pytest.raises(RequestError, match=said):
        call(data, DistilledSet.load("digits-ipc1"))


def test_a_seed_of_numpy_reaches_the_card(data: Dataset) -> None:
    made = distil(resolve("random", "digits", shape=data.shape).spec, data, seed=np.arange(2)[1])
    assert made.card["seed"] == 1


def test_distil_names_the_class_that_is_too_small(data: Dataset) -> None:
    named = replace(data, class_names=tuple("abcdefghij"))
    with pytest.raises(RequestError, match="class i has fewer images"):
        distil(resolve("dm", "digits", ipc=200, shape=data.shape).spec, named)


def test_the_names_of_the_library_are_listed() -> None:
    assert set(distill_jax.__all__) < set(dir(distill_jax))  # notebooks complete names from dir()
