"""The networks against figures of the published PyTorch code (golden README, section 1) and their own contract."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from distill_jax.nets import ConvNet, from_torch
from tests.golden_weights import GOLDEN, cifar_normalised, deterministic


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN / "convnet.npz")


def weights_of(golden, prefix: str = ""):
    return deterministic(*(golden[prefix + key] for key in ("names", "shapes", "roles")))


def cross_entropy(net, model, x, y):
    """(loss, (Out, new statistics)) in training mode"""
    out, stats = net.apply(model, x, True)
    return optax.softmax_cross_entropy_with_integer_labels(out.logits, y).mean(), (out, stats)


def loss_and_gradients(net, model, x, y):
    def loss(params):
        return cross_entropy(net, model._replace(params=params), x, y)

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(model.params)


def channels_first(maps):
    """(N, H, W, C) -> (N, C * H * W), as PyTorch flattens"""
    return np.asarray(maps).transpose(0, 3, 1, 2).reshape(len(maps), -1)


def test_convnet_reproduces_logits_features_and_gradients(golden):
    net = ConvNet(3, 16).build((32, 32, 3), 10)
    names = list(golden["names"])
    x, y = jnp.asarray(cifar_normalised(golden["x_u8"])), jnp.asarray(golden["y"])
    (loss, (out, stats)), gradients = loss_and_gradients(net, from_torch(net, weights_of(golden)), x, y)

    assert stats == {}
    np.testing.assert_allclose(out.logits, golden["logits"], atol=2e-6)
    np.testing.assert_allclose(loss, golden["loss"], atol=2e-6)
    np.testing.assert_allclose(channels_first(out.blocks[-1].after), golden["feat"], atol=3e-6)
    np.testing.assert_array_equal(out.embedding, out.blocks[-1].after.reshape(6, -1))
    for block, stage in zip(out.blocks, ("stage0", "stage1"), strict=False):
        np.testing.assert_allclose(block.after[:2].transpose(0, 3, 1, 2), golden[stage], atol=3e-6)
    # PyTorch's gradients, converted like weights, must be ours.
    expected = from_torch(net, {name: golden[f"grad_{p:02d}"] for p, name in enumerate(names)}).params
    jax.tree.map(lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=2e-6), gradients, expected)


def test_convnet_in_float64(golden):
    with jax.enable_x64(True):
        net = ConvNet(3, 16, dtype="float64").build((32, 32, 3), 10)
        x = jnp.asarray(cifar_normalised(golden["x_u8"]), jnp.float64)
        (loss, (out, _)), gradients = loss_and_gradients(net, from_torch(net, weights_of(golden)), x, golden["y"])
        np.testing.assert_allclose(out.logits, golden["logits_f64"], rtol=1e-8)
        np.testing.assert_allclose(loss, golden["loss_f64"], rtol=1e-10)
        norms = from_torch(net, weights_of(golden)).params  # same tree, to be filled with the published L2 norms
        order = {name: norm for name, norm in zip(golden["names"], golden["grad_l2_f64"], strict=True)}
        for d in range(3):
            for ours, theirs in (("kernel", "conv.{}.weight"), ("scale", "norm.{}.weight"), ("bias", "norm.{}.bias")):
                layer = ("conv" if ours == "kernel" else "norm") + str(d)
                norms[layer][ours] = order["layers." + theirs.format(d)]
                np.testing.assert_allclose(
                    jnp.linalg.norm(gradients[layer][ours].ravel()), norms[layer][ours], rtol=1e-8
                )
        for ours, theirs in (("kernel", "weight"), ("bias", "bias")):
            ours_l2 = jnp.linalg.norm(gradients["classifier"][ours].ravel())
            np.testing.assert_allclose(ours_l2, order[f"classifier.{theirs}"], rtol=1e-8)
