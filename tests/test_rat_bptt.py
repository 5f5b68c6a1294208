"""Tests RaT-BPTT around its objective: where images start, how they move, and the published settings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax.axes.init import Noise, unit_length
from distill_jax.axes.objective import InnerAdam, TruncatedBackprop
from distill_jax.axes.optimiser import Adam, ClippedAdam
from distill_jax.check_spec import check
from distill_jax.methods import RAT_BPTT
from distill_jax.recipes import resolve
from distill_jax.types import RequestError
from tests import toy
from tests.golden_weights import GOLDEN


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "newer.npz") as file:
        return {key: file[key] for key in file.files if key.startswith("rat_")}


def test_noise_of_length_one(golden: dict[str, np.ndarray]) -> None:
    before = jnp.asarray(golden["rat_project_in"].reshape(3, 4, 4, 3))
    np.testing.assert_allclose(unit_length(before).reshape(3, 48), golden["rat_project_out"], rtol=1e-6)
    images = Noise(unit=True).images(None, None, toy.data(), 3, 1, jax.random.key(0))  # type: ignore[arg-type]
    lengths = np.linalg.norm(toy.data().normaliser.to_network(images).reshape(6, -1), axis=1)
    np.testing.assert_allclose(lengths, 1, rtol=1e-4)


def test_running_mean_of_lengths(golden: dict[str, np.ndarray]) -> None:
    mean, found = jnp.asarray(-1.0), []
    for length in golden["rat_ema_norm"]:
        mean = ClippedAdam().mean(mean, jnp.asarray(length, jnp.float32))
        found.append(float(mean))
    np.testing.assert_allclose(found, golden["rat_ema"], rtol=1e-6)


def test_gradients_are_clipped_to_twice_their_usual_length() -> None:
    clipped, plain = ClippedAdam(), Adam(1e-3)
    images = jnp.zeros((2, 1, 2, 2, 1))
    state, other = clipped.init(images), plain.init(images)
    ours = theirs = images
    for length, kept in ((1.0, 1.0), (100.0, 2 * (0.9 + 10.0))):
        gradient = jnp.full(images.shape, length / np.sqrt(8), jnp.float32)
        ours, state = clipped.after(gradient, ours, state, 1.0)
        theirs, other = plain.after(gradient * (kept / length), theirs, other, 1.0)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_recipe_has_the_published_numbers() -> None:
    experiment = resolve("rat_bptt", "cifar10", ipc=10)
    spec, how = experiment.spec, experiment.spec.objective
    assert isinstance(how, TruncatedBackprop) and isinstance(spec.optimiser, ClippedAdam)
    assert (how.window, how.steps, how.batch, how.class_batch, how.inner.lr) == (60, 200, 10, 0, 1e-3)
    assert (spec.selector.batch, spec.optimiser.lr, spec.parameterisation.space) == (500, 1e-3, "normalised")
    assert (experiment.protocol.name, experiment.protocol.optimiser, experiment.protocol.rate) == ("rat", "adam", 1e-3)


@pytest.mark.parametrize(
    ("data", "ipc", "classes", "numbers", "real", "batches"),
    [
        ("cifar100", 1, 100, (90, 130, 40, 1, 0, 3e-4), 5000, 1),
        ("cifar100", 10, 100, (100, 300, 0, 1, 0, 1e-3), 5000, 10),
        ("tiny", 10, 200, (100, 300, 0, 1, 50, 3e-4), 1000, 40),
    ],
)
def test_recipes_for_many_classes_have_the_published_numbers(
    data: str, ipc: int, classes: int, numbers: tuple[float, ...], real: int, batches: int
) -> None:
    """Window, total steps, fewest steps before the window, images of a class and classes (0: all) in a step of the
    network, learning rate; real images in a step. The networks of the evaluation take a thousand steps."""
    experiment = resolve("rat_bptt", data, ipc=ipc, shape=(64, 64, 3) if data == "tiny" else (32, 32, 3))
    spec, how = experiment.spec, cast(Any, experiment.spec.objective)
    lr = cast(Any, spec.optimiser).lr
    assert (how.window, how.steps, how.least, how.batch, how.class_batch, lr) == numbers
    assert classes * cast(Any, spec.selector).batch == real
    assert experiment.protocol.batch * batches == classes * ipc and experiment.protocol.epochs * batches == 1000


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"window": 0}, "window"),
        ({"steps": 10}, "window"),
        ({"least": 141}, "least"),
        ({"batch": -1}, "batch"),
        ({"class_batch": -1}, "class_batch"),
        ({"inner": InnerAdam(lr=0.0)}, "objective.inner.lr"),
        ({"inner": InnerAdam(b2=1.0)}, "objective.inner.b2"),
    ],
)
def test_bad_input(changes: dict, field: str) -> None:
    with pytest.raises(RequestError, match=field):
        check(replace(RAT_BPTT, objective=TruncatedBackprop(**changes)), toy.SHAPE, [900, 900])
