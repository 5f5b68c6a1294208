"""Tests anchors, paired features and residual decay against CIM's released code (golden README, "Newer methods")."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax.axes.init import AnchorMosaics
from distill_jax.axes.objective import PairedFeatures
from distill_jax.axes.optimiser import ResidualAdam
from distill_jax.axes.parameterisation import MultiFormation
from distill_jax.axes.selector import Anchors, NoReal, anchors, surest_images
from distill_jax.check_spec import check
from distill_jax.distill import init_state
from distill_jax.methods import CIM
from distill_jax.recipes import resolve
from distill_jax.types import Array, Model, NetBlock, NetOutput, RealData, RequestError
from tests import toy
from tests.golden_weights import pixels
from tests.test_patches import CLASS, FIGURES, MEAN, NET, STD, normalised, observer


def figure(name: str) -> np.ndarray:
    """Return a golden array with channels last, if it has channels."""
    values = FIGURES[f"cim_{name}"]
    return np.moveaxis(values, 1, -1) if values.ndim == 4 else values


def real(images_of_class: np.ndarray) -> RealData:
    """Return four classes; the class of the observer has the golden images."""
    images = np.concatenate([images_of_class, images_of_class[:14], images_of_class[:13], images_of_class[:12]])
    labels = np.repeat([CLASS, 0, 2, 3], [20, 14, 13, 12])
    return RealData.from_arrays(np.round(images * 255), labels, MEAN, STD)


def test_anchors_and_their_mosaics_golden() -> None:
    data = real(np.moveaxis(FIGURES["cim_src_u8"], 1, -1) / 255)
    models = jax.tree.map(lambda a: np.stack([a, a]), observer())
    selector = Anchors(batch=12)
    memory = np.asarray(jax.jit(selector.init, static_argnums=0)(NET, models, data))
    np.testing.assert_array_equal(memory[CLASS], FIGURES["cim_order"])
    assert memory.shape == (4, 12) and all(len(set(row.tolist())) == 12 for row in memory)
    assert int(memory[3].max()) < 12, "a smaller class shows only its own images"
    images_of = jax.jit(AnchorMosaics().images, static_argnums=(0, 3, 4))
    mosaics = np.asarray(images_of(NET, observer(), data, 3, 2, jax.random.key(0)))
    np.testing.assert_allclose(mosaics[CLASS], figure("init"), atol=1e-6)


class Bright:
    """A network that takes bright images for class 0 and dark ones for class 1."""

    def apply(self, model, x: Array, train: bool) -> tuple[NetOutput, dict]:
        mean = jnp.mean(x, axis=(1, 2, 3))
        return NetOutput(jnp.stack([mean, -mean], axis=1), (), mean[:, None]), {}


@pytest.mark.parametrize(("n", "candidates"), [(3, 5), (8, 10)])
def test_anchors_are_of_the_first_images_of_a_class(monkeypatch: pytest.MonkeyPatch, n: int, candidates: int) -> None:
    """Later images of a class are brighter. The run distils class 1 before class 0."""
    monkeypatch.setattr(anchors, "FIRST", 5)
    images = np.repeat(np.arange(12) * 20, 2)[:, None, None, None]
    data = RealData.from_arrays(images, np.tile([0, 1], 12), [0.5], [0.5]).of_classes((1, 0))
    net: Any = Bright()
    dark, bright = jax.jit(lambda data: surest_images(net, net, data, n))(data)
    np.testing.assert_array_equal(bright, np.arange(candidates)[::-1][:n])
    np.testing.assert_array_equal(dark, np.arange(n))


@cache
def loss_and_gradient(block: int):
    """Return the function from the stored images to the loss and its gradient."""
    anchors = normalised(pixels(FIGURES["cim_src_u8"])[FIGURES["cim_order"]])

    def loss(images: Array) -> Array:
        shown = normalised(MultiFormation(2).decode(images))
        return PairedFeatures(block).class_loss(NET, observer(), anchors, shown, jnp.int32(CLASS), jax.random.key(0))

    return jax.jit(jax.value_and_grad(loss))


class Plain:
    """A network whose only block is the image."""

    def init(self, key: Array) -> Model:
        return Model({}, {})

    def apply(self, model: Model, x: Array, train: bool) -> tuple[NetOutput, Any]:
        return NetOutput(x, (NetBlock(x, x),), x), {}


def test_each_decoded_image_is_paired_with_its_own_real_image_and_others_are_left_out() -> None:
    real, syn = (
        np.asarray(x, np.float32).reshape(-1, 1, 1, 1) * np.ones((1, 2, 2, 1), np.float32)
        for x in ([0, 1, 2, 9], [0.5, 4])
    )
    key = jax.random.key(0)
    loss_of = jax.jit(
        lambda real, syn: PairedFeatures().class_loss(Plain(), Model({}, {}), real, syn, jnp.int32(0), key)
    )
    loss = loss_of(real, syn)
    np.testing.assert_allclose(loss, 0.5 + 3)


# Ten times the distance of the original in float32 from itself in float64 (golden README).
@pytest.mark.parametrize(("block", "name"), [(0, "first"), (-1, "last")])
def test_loss_and_gradient_golden(block: int, name: str) -> None:
    loss, gradient = loss_and_gradient(block)(figure("init") + figure("delta"))
    np.testing.assert_allclose(loss, FIGURES[f"cim_{name}_loss"], rtol=1.1e-5)
    theirs = figure(f"{name}_grad")
    np.testing.assert_allclose(gradient, theirs, rtol=0, atol=1.1e-5 * np.abs(theirs).max())


def test_steps_of_the_residual_golden() -> None:
    optimiser, images = ResidualAdam(lr=0.01), jax.device_put(figure("init")[None])
    first, state = images, optimiser.init(images)
    after = jax.jit(lambda gradient, images, state: optimiser.after(gradient[None], images, state, 1.0))
    for expected in FIGURES["cim_steps_loss"]:
        loss, gradient = loss_and_gradient(-1)(np.asarray(images)[0])
        np.testing.assert_allclose(loss, expected, rtol=1.1e-5)
        images, state = after(gradient, images, state)
    theirs = figure("steps_delta")
    # The residual is the difference of two images in float32, whose pixels are rounded to 6e-8 in each of four steps.
    np.testing.assert_allclose((np.asarray(images) - first)[0], theirs, rtol=0, atol=4e-5 * np.abs(theirs).max())


def test_without_a_gradient_images_return_to_the_initial_images() -> None:
    optimiser = ResidualAdam(lr=0.5, weight_decay=0.5)
    first = np.full((1, 1, 2, 2, 1), 0.25, np.float32)
    after = jax.jit(lambda images: optimiser.after(jnp.zeros_like(images), images + 1, optimiser.init(images), 1.0))
    moved, _ = after(first)
    np.testing.assert_allclose(moved, first + 0.75, rtol=1e-6)


def test_at_the_start_each_decoded_image_is_its_anchor() -> None:
    """With factor 1 a mosaic is lossless, so the loss is 0."""
    problem = toy.problem("cim", ipc=2, parameterisation=MultiFormation(1))
    state = init_state(problem)
    rows = np.take_along_axis(np.asarray(problem.data.index), np.asarray(state.selector), axis=1)
    shown = np.asarray(problem.data.images)[rows]
    np.testing.assert_allclose(state.synthetic.images, shown[:, :2] / 255, atol=1e-6)


def test_a_recipe_sets_as_many_anchors_as_decoded_images() -> None:
    for ipc, factor in ((1, 2), (10, 2), (10, 1)):
        assert resolve("cim", "cifar10", ipc=ipc, factor=factor).spec.selector.batch == ipc * factor**2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ipc": 2}, "give a number from 8"),
        ({"selector": Anchors(16)}, "to 12, the images of the smallest class"),
        ({"ipc": 4}, "has only 12: use a smaller --ipc"),
        ({"selector": resolve("dm").spec.selector}, "use --selector anchors"),
        ({"selector": NoReal()}, "NoReal selects none"),
        ({"models": resolve("dm").spec.models}, "trains none"),
        ({"syn_batch": 2}, "--syn-batch 0"),
        ({"parameterisation": MultiFormation(2, "multi")}, "decode-type single"),
        ({"objective": PairedFeatures(7)}, "selects no block"),
    ],
)
def test_invalid_requests_are_refused(changes: dict, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        check(replace(CIM, **changes), (32, 32, 3), [12] * 4)
    check(CIM, (32, 32, 3), [12] * 4)
