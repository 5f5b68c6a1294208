"""Tests that a spec survives JSON, as cards and config.json hold it."""

import json
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from distill_jax.axes.objective.unrolled import InnerAdam
from distill_jax.contracts import Architecture
from distill_jax.methods import PRESETS
from distill_jax.nets import ViT
from distill_jax.recipes import resolve
from distill_jax.spec import CHOICES, Spec, from_json, to_json
from distill_jax.train import NetworkSGD
from distill_jax.types import Choice, choice

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


def test_a_program_is_never_run_for_another_choice_with_equal_fields() -> None:
    """jax's register_dataclass gives such choices equal tree structures, which ``jit`` sometimes confuses."""

    @choice
    class One(Choice):
        number: float = 0.0

    @choice
    class Two(Choice):
        number: float = 0.0

    one, two = jax.tree.structure(One()), jax.tree.structure(Two())
    assert one != two and one == jax.tree.structure(One(1.0))
    kind = jax.jit(lambda of: jnp.asarray(1 if isinstance(of, One) else 2))
    assert [int(kind(of)) for of in (One(), Two(), One(), Two())] == [1, 2, 1, 2]


def test_choices_keep_their_names_in_a_tree() -> None:
    spec = resolve("acc_dd", "digits", ipc=1, shape=(8, 8, 1)).spec
    paths = {
        jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in jax.tree_util.tree_leaves_with_path(spec)
    }
    assert {"perturb.max", "models.optimiser.lr", "optimiser.lr"} <= paths
    assert jax.tree.unflatten(*reversed(jax.tree.flatten(spec))) == spec
