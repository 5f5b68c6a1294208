"""Tests the distributions of initial weights against figures of PyTorch (end of the golden README).

``assert_follows`` has the rule of every layer. PyTorch's figures and ours must both obey it, so a wrong rule fails on
PyTorch's file. The seed is fixed, so a bound holds in every run or in none.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from distill_jax.nets import ARCHITECTURES
from tests.golden_weights import GOLDEN

ERRORS = 5
"""standard errors"""

DIGITS = 5e-5
"""relative rounding of PyTorch's figures"""

NETS = [*ARCHITECTURES, "resnetap10 224"]
"""at 32x32x3 and 10 classes; the last at 224x224x3"""


class Figures(NamedTuple):
    """The figures of one parameter. ``kind`` is conv, linear, norm or position; ``shape`` is PyTorch's."""

    kind: str
    shape: tuple[int, ...]
    mean: float
    std: float
    min: float
    max: float


@cache
def pytorch() -> dict[str, dict[str, Figures]]:
    """Return network -> PyTorch's name of each parameter -> figures."""
    nets = json.loads((GOLDEN / "initial_weights.json").read_text())
    return {
        net: {name: Figures(kind, tuple(shape), *rest) for name, (kind, shape, *rest) in parameters.items()}
        for net, parameters in nets.items()
    }


def fresh(net: str) -> dict[str, Figures]:
    name, _, side = net.partition(" ")
    shape = (int(side or 32), int(side or 32), 3)
    return dict(ours(ARCHITECTURES[name]().build(shape, 10).init(jax.random.key(0)).params))


def ours(layer: dict[str, Any], path: str = "") -> Iterator[tuple[str, Figures]]:
    """Return the figures of each parameter of ``layer`` under PyTorch's names weight and bias."""
    for name, leaf in layer.items():
        if isinstance(leaf, dict):
            yield from ours(leaf, f"{path}{name}.")
            continue
        w = np.asarray(leaf)
        kind = {1: "norm", 2: "linear", 4: "conv"}[layer["kernel"].ndim if "kernel" in layer else 1]
        kind = "position" if name == "position" else kind
        shape = w.shape if kind == "position" else w.shape[::-1]
        flat = w.astype(np.float64).ravel()
        mean = flat.mean()
        std = math.sqrt(max(flat @ flat / flat.size - mean**2, 0))
        yield path + {"bias": "bias"}.get(name, "weight"), Figures(kind, shape, mean, std, w.min(), w.max())


def assert_follows(net: str, parameters: dict[str, Figures]) -> None:
    """Assert that each parameter has the distribution of the original."""
    for name, found in parameters.items():
        layer, _, leaf = name.rpartition(".")
        where = f"{net} {name} {found}"
        weight = parameters.get(f"{layer}.weight", found)
        if found.kind == "norm":
            constant(found, 0 if leaf == "bias" else 1, where)
        elif found.kind == "position":
            normal(found, 0.02, where)
        elif found.kind == "conv" and net.startswith("resnet"):
            assert leaf == "weight", where
            outputs, _, height, width = found.shape
            normal(found, math.sqrt(2 / (height * width * outputs)), where)
        else:
            uniform(found, 1 / math.sqrt(math.prod(weight.shape[1:])), where)


def constant(found: Figures, value: float, where: str) -> None:
    assert (found.mean, found.std, found.min, found.max) == (value, 0, value, value), where


def uniform(found: Figures, bound: float, where: str) -> None:
    """Assert U(-bound, bound): all values lie inside, and the extremes are as close to the bound as expected for this
    many draws.
    """
    n, std = math.prod(found.shape), bound / math.sqrt(3)
    assert abs(found.mean) <= ERRORS * std / math.sqrt(n), where
    assert abs(found.std / std - 1) <= ERRORS * math.sqrt(0.2 / n), where
    # The gap to the bound is about exponential, with mean 2 bound / n; the file has five digits.
    for extreme in (-found.min, found.max):
        assert bound * (1 - 30 / n - DIGITS) <= extreme <= bound * (1 + DIGITS), where


def normal(found: Figures, std: float, where: str) -> None:
    n = math.prod(found.shape)
    assert abs(found.mean) <= ERRORS * std / math.sqrt(n), where
    assert abs(found.std / std - 1) <= ERRORS * math.sqrt(0.5 / n), where
    # A uniform variable of this deviation ends at 1.73 of it; n normal ones reach about sqrt(2 log n).
    for extreme in (-found.min, found.max):
        assert 2 * std < extreme < (math.sqrt(2 * math.log(n)) + 2) * std, where


@pytest.mark.parametrize("net", NETS)
def test_initial_weights_have_the_distributions_of_the_originals(net: str) -> None:
    theirs, found = pytorch()[net], fresh(net)
    assert layers(found) == layers(theirs)
    assert_follows(net, theirs)
    assert_follows(net, found)


def layers(parameters: dict[str, Figures]) -> Counter[tuple[str, tuple[int, ...], bool]]:
    """Count the parameters of each kind and shape, because the two codebases name and order them differently."""
    return Counter((found.kind, found.shape, name.endswith("bias")) for name, found in parameters.items())
