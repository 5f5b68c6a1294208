"""Tests the networks against the published PyTorch code (golden README, sections 1 and 2)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax.nets import ConvNet, DenseNet, ResNet, ResNetAP, from_torch
from distill_jax.types import RequestError
from tests.golden_weights import GOLDEN, cifar_normalised, deterministic, golden_figures, pixels, training_pass, waves


@pytest.fixture(scope="module")
def golden():
    return golden_figures("convnet")


def parameters(golden, prefix: str = ""):
    """Return (names, shapes, roles) as the file lists them."""
    return tuple(golden[prefix + key] for key in ("names", "shapes", "roles"))


@partial(jax.jit, static_argnums=0)
def applied(net, model, x):
    return net.apply(model, x, False)


def evaluate(net, model, x):
    return applied(net, model, x)[0]


def per_parameter(net, names, shapes, tree, probe):
    """Return, for each of PyTorch's parameters, the dot product of ours with ``probe(shape)`` in PyTorch's layout, and
    the L2 norm.
    """
    shapes = [tuple(int(n) for n in padded if n) for padded in shapes]
    number = from_torch(net, {n: np.full(s, p) for p, (n, s) in enumerate(zip(names, shapes, strict=True))}).params
    probes = from_torch(net, {n: probe(s) for n, s in zip(names, shapes, strict=True)}).params
    dot, l2 = np.zeros(len(names)), np.zeros(len(names))
    leaves = [np.asarray(leaf) for each in (number, probes, tree) for leaf in jax.tree.leaves(each)]
    count = len(names)
    for p, weights, values in zip(leaves[:count], leaves[count : 2 * count], leaves[2 * count :], strict=True):
        dot[int(p.flat[0])], l2[int(p.flat[0])] = np.sum(weights * values), np.linalg.norm(values)
    return dot, l2


def channels_first(maps):
    """Flatten (N, H, W, C) to (N, C * H * W) in PyTorch's order."""
    return np.asarray(maps).transpose(0, 3, 1, 2).reshape(len(maps), -1)


# ------------------------------------------------------------------ ConvNet: golden README, section 1


def test_convnet_reproduces_logits_features_and_gradients(golden):
    net = ConvNet(3, 16).build((32, 32, 3), 10)
    names, shapes, roles = parameters(golden)
    model = from_torch(net, deterministic(names, shapes, roles))
    x = jnp.asarray(cifar_normalised(golden["x_u8"]))
    (loss, (out, stats)), gradients = training_pass(net, model, x, golden["y"])

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
        names, shapes, roles = parameters(golden)
        model = from_torch(net, deterministic(names, shapes, roles))
        x = jnp.asarray(cifar_normalised(golden["x_u8"]), jnp.float64)
        (loss, (out, _)), gradients = training_pass(net, model, x, golden["y"])
        assert out.logits.dtype == jnp.float64
        np.testing.assert_allclose(out.logits, golden["logits_f64"], rtol=1e-8)
        np.testing.assert_allclose(loss, golden["loss_f64"], rtol=1e-10)
        _, l2 = per_parameter(net, names, shapes, gradients, np.ones)
        # Biases in front of a norm have zero gradient.
        np.testing.assert_allclose(l2, golden["grad_l2_f64"], rtol=1e-8, atol=1e-13)


def test_convnet_accepts_the_parameter_order_of_every_repository(golden):
    net = ConvNet(3, 16).build((32, 32, 3), 10)
    idc = deterministic(*parameters(golden))
    values = list(idc.values())
    blockwise = {str(n): values[i] for n, i in zip(golden["vico_names"], golden["vico_to_idc_index"], strict=True)}
    expected = from_torch(net, idc)
    for other in (blockwise, values, list(blockwise.values())):
        jax.tree.map(np.testing.assert_array_equal, from_torch(net, other), expected)
    sine = from_torch(net, deterministic(*parameters(golden), quadratic=0.0))
    out = evaluate(net, sine, jnp.asarray(cifar_normalised(golden["x_u8"])))
    np.testing.assert_allclose(out.logits, golden["logits_sin"], atol=2e-6)


def test_convnet_batch_norm_trains_and_evaluates(golden):
    net = ConvNet(3, 16, norm="batch").build((32, 32, 3), 10)
    names, shapes, roles = parameters(golden)
    model = from_torch(net, deterministic(names, shapes, roles))
    x = jnp.asarray(cifar_normalised(golden["x_u8"]))
    (loss, (out, stats)), gradients = training_pass(net, model, x, golden["y"])
    np.testing.assert_allclose(out.logits, golden["bn_logits_train"], atol=2e-6)
    np.testing.assert_allclose(loss, golden["bn_loss_train"], atol=2e-6)
    for d in range(3):
        np.testing.assert_allclose(stats[f"norm{d}"]["mean"], golden[f"bn_rm_{d}"], atol=1e-6)
        np.testing.assert_allclose(stats[f"norm{d}"]["var"], golden[f"bn_rv_{d}"], atol=1e-6)
    sums, l2 = per_parameter(net, names, shapes, gradients, np.ones)
    for p, name in enumerate(names):
        expected = golden[f"bn_grad_{p:02d}"]
        if expected.shape == (2,):  # stored as [L2, sum]
            np.testing.assert_allclose([l2[p], sums[p]], expected, atol=1e-5, err_msg=name)
        else:
            np.testing.assert_allclose(l2[p], np.linalg.norm(expected), atol=1e-5, err_msg=name)
            np.testing.assert_allclose(sums[p], expected.sum(), atol=1e-5, err_msg=name)

    trained = model._replace(stats=stats)
    out, unchanged = applied(net, trained, x)
    np.testing.assert_allclose(out.logits, golden["bn_logits_eval"], atol=2e-6)
    jax.tree.map(np.testing.assert_array_equal, unchanged, stats)
    # A state dict with buffers carries the statistics over.
    buffers = {f"layers.norm.{d}.running_{k}": golden[f"bn_r{k[0]}_{d}"] for d in range(3) for k in ("mean", "var")}
    loaded = from_torch(net, deterministic(names, shapes, roles) | buffers)
    np.testing.assert_allclose(loaded.stats["norm2"]["var"], golden["bn_rv_2"])


@pytest.mark.parametrize("norm", ["none", "layer", "group"])
def test_convnet_with_other_norms(golden, norm):
    net = ConvNet(3, 16, norm=norm).build((32, 32, 3), 10)
    names, shapes, roles = (list(each) for each in parameters(golden))
    if norm == "none":
        keep = [p for p, name in enumerate(names) if "norm" not in name]
        names, shapes, roles = ([each[p] for p in keep] for each in (names, shapes, roles))
    if norm == "layer":
        sides = iter((32, 32, 16, 16, 8, 8))
        shapes = [
            (16, s, s) if "norm" in n and (s := next(sides)) else shape for n, shape in zip(names, shapes, strict=True)
        ]
    out = evaluate(net, from_torch(net, deterministic(names, shapes, roles)), cifar_normalised(golden["x_u8"]))
    np.testing.assert_allclose(out.logits, golden[f"logits_norm_{norm}"], atol=2e-6)


@pytest.mark.parametrize(
    ("prefix", "architecture", "shape"), [("n28_", ConvNet(3, 16), (28, 28, 1)), ("n8_", ConvNet(2, 8), (8, 8, 3))]
)
def test_convnet_on_other_image_sizes(golden, prefix, architecture, shape):
    net = architecture.build(shape, 10)
    x = pixels(golden[f"x{shape[0]}_u8"])
    x = (x - np.float32(0.1307)) / np.float32(0.3081) if shape[0] == 28 else x
    out = evaluate(net, from_torch(net, deterministic(*parameters(golden, prefix))), jnp.asarray(x))
    np.testing.assert_allclose(out.logits, golden[prefix + "logits"], atol=2e-6)
    np.testing.assert_allclose(channels_first(out.blocks[-1].after), golden[prefix + "feat"], atol=3e-6)


# ------------------------------------------------------------------ the other networks: golden README, section 2

OTHERS = {
    "rn10_in_cifar": ResNet(10),
    "rn10_bn_cifar": ResNet(10, "batch"),
    "rn18_in_cifar": ResNet(18),
    "rn18_bn_cifar": ResNet(18, "batch"),
    "rnap10_in_cifar": ResNetAP(10),
    "rnap10_in_64": ResNetAP(10),
    "rnap10_in_128": ResNetAP(10),
    "rnap10_in_224": ResNetAP(10),
    "rn18_bn_64": ResNet(18, "batch"),
    "rn18_in_128": ResNet(18),
    "densenet_cifar": DenseNet(),
}


@pytest.mark.slow
@pytest.mark.parametrize("key", OTHERS)
def test_other_networks_in_float64(key):
    """Compares logits, stages, gradients and, for batch norm, running statistics. test_resnet.py tests float32."""
    with np.load(GOLDEN / "other_nets.npz") as file:
        golden = {name.removeprefix(f"{key}__"): file[name] for name in file.files if name.startswith(f"{key}__")}
        x32, y = cifar_normalised(file["x32_u8"]), file["y"][: len(golden["logits_train"])]
    x = x32[: len(y)] if key.endswith("_cifar") else waves(int(key.rpartition("_")[2]))
    with jax.enable_x64(True):
        net = replace(OTHERS[key], dtype="float64").build(x.shape[1:], 10)
        names, shapes, roles = parameters(golden)
        model = from_torch(net, deterministic(names, shapes, roles))
        x = jnp.asarray(x, jnp.float64)
        (loss, (out, stats)), gradients = training_pass(net, model, x, y)
        np.testing.assert_allclose(out.logits, golden["logits_train_f64"], rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(loss, golden["loss_f64"], rtol=1e-9)
        if "stage_mean_l2" in golden:  # of the stem, the four stages, the pooled vector and the logits, in float32
            for stage, expected in zip(out.blocks, golden["stage_mean_l2"][1:5], strict=True):
                found = [stage.after.mean(), jnp.linalg.norm(stage.after.ravel())]
                np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(jnp.linalg.norm(out.embedding), golden["stage_mean_l2"][5, 1], rtol=1e-4)
        dot, l2 = per_parameter(
            net, names, shapes, gradients, lambda shape: np.cos(0.37 * np.arange(np.prod(shape))).reshape(shape)
        )
        np.testing.assert_allclose(l2, golden["grad_l2_f64"], rtol=1e-9, atol=1e-13)
        np.testing.assert_allclose(dot, golden["grad_dot_f64"], rtol=1e-9, atol=1e-9 * golden["grad_l2_f64"].max())
        if "logits_eval_f64" in golden:
            after = evaluate(net, model._replace(stats=stats), x)
            np.testing.assert_allclose(after.logits, golden["logits_eval_f64"], rtol=1e-9, atol=1e-11)


def test_weights_of_another_network_are_refused(golden):
    weights = deterministic(*parameters(golden))
    for architecture, what in (
        (ConvNet(2, 16), "a layer of shape (16, 16, 3, 3) is superfluous"),
        (ConvNet(4, 16), "classifier.kernel has shape (256, 10), not (64, 10)"),
        (ConvNet(3, 8), "conv0.bias has shape (16,), not (8,)"),
        (ConvNet(3, 16, norm="none"), "a layer of shape (16,) is superfluous"),
    ):
        with pytest.raises(RequestError) as caught:
            from_torch(architecture.build((32, 32, 3), 10), weights)
        assert what in str(caught.value)
