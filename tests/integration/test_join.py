"""Tests sets that are distilled in parts: ``distill --classes`` and ``join``."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax.axes.parameterisation import Pixels
from distill_jax.check_spec import check
from distill_jax.cli import distill, evaluate, explain, join
from distill_jax.cli.session.atomic import read_json
from distill_jax.cli.session.workdir import RESULT
from distill_jax.data import digits
from distill_jax.distill import init_state, matching
from distill_jax.distilled import DistilledSet, content_hash
from distill_jax.join import joined
from distill_jax.nets import ConvNet
from distill_jax.recipes import resolve
from distill_jax.run import distilled_set, prepare
from distill_jax.types import Normaliser, RequestError
from tests import toy
from tests.tiny import NET, TINY


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with three workdirs: the two halves of a set, and the whole set."""
    path = tmp_path_factory.mktemp("parts")
    assert distill.main([*TINY, "--workdir", str(path / "whole")]) == 0
    pool = ["--pool", str(path / "whole")]
    assert distill.main([*TINY, *pool, "--classes", "0:5", "--workdir", str(path / "first")]) == 0
    rest = ["5", "6", "7", "8", "9"]
    assert distill.main([*TINY, *pool, "--workdir", str(path / "second"), "--classes", *rest]) == 0
    return path


def read(path: Path) -> DistilledSet:
    return DistilledSet.load(path / "distilled.npz")


def test_a_part_may_have_a_single_class(tmp_path: Path) -> None:
    small = ["dm", "digits", *NET, "--augment", "none", "--selector.batch", "4", "--outer-steps", "1", "--baselines"]
    scored = ["--repeats", "1", "--protocol.epochs", "1", "--protocol.augment", "none"]
    assert distill.main([*small, *scored, "--classes", "3:4", "--workdir", str(tmp_path)]) == 0
    assert read(tmp_path).card["class_names"] == ["3"] and read_json(tmp_path / RESULT)["accuracy"]["mean"] == 100


def test_joined_parts_equal_the_whole(parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Labels, order and card are equal. Images differ, because the optimiser lets the classes of a run take turns."""
    out = tmp_path / "all.npz"
    assert join.main([str(parts / "second"), str(parts / "first"), "--out", str(out)]) == 0
    assert "10 classes, joined from 2 parts" in capsys.readouterr().out
    made, whole = DistilledSet.load(out), read(parts / "whole")
    np.testing.assert_array_equal(made.labels, whole.labels)
    same = set(whole.card) - {"hash", "score"}
    assert {name: made.card[name] for name in same} == {name: whole.card[name] for name in same}
    assert made.card["score"] is None and len(made.card["parts"]) == 2
    for c, part in ((2, "first"), (8, "second")):
        np.testing.assert_array_equal(made.images[c], read(parts / part).images[c % 5])
    assert evaluate.main([str(out), "--dataset", "digits", "--repeats", "2"]) == 0
    assert join.main([str(parts / "second"), str(parts / "first"), "--out", str(out)]) == 2


def test_the_card_of_a_part_names_its_classes(parts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = read(parts / "first").card
    assert card["class_names"] == list("01234") and card["part_of"] == list("0123456789")
    result = read_json(parts / "first" / RESULT)
    assert result["accuracy"]["mean"] > 10 and result["config"]["spec"]["classes"] == [0, 1, 2, 3, 4]
    assert evaluate.main([str(parts / "first"), "--dataset", "digits"]) == 2
    assert "first join it with the other parts (experiments.join)" in capsys.readouterr().err


def test_parts_that_do_not_fit_are_refused(parts: Path) -> None:
    first, second, whole = (read(parts / name) for name in ("first", "second", "whole"))
    for these, wrong in (
        ([], "no part is given"),
        ([whole], "the first set has all classes"),
        ([first], "5 classes are in no part: distill them with --classes 5 6 7 8 9"),
        ([first, first], "class 0 is in two parts"),
        ([first, second.with_card(ipc=2)], "ipc is 1 in one and 2 in another"),
        ([first, second.with_card(recipe="mnist")], "recipe is digits"),
        ([part.with_soft(np.full((5, 5), 0.2, np.float32)) for part in (first, second)], "a part has soft labels"),
    ):
        with pytest.raises(RequestError, match=wrong):
            joined(these)
    assert joined([first, second.with_card(seed=1)]).card["seed"] == [0, 1]
    assert joined([first, second.with_card(dataset="npz:elsewhere.npz")]).card["dataset"] == "digits"


def part(names: str, *values: float, side: int = 4, **about: object) -> DistilledSet:
    """Return a part of the classes a to d, whose images have one value for each class."""
    images = jnp.asarray(values, float)[:, None, None, None, None] * jnp.ones((1, 2, side, side, 1))
    normaliser = Normaliser(jnp.zeros(1), jnp.ones(1))
    return DistilledSet.of(Pixels(), images, tuple(names), normaliser, {"part_of": list("abcd"), **about})


def test_classes_are_joined_in_the_order_of_the_data_set() -> None:
    parts = [part("ca", 0.3, 0.1, seed=7), part("d", 0.4, seed=3), part("b", 0.2, seed=7)]
    made = joined(parts)
    np.testing.assert_allclose(made.images[:, 0, 0, 0], np.repeat([0.1, 0.2, 0.3, 0.4], 2))
    assert made.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3] and made.card["class_names"] == list("abcd")
    assert made.card["seed"] == [7, 3] and made.card["parts"] == [each.card["hash"] for each in parts]
    assert made.card["hash"] == content_hash(made.images, made.labels) and "part_of" not in made.card
    assert joined([part("ab", 0, 0, seed=5), part("cd", 0, 0, seed=5)]).card["seed"] == 5


def test_classes_of_one_name_are_told_apart_by_their_numbers() -> None:
    names = list("abca")
    made = joined(
        [
            part("ac", 0.4, 0.3, class_numbers=[3, 2], part_of=names),
            part("ab", 0.1, 0.2, class_numbers=[0, 1], part_of=names),
        ]
    )
    np.testing.assert_allclose(made.images[::2, 0, 0, 0], [0.1, 0.2, 0.3, 0.4])
    assert made.card["class_names"] == names and "class_numbers" not in made.card


def test_parts_of_other_sizes_or_data_sets_are_refused() -> None:
    for other, wrong in (
        (part("cd", 0, 0, side=5), "their images differ in size"),
        (part("cd", 0, 0, data="x"), "data is None in one and x in another"),
        (part("cd", 0, 0, part_of=list("abcde")), "part_of is"),
    ):
        with pytest.raises(RequestError, match=wrong):
            joined([part("ab", 0, 0), other])
    with pytest.raises(RequestError, match="2 classes are in no part: distill them with --classes 1 3"):
        joined([part("ac", 0, 0)])


@pytest.mark.parametrize(
    ("method", "classes", "wrong"),
    [
        ("acc_dd", (3, 10), "class 10 of --classes does not exist"),
        ("acc_dd", (3, 3), "give each number once"),
        ("mtt", (0, 1), "needs all classes at once"),
        ("dc", (0, 1), "trains on the images of all classes"),
    ],
)
def test_methods_that_cannot_distil_parts_are_refused(method: str, classes: tuple[int, ...], wrong: str) -> None:
    spec = replace(resolve(method, "digits", ipc=1, shape=(8, 8, 1)).spec, classes=classes)
    with pytest.raises(RequestError, match=wrong):
        check(spec, (8, 8, 1), [100] * 10)


def test_the_gradient_of_a_class_is_the_same_in_a_part() -> None:
    """Networks, real images and random draws are those of the whole run; only the other classes are missing."""
    data = digits()
    spec = replace(resolve("acc_dd", "digits", ipc=1, shape=data.shape).spec, outer_steps=1, inner_steps=1)
    spec = replace(spec, models=replace(spec.models, size=1, epochs=1), net=ConvNet(1, 4))  # type: ignore[type-var]
    whole, part = (prepare(replace(spec, classes=classes), data) for classes in ((), (7, 2)))
    state, key = toy.begun(whole), jax.random.key(3)
    selection = jax.numpy.zeros((10, 4), jax.numpy.int32)
    match = jax.jit(matching)
    _, grads = match(whole, state.models, state.synthetic, selection, key)
    some = state.synthetic._replace(images=state.synthetic.images[np.asarray([7, 2])])
    _, of_part = match(part, state.models, some, selection[:2], key)
    np.testing.assert_allclose(of_part.images, grads.images[np.asarray([7, 2])], rtol=1e-4, atol=1e-6)
    card = distilled_set(part, data, init_state(part), {}).card
    assert (card["class_names"], card["class_numbers"]) == (["7", "2"], [7, 2])


@pytest.mark.parametrize("runner", ["ablate", "pretrain", "reproduce"])
def test_only_distill_makes_parts(runner: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["acc_dd", "digits"] if runner != "reproduce" else ["compare", "--dataset", "digits", "--methods", "acc_dd"]
    more = ["--perturb.max", "0", "0.09"] if runner == "ablate" else []
    cut = ["--"] if runner == "reproduce" else []
    module = import_module(f"distill_jax.cli.{runner}")
    assert module.main([*line, *more, "--workdir", str(tmp_path / "new"), *cut, "--classes", "0:5"]) == 2
    assert "only experiments.distill can distil some of the classes" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_explain_accepts_a_part(capsys: pytest.CaptureFixture[str]) -> None:
    assert explain.main(["acc_dd", "cifar10", "--classes", "0:5"]) == 0
    assert "5 classes x 1 models" in capsys.readouterr().out
