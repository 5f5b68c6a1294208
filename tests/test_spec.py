"""Tests that a spec survives JSON, as cards and config.json hold it."""

import json
from dataclasses import dataclass
from typing import Any

import pytest

from distill_jax.axes.objective.unrolled import InnerAdam
from distill_jax.contracts import Architecture
from distill_jax.methods import PRESETS
from distill_jax.nets import ViT
from distill_jax.spec import CHOICES, Spec, from_json, to_json
from distill_jax.train import NetworkSGD

NESTED = NetworkSGD(), InnerAdam()
"""choices that are only parts of others"""

EVERY_CHOICE = [(axis, name) for axis, choices in CHOICES.items() for name in choices]


@pytest.mark.parametrize(("axis", "name"), EVERY_CHOICE)
def test_every_choice_survives_json(axis: str, name: str) -> None:
    value = CHOICES[axis][name]()
    assert from_json(json.loads(json.dumps(to_json(value))), *NESTED) == value


def test_the_choices_of_every_method_survive_json() -> None:
    for spec in PRESETS.values():
        described = json.loads(json.dumps(to_json(spec)))
        assert from_json(described, Spec(), *NESTED) == spec


def test_none_is_a_value_but_an_unknown_class_is_not() -> None:
    assert from_json(to_json(ViT(patch=None))) == ViT() and from_json(to_json(ViT(patch=4))) == ViT(patch=4)
    described = to_json(CHOICES["models"]["early-stage"]())
    assert from_json(described, *NESTED) is not None
    assert from_json(described | {"optimiser": {"choice": "mine:Optimiser"}}, *NESTED) is None
    assert from_json(described | {"unknown": 1}, *NESTED) is None
    assert from_json(to_json(_Mine())) is None and from_json(to_json(_Mine()), _Mine(3)) == _Mine()


@dataclass(frozen=True)
class _Mine(Architecture):
    width: int | None = None

    def build(self, shape: tuple[int, int, int], classes: int) -> Any: ...
