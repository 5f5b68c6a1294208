"""Tests CAFE's loss and settings (golden README, section 16). test_cafe_loops.py tests its loops."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from distill_jax.axes.objective import LayerwiseAlignment, Terms, alignment, alignment_terms
from distill_jax.axes.optimiser import SGD
from distill_jax.axes.update import DynamicTraining
from distill_jax.check_spec import check
from distill_jax.methods import CAFE
from distill_jax.recipes import resolve
from distill_jax.train import NetworkSGD
from distill_jax.types import (
    Array,
    Model,
    Net,
    NetBlock,
    NetOutput,
    RequestError,
    Synthetic,
)
from tests.cafe import SHAPE, channels_first, figures, images, network, statistics

NAMES = ("block1", "block2", "block3", "pool3", "centre", "discrim")


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return figures()


def flat_terms(net: Net, model: Model, real: Array, syn: Array) -> Array:
    """Return the terms in the golden order: block1, block2, block3, pool3, centre, discrim."""
    terms = alignment_terms(net, model, real, syn)
    return jnp.stack([*terms.blocks, terms.pooled, terms.centre, terms.discrimination])


# ------------------------------------------------------------------ the loss


@pytest.mark.parametrize("pixels", [alignment.PIXELS, 3 * 8 * 32 * 32], ids=["all classes", "two classes at once"])
def test_every_term_and_its_derivative(
    golden: dict[str, np.ndarray], pixels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alignment, "PIXELS", pixels)
    net, model = network(golden)
    real, syn = images(golden)

    @jax.jit
    def terms_and_gradients(syn: Array) -> tuple[Array, Array]:
        terms, pull = jax.vjp(lambda syn: flat_terms(net, model, real, syn), syn)
        of_terms_and_total = jnp.concatenate([jnp.eye(6), jnp.asarray(golden["weights"][None, :6], jnp.float32)])
        return terms, jax.lax.map(lambda cotangent: pull(cotangent)[0], of_terms_and_total)

    terms, (*gradients, of_total) = terms_and_gradients(syn)
    np.testing.assert_array_equal(golden["term_names"][:6], NAMES)
    np.testing.assert_allclose(terms, golden["terms"][:6], rtol=3e-6)
    for name, gradient, theirs in zip(NAMES, gradients, golden["dterm"], strict=True):
        ours = channels_first(gradient)[golden["dterm_images"]]
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max(), err_msg=name)
    largest = np.abs(golden["dsyn"]).max()
    np.testing.assert_allclose(channels_first(of_total), golden["dsyn"], rtol=0, atol=1e-5 * largest)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_loss_and_its_derivative_in_double_precision(golden: dict[str, np.ndarray]) -> None:
    """Tests the published weights, which are pairwise equal, and weights that distinguish the layers."""
    net, model = network(golden, "float64")
    real, syn = images(golden, "float64")
    names = ("shallow", "middle", "deep", "pooled", "", "discrimination", "")
    other = {name: weight for name, weight in zip(names, golden["alt_weights"].tolist(), strict=True) if name}

    @jax.jit
    def loss_and_gradient(objective: LayerwiseAlignment) -> tuple[Array, Array]:
        def loss(syn: Array) -> Array:
            return objective.set_loss(net, model, real, Synthetic(syn), jax.random.key(0))

        return jax.value_and_grad(loss)(syn)

    # The golden loss also has the network's cross-entropy on real images, on which no gradient depends.
    logits = jax.jit(lambda x: net.apply(model, x, True)[0].logits)(real.reshape(-1, *SHAPE))
    ce_real = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.repeat(jnp.arange(10), 8)).mean()
    np.testing.assert_allclose(ce_real, golden["terms_f64"][6], rtol=1e-12)
    for prefix, objective in (("", LayerwiseAlignment()), ("alt_", LayerwiseAlignment(**other))):
        loss, gradient = loss_and_gradient(objective)
        np.testing.assert_allclose(loss + ce_real, golden[f"{prefix}total_f64"], rtol=1e-12)
        np.testing.assert_allclose(statistics(gradient), golden[f"{prefix}dsyn_stats_f64"], rtol=1e-10)


@dataclass(frozen=True)
class Pyramid:
    """A network without weights. Its d-th block is the image shrunk d times, multiplied by d + 1."""

    depth: int

    def init(self, key: Array) -> Model:
        return Model({}, {})

    def apply(self, model: Model, x: Array, train: bool) -> tuple[NetOutput, Any]:
        blocks = [NetBlock((d + 1) * x[:, :: 2**d], (d + 1) * x[:, :: 2 ** (d + 1)]) for d in range(self.depth)]
        embedding = blocks[-1].after.reshape(len(x), -1)
        return NetOutput(embedding, tuple(blocks), embedding), {}


@pytest.mark.parametrize(("depth", "weights"), [(1, [5]), (2, [3, 5]), (5, [2, 2, 2, 3, 5])])
def test_any_depth_shape_and_class_count(depth: int, weights: list[int]) -> None:
    objective = LayerwiseAlignment(shallow=2.0, middle=3.0, deep=5.0, pooled=7.0, discrimination=11.0)
    real, syn = np.random.default_rng(depth).normal(size=(2, 3, 4, 32, 5, 2)).astype(np.float32)

    @jax.jit
    def loss_and_terms(real: Array, syn: Array) -> tuple[Array, Terms]:
        net, model, key = Pyramid(depth), Model({}, {}), jax.random.key(0)
        loss = objective.set_loss(net, model, real, Synthetic(syn), key)
        return loss, alignment_terms(net, model, real, syn)

    loss, terms = loss_and_terms(real, syn)
    for d, term in enumerate(terms.blocks):
        between = real.mean(axis=1)[:, :: 2**d] - syn.mean(axis=1)[:, :: 2**d]
        np.testing.assert_allclose(term, (d + 1) ** 2 * np.sum(between**2), rtol=1e-4)
    expected = np.dot(weights, terms.blocks) + 8 * terms.pooled + 11 * terms.discrimination
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    loss, terms = loss_and_terms(real, real)
    np.testing.assert_allclose(loss, 11 * terms.discrimination, rtol=1e-6)


# ------------------------------------------------------------------ settings


def test_image_rate_is_halved_as_published(golden: dict[str, np.ndarray]) -> None:
    ours = 0.1 * jax.vmap(lambda outer: CAFE.optimiser.schedule(outer, 2000))(jnp.arange(2001))
    np.testing.assert_allclose(ours, golden["lr_img"], rtol=1e-6)


def test_preset_has_the_published_numbers() -> None:
    spec = resolve("cafe", "cifar10", ipc=10).spec
    assert spec.optimiser == SGD(0.1, 0.5, (0.6, 0.8, 0.9))
    assert isinstance(spec.update, DynamicTraining) and spec.update.optimiser == NetworkSGD(0.01, 0.0, 0.0)


def test_bad_input() -> None:
    for field in ("max_epochs", "images", "batch"):
        with pytest.raises(RequestError, match=field):
            replace(DynamicTraining(), **{field: 0}).validate()
    with pytest.raises(RequestError, match="halve_at"):
        check(replace(CAFE, optimiser=SGD(halve_at=(1.5,))), SHAPE, [9, 9])
