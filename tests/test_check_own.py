"""Tests what a user's own classes that break their contracts lead to: one line, or the user's own error with a note."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from distill_jax.check_own import check_own, check_source
from distill_jax.contracts import (
    Architecture,
    Augmentation,
    ClassObjective,
    Initialisation,
    ModelSource,
    ModelUpdate,
    Optimiser,
    Parameterisation,
    Perturbation,
    Selector,
    SetObjective,
)
from distill_jax.nets import ConvNet
from distill_jax.recipes import resolve
from distill_jax.spec import Spec
from distill_jax.types import Choice, Model, RequestError, choice
from tests import toy

COUNTS: list[int] = [*toy.COUNTS]
SPEC = replace(toy.shrunk(resolve("dm", "digits", ipc=2, shape=toy.SHAPE).spec), live=3)


def made(contract: type[Any], **methods: Any) -> Any:
    """Return a choice of a user's own class with these methods and fields."""
    return choice(type("Own", (contract,), {"__module__": "lab", **methods}))()


def with_choice(own: Choice) -> Spec:
    return replace(SPEC, **{own.axis: own})


def leaf(self, models: Any, *_: Any) -> Any:
    return jax.tree.map(lambda a: a[0], models)


INIT = {"init": lambda self, images: ()}
WRONG = {
    "a vector": (
        ClassObjective,
        {"class_loss": lambda self, net, model, real, syn, c, key: syn.sum((1, 2, 3))},
        r"lab:Own.class_loss returns float32\[2\] instead of float32\[\]: ClassObjective.class_loss\(net, ",
    ),
    "no return": (ClassObjective, {"class_loss": lambda *_: None}, r"class_loss returns None instead of float32\[\]"),
    "an integer": (ClassObjective, {"class_loss": lambda *_: jnp.int32(0)}, r"returns int32\[\] instead of float32"),
    "of a set": (
        SetObjective,
        {"set_loss": lambda self, net, model, real, syn, key: syn.images.sum((1, 2, 3, 4))},
        r"set_loss returns float32\[2\] instead of float32\[\]",
    ),
    "models": (
        Perturbation,
        {"perturb": leaf},
        r"perturb returns float32\[.*\] instead of float32\[3, .*\] at .params",
    ),
    "source": (ModelSource, {"sample": lambda self, net, pool, live, outer, key: net.init(key)}, r"Model\[K\]"),
    "rows": (
        Selector,
        {"batch": 4, "select": lambda *_: (jnp.zeros((2, 7), int), ())},
        r"\[2, 7\] instead of .*\[2, 4\]",
    ),
    "no state": (
        Selector,
        {"batch": 4, "select": lambda *_: jnp.zeros((2, 4), int)},
        r"instead of \(int32\[2, 4\], \(\)",
    ),
    "decoded": (
        Parameterisation,
        {"decoded": lambda self, ipc: 2 * ipc},
        r"decode returns float32\[2, .* float32\[4, ",
    ),
    "augmented": (Augmentation, {"apply": lambda self, x, draws: x[:, 1:]}, r"apply returns float32\[3, 7, 8, 1\]"),
    "stepped": (Optimiser, {**INIT, "after": lambda self, g, x, state, scale: (x, g)}, r"after returns .* instead of"),
    "updated": (
        ModelUpdate,
        {"update": lambda self, net, model, state, data, syn, key: model},
        r"returns a Model inst",
    ),
    "halved": (
        ModelUpdate,
        {
            "update": lambda self, net, model, state, data, syn, key: (
                jax.tree.map(lambda a: a.astype(jnp.float16), model),
                state,
            )
        },
        r"returns float16\[.* at \[0\].params",
    ),
    "bytes": (
        Initialisation,
        {"images": lambda self, net, model, data, ipc, factor, key: data.images[data.index[:, :ipc]]},
        r"images returns uint8\[2, 2, 8, 8, 1\] instead of float32",
    ),
    "no network": (
        Architecture,
        {"build": lambda self, shape, classes: None},
        r"build returns None instead of a network",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_result_is_one_line(name: str) -> None:
    contract, methods, said = WRONG[name]
    with pytest.raises(RequestError, match=said) as error:
        check_own(with_choice(made(contract, **methods)), toy.SHAPE, COUNTS)
    assert "lab:Own." in str(error.value) and "\n" not in str(error.value)


@dataclass(frozen=True)
class OwnNet:
    """A network of the user's own class whose methods return ``model`` and ``out``, if they are given."""

    net: Any
    model: Any = None
    out: Any = None

    def init(self, key: Any) -> Any:
        return self.net.init(key) if self.model is None else jnp.zeros(self.model)

    def apply(self, model: Model, x: Any, train: bool) -> Any:
        out, stats = self.net.apply(model, x, train)
        return (out, stats) if self.out is None else self.out(out, stats)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"model": (3,)}, r"OwnNet.init returns float32\[3\] instead of a Model"),
        ({"out": lambda out, stats: out.logits}, r"apply returns float32\[3, 2\] instead of \(NetOutput"),
        (
            {"out": lambda out, stats: (out._replace(logits=out.logits[:, :1]), stats)},
            r"\[3, 1\] instead of .*\[3, 2\]",
        ),
    ],
)
def test_a_wrong_network_is_one_line(wrong: dict[str, Any], said: str) -> None:
    own = made(Architecture, build=lambda self, shape, n: OwnNet(ConvNet(depth=1, width=4).build(shape, n), **wrong))
    with pytest.raises(RequestError, match=said):
        check_own(replace(SPEC, net=own), toy.SHAPE, COUNTS)


def test_an_error_in_a_method_is_raised_with_a_note() -> None:
    own = made(ClassObjective, class_loss=lambda self, net, model, real, syn, c, key: real @ syn)
    with pytest.raises(ValueError, match="Incompatible") as error:
        check_own(replace(SPEC, objective=own), toy.SHAPE, COUNTS)
    assert any("lab:Own.class_loss" in note for note in error.value.__notes__)


def test_a_branch_on_a_number_names_the_way_out() -> None:
    loss = {"class_loss": lambda self, net, model, real, syn, c, key: syn.sum() if self.weight > 0 else -syn.sum()}
    own = made(ClassObjective, __annotations__={"weight": float}, weight=1.0, **loss)
    with pytest.raises(jax.errors.TracerBoolConversionError) as error:
        check_own(replace(SPEC, objective=own), toy.SHAPE, COUNTS)
    assert any("static(default" in note for note in error.value.__notes__)


def test_a_pool_has_as_many_models_as_it_says() -> None:
    own = made(ModelSource, size=3, sample=lambda self, net, pool, live, outer, key: leaf(self, pool))
    spec, net = replace(SPEC, models=own), SPEC.net.build(toy.SHAPE, 2)
    pool = jax.vmap(net.init)(jax.random.split(jax.random.key(0), 3))
    for wrong in (None, leaf(None, pool), jax.tree.map(lambda a: a[:2], pool)):
        with pytest.raises(RequestError, match=r"lab:Own.pretrain returns .* leading axis of models.size = 3"):
            check_source(spec, net, wrong)
    with pytest.raises(RequestError, match=r"lab:Own.sample returns"):
        check_source(spec, net, pool)
    good = made(ModelSource, size=3, sample=lambda self, net, pool, live, outer, key: pool)
    check_source(replace(spec, models=good), net, pool)


@pytest.mark.parametrize("default", [[], jnp.ones(3), {}])
def test_a_choice_refuses_a_mutable_default(default: Any) -> None:
    with pytest.raises(RequestError, match=r"^Own cannot be a choice .* tuple or choice as default$"):
        made(Selector, __annotations__={"weights": type(default)}, weights=default)
