"""Tests that micro-batches give the loss, the gradient and the outputs of the whole batch."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax import micro_batches
from distill_jax.axes.objective import CharacteristicFunction, FeatureMatching, class_gradient
from distill_jax.micro_batches import (
    PIXELS,
    TRAINING_PIXELS,
    forward_batch,
    loss_and_gradient,
    micro_batch,
    whole_batches,
)
from distill_jax.nets import ConvNet
from distill_jax.platform import compiled_for
from distill_jax.types import Model


@pytest.mark.parametrize(
    "shape, size",
    [
        ((64, 32, 32, 3), 4),
        ((64, 8, 8, 1), 16),
        ((12, 8, 8, 1), 12),  # all of them fit
        ((100, 28, 28, 1), 4),
        ((64, 64, 64, 3), 1),
        ((128, 224, 224, 3), 1),
        ((37, 32, 32, 3), 1),  # a prime number
        ((3, 32, 32, 3), 3),
    ],
)
def test_a_micro_batch_divides_the_batch_and_fits_the_cache(shape: tuple[int, ...], size: int):
    assert micro_batch(jnp.zeros(shape, jnp.bfloat16), PIXELS) == size


@pytest.mark.parametrize("where", [compiled_for("gpu"), whole_batches()])
def test_batches_are_whole_on_an_accelerator_and_when_costs_are_counted(where):
    images = jnp.zeros((64, 32, 32, 3))
    with where:
        assert micro_batch(images, PIXELS) == forward_batch(images) == 64
    assert micro_batch(images, PIXELS) == 4


@pytest.mark.parametrize("n, side, size", [(256, 32, 256), (256, 128, 256), (256, 224, 64), (7, 2048, 1)])
def test_an_accelerator_splits_a_training_batch_whose_activations_would_fill_its_memory(n: int, side: int, size: int):
    images: Any = np.broadcast_to(np.uint8(0), (n, side, side, 3))
    with compiled_for("gpu"):
        assert micro_batch(images, PIXELS, TRAINING_PIXELS) == size
        assert micro_batch(images, PIXELS) == n
        with whole_batches():
            assert micro_batch(images, PIXELS, TRAINING_PIXELS) == n


@pytest.mark.parametrize(
    "platform, n, side, together",
    [
        ("gpu", 7, 32, 7),
        ("gpu", 900, 32, 256),
        ("gpu", 900, 64, 256),
        ("gpu", 900, 224, 20),
        ("gpu", 2, 2048, 1),
        ("cpu", 900, 8, 256),
        ("cpu", 900, 32, 16),
        ("cpu", 900, 224, 1),
    ],
)
def test_the_batch_of_a_forward_pass(platform, n: int, side: int, together: int):
    with compiled_for(platform):
        assert forward_batch(np.broadcast_to(np.uint8(0), (n, side, side, 3))) == together


@pytest.mark.parametrize(
    "n, side, size", [(64, 32, 64), (256, 32, 64), (100, 32, 50), (127, 32, 127), (64, 224, 1), (9, 8, 9)]
)
def test_on_a_tpu_the_activations_of_a_micro_batch_fit_in_the_fast_memory(n: int, side: int, size: int):
    images: Any = np.broadcast_to(np.uint8(0), (n, side, side, 3))
    with compiled_for("tpu"):
        assert micro_batch(images, PIXELS) == micro_batch(images, PIXELS, TRAINING_PIXELS) == size
        assert forward_batch(images) == min(n, 2**16 // side**2)
        with whole_batches():
            assert micro_batch(images, PIXELS) == n


def test_micro_batches_add_up(monkeypatch: pytest.MonkeyPatch):
    x, y = np.random.default_rng(0).normal(size=(12, 4, 4, 2)).astype(np.float32), np.arange(12, dtype=np.float32)

    def loss(params: dict, x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.sum(jnp.tanh(x * params["a"]).sum((1, 2, 3)) * y) + 0 * params["b"]

    params = {"a": np.float32(0.3), "b": np.float32(1.0)}
    whole = jax.jit(jax.value_and_grad(loss))(params, x, y)
    for pixels in (16, 48, 1000):
        monkeypatch.setattr(micro_batches, "PIXELS", pixels)
        parts = jax.jit(lambda *arguments: loss_and_gradient(loss, *arguments))(params, x, y)
        # Sums of 12 terms in another order.
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), parts, whole)


@pytest.mark.parametrize("norm, splits", [("instance", True), ("batch", False)])
def test_a_class_gradient_is_that_of_the_whole_batch(
    norm: str, splits: bool, x64: None, monkeypatch: pytest.MonkeyPatch
):
    net = ConvNet(depth=2, width=4, norm=norm, dtype="float64").build((8, 8, 1), 3)  # type: ignore[arg-type]
    model, x = net.init(jax.random.key(0)), np.random.default_rng(1).normal(size=(6, 8, 8, 1))
    whole = jax.jit(class_gradient, static_argnums=0).lower(net, model, x, jnp.int32(1))
    monkeypatch.setattr(micro_batches, "PIXELS", 128)
    seen = []
    monkeypatch.setattr(micro_batches, "micro_batch", lambda images, *limits: seen.append(1) or 2)
    constant = jax.jit(partial(class_gradient, constant=True), static_argnums=0)
    parts = constant.lower(net, model, x, jnp.int32(1))
    # Batch norm makes images depend on each other, so the batch is not split.
    assert bool(seen) == splits
    assert_equal_results(parts, whole, splits, model, x, jnp.int32(1))


def assert_equal_results(parts, whole, splits: bool, *arguments) -> None:
    """Assert that two lowered programs have close results. If nothing was split, they are the same program."""
    if splits:
        parts, whole = (lowered.compile()(*arguments) for lowered in (parts, whole))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), parts, whole)
    else:
        # The first line has the name of the function.
        assert parts.as_text().split("\n", 1)[1] == whole.as_text().split("\n", 1)[1]


@pytest.mark.parametrize("objective", [FeatureMatching(first=0), CharacteristicFunction(frequencies=8)])
@pytest.mark.parametrize("norm, splits", [("instance", True), ("batch", False)])
def test_features_are_those_of_the_whole_batch(
    objective, norm: str, splits: bool, x64: None, monkeypatch: pytest.MonkeyPatch
):
    net = ConvNet(depth=2, width=4, norm=norm, dtype="float64").build((8, 8, 1), 3)  # type: ignore[arg-type]
    model, (real, syn) = net.init(jax.random.key(0)), np.random.default_rng(1).normal(size=(2, 6, 8, 8, 1))

    def loss(syn: jax.Array, model: Model) -> jax.Array:
        return objective.class_loss(net, model, real, syn, jnp.int32(1), jax.random.key(2))

    def lowered():
        return jax.jit(jax.value_and_grad(lambda syn, model: loss(syn, model))).lower(syn, model)

    whole = lowered()
    seen = []
    monkeypatch.setattr(micro_batches, "FORWARD_PIXELS", 128)
    monkeypatch.setattr(jax.lax, "map", lambda *args, _map=jax.lax.map: seen.append(1) or _map(*args))
    parts = lowered()
    assert bool(seen) == splits
    assert_equal_results(parts, whole, splits, syn, model)
