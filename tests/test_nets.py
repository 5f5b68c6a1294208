"""Tests the contract of the networks. test_nets_golden.py compares them with the published code."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from distill_jax.contracts import Architecture
from distill_jax.nets import ARCHITECTURES, MLP, VGG11, AlexNet, ConvNet, DenseNet, LeNet, ResNet, ResNetAP, ViT
from distill_jax.nets.layers import over
from distill_jax.types import RequestError
from tests.golden_weights import training_pass


def small_variant(name: str) -> Architecture:
    """Return a variant for 8x8 images, for which ConvNet's default depth is too large."""
    return ConvNet(2) if name == "convnet" else ARCHITECTURES[name]()


@pytest.mark.parametrize(
    "name", [pytest.param(a, marks=pytest.mark.slow) if a == "densenet121" else a for a in ARCHITECTURES]
)
@pytest.mark.parametrize(
    "shape", [(8, 8, 1), *(pytest.param(s, marks=pytest.mark.slow) for s in [(28, 28, 1), (64, 64, 3)])]
)
def test_every_architecture_fits_every_size(name, shape):
    net = small_variant(name).build(shape, 7)

    def forward(key):
        model = net.init(key)
        return model, net.apply(model, jnp.zeros((3, *shape)), True)

    model, (out, stats) = jax.eval_shape(forward, jax.random.key(0))
    assert out.logits.shape == (3, 7)
    assert out.embedding.ndim == 2 and all(b.before.ndim == b.after.ndim == 4 for b in out.blocks)
    assert jax.tree.structure(stats) == jax.tree.structure(model.stats)
    assert isinstance(model.params, dict) and all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(model))
    assert {leaf.ndim for leaf in jax.tree.leaves(model.params) if leaf.ndim > 2} <= {4}


@pytest.mark.parametrize("name", ["convnet", "resnet10", "resnetap10"])
def test_every_network_depends_on_small_images(name):
    """An instance norm over a 1x1 map would return its bias for every image."""
    net = small_variant(name).build((8, 8, 1), 3)
    x = jax.device_put(np.random.default_rng(1).normal(size=(2, 8, 8, 1)).astype(np.float32))
    logits = np.asarray(jax.jit(lambda key: net.apply(net.init(key), x, True)[0].logits)(jax.random.key(0)))
    assert np.abs(logits[0] - logits[1]).max() > 1e-2


def test_nets_are_equal_and_hash_by_value():
    for name in ARCHITECTURES:
        one, other = small_variant(name).build((8, 8, 1), 10), small_variant(name).build((8, 8, 1), 10)
        assert one == other and hash(one) == hash(other)
        assert one != small_variant(name).build((8, 8, 1), 9)
    assert ConvNet(3).build((32, 32, 3), 10) != ConvNet(3, norm="batch").build((32, 32, 3), 10)


def test_initial_parameters_are_those_of_pytorch():
    net = ConvNet(1, 64).build((8, 8, 3), 10)
    params = net.init(jax.random.key(0)).params
    for layer, fan_in in (("conv0", 27), ("classifier", 1024)):
        kernel = np.asarray(params[layer]["kernel"]) * np.sqrt(fan_in)
        assert 0.95 < np.abs(kernel).max() <= 1
        np.testing.assert_allclose(kernel.std(), np.sqrt(1 / 3), rtol=0.05)
        assert np.abs(np.asarray(params[layer]["bias"]) * np.sqrt(fan_in)).max() <= 1
    np.testing.assert_array_equal(params["norm0"]["scale"], 1)
    np.testing.assert_array_equal(params["norm0"]["bias"], 0)


@pytest.mark.parametrize("shape", [(32, 32, 3), (28, 28, 1)])
@pytest.mark.parametrize(
    ("net", "convolutions", "linear"),
    [
        (LeNet(), [(5, 6), (5, 16)], [400, 120, 84]),
        (AlexNet(), [(5, 128), (5, 192), (3, 256), (3, 192), (3, 192)], [192 * 4 * 4]),
        (VGG11(), [(3, width) for width in (64, 128, 256, 256, 512, 512, 512, 512)], [512]),
        (MLP(), [], [None, 128, 128]),
    ],
)
def test_small_networks_have_the_layers_of_the_released_code(net, convolutions, linear, shape):
    """DC's networks.py pads images of 28 pixels, so that both sizes lead to the same linear layers."""
    params = jax.eval_shape(net.build(shape, 10).init, jax.random.key(0)).params
    found = {name: layer["kernel"].shape for name, layer in params.items() if "kernel" in layer}
    inputs = [shape[2], *(width for _, width in convolutions)]
    sizes = zip(convolutions, inputs[:-1], strict=True)
    want = {f"conv{i}": (size, size, before, width) for i, ((size, width), before) in enumerate(sizes)}
    first = linear[0] or int(np.prod(shape))
    names = [*(f"dense{i}" for i in range(len(linear) - 1)), "classifier"]
    want |= dict(zip(names, zip([first, *linear[1:]], [*linear[1:], 10], strict=True), strict=True))
    assert found == want


def test_the_transformer_is_that_of_its_paper():
    """Against NumPy, in float64 on rectangular images (Dosovitskiy et al. 2021, appendix A)."""
    width, heads, patch = 8, 2, 4

    def dense(x, layer):
        return x @ layer["kernel"] + layer["bias"]

    def norm(x, layer):
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * layer["scale"] + layer["bias"]

    def attention(x, block):
        q, k, v = np.split(dense(x, block["qkv"]), 3, axis=-1)
        of_heads = []
        for h in range(heads):
            part = slice(h * width // heads, (h + 1) * width // heads)
            scores = np.exp(q[:, part] @ k[:, part].T / np.sqrt(width / heads))
            of_heads.append(scores / scores.sum(-1, keepdims=True) @ v[:, part])
        return dense(np.concatenate(of_heads, axis=-1), block["attended"])

    def gelu(x):
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    with jax.enable_x64(True):
        net = ViT(depth=2, width=width, heads=heads, patch=patch, dtype="float64").build((8, 12, 2), 3)
        model = net.init(jax.random.key(0))
        images = np.random.default_rng(0).normal(size=(2, 8, 12, 2))
        out, _ = jax.jit(net.apply, static_argnums=2)(model, jnp.asarray(images), False)
    params = jax.tree.map(np.asarray, model.params)
    for image, logits, embedding in zip(images, out.logits, out.embedding, strict=True):
        places = [(top, left) for top in (0, 4) for left in (0, 4, 8)]
        x = np.stack([image[top : top + patch, left : left + patch].ravel() for top, left in places])
        x = dense(x, params["patches"]) + params["position"]
        for i in range(2):
            block = params[f"block{i}"]
            x = x + attention(norm(x, block["norm1"]), block)
            x = x + dense(gelu(dense(norm(x, block["norm2"]), block["expand"])), block["contract"])
        mean = norm(x, params["norm"]).mean(0)
        np.testing.assert_allclose(embedding, mean, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(logits, dense(mean, params["classifier"]), rtol=1e-9, atol=1e-12)


def test_bfloat16_sums_the_gradient_of_a_bias_in_float32():
    x = jnp.zeros((8, 32, 32, 1), jnp.bfloat16)
    gradient = jax.jit(jax.grad(lambda bias: jnp.sum(over(bias, x).astype(jnp.float32))))(np.zeros(1, np.float32))
    assert gradient.dtype == jnp.float32 and gradient[0] == 8 * 32 * 32, "bfloat16 cannot count beyond 256"


def test_bfloat16_keeps_parameters_gradients_and_outputs_in_float32():
    shape, key = (8, 8, 3), jax.random.key(0)
    model = ConvNet(2, 8).build(shape, 5).init(key)
    x, y = np.random.default_rng(0).normal(size=(16, *shape)).astype(np.float32), np.arange(16) % 5
    results = {}
    for dtype in ("float32", "bfloat16"):
        net = ConvNet(2, 8, dtype=dtype).build(shape, 5)
        (loss, (out, _)), gradients = training_pass(net, model, x, y)
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((out, gradients)))
        results[dtype] = loss, gradients
    np.testing.assert_allclose(results["bfloat16"][0], results["float32"][0], rtol=2e-2)
    one, other = (np.asarray(results[d][1]["conv1"]["kernel"]).ravel() for d in results)
    assert one @ other / np.linalg.norm(one) / np.linalg.norm(other) > 0.99


@partial(jax.jit, static_argnums=0)
@partial(jax.value_and_grad, argnums=2)
def matching(net, models, x, y):
    """Return the squared norm of the kernels' gradients, summed over models, and its gradient in x. That is of second
    order, as in gradient matching.
    """

    def loss(params, model):
        out, _ = net.apply(model._replace(params=params), x, True)
        return optax.softmax_cross_entropy_with_integer_labels(out.logits, y).mean()

    def one(model):
        gradients = jax.grad(loss)(model.params, model)
        return optax.tree.norm(gradients, squared=True)

    return jnp.sum(jax.vmap(one)(models))


@pytest.mark.parametrize(
    "architecture", [ConvNet(2, 4, norm="batch"), pytest.param(ConvNet(2, 4, pooling="max"), marks=pytest.mark.slow)]
)
def test_models_in_parallel_equal_a_loop_also_at_second_order(architecture):
    with jax.enable_x64(True):
        net = replace(architecture, dtype="float64").build((8, 8, 1), 3)
        models = [jax.device_get(net.init(key)) for key in jax.random.split(jax.random.key(0), 2)]
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *models)
        x, y = np.random.default_rng(1).normal(size=(5, 8, 8, 1)), np.arange(5) % 3
        alone = [matching(net, jax.tree.map(lambda leaf: leaf[None], model), x, y) for model in models]
        for together, first, second in zip(matching(net, stacked, x, y), *alone, strict=True):
            np.testing.assert_allclose(together, first + second, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(
    "architecture",
    [
        ConvNet(2, 4, norm="batch", dtype="float64"),
        *(
            pytest.param(a, marks=pytest.mark.slow)
            for a in (
                ResNet(10, norm="batch", dtype="float64"),
                ResNetAP(10, dtype="float64"),
                DenseNet((1, 1, 1), 4, dtype="float64"),
                VGG11(dtype="float64"),
                ViT(1, 8, 2, dtype="float64"),
            )
        ),
    ],
)
def test_second_derivatives_equal_finite_differences(architecture):
    with jax.enable_x64(True):
        net = architecture.build((8, 8, 1), 3)
        model = jax.tree.map(lambda leaf: leaf[None], jax.device_get(net.init(jax.random.key(0))))
        # As many images as in the test above, which has the same program.
        (x, v), y = np.random.default_rng(1).normal(size=(2, 5, 8, 8, 1)), np.arange(5) % 3
        step = 1e-7  # a longer one crosses kinks of ResNetAP
        ahead, behind = (float(matching(net, model, x + s * v, y)[0]) for s in (step, -step))
        slope = np.vdot(matching(net, model, x, y)[1], v)
        np.testing.assert_allclose(slope, (ahead - behind) / (2 * step), rtol=1e-5)


def test_flat_maps_have_finite_gradients():
    net = ConvNet(2, 8).build((8, 8, 3), 5)  # a program of the test in bfloat16
    model = net.init(jax.random.key(0))
    # One-pass variances of large constants round to below -eps.
    _, gradients = training_pass(net, model, np.full((16, 8, 8, 3), 3e4, np.float32), np.arange(16) % 5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (lambda: ConvNet(0).validate(), "net.depth is 0: give an integer of at least 1"),
        (lambda: ConvNet(width=-1).validate(), "net.width is -1"),
        (lambda: ConvNet(norm="instnace").validate(), "net.norm 'instnace' is unknown: did you mean instance?"),  # type: ignore[arg-type]
        (lambda: ConvNet(activation="zzz").validate(), "choose one of relu leaky_relu"),  # type: ignore[arg-type]
        (lambda: ConvNet(width=6, norm="group").validate(), "cannot split 6 channels into 4"),
        (
            lambda: ConvNet(4).build((8, 8, 1), 10),
            "net.depth 4 shrinks 8x8 images to nothing: use a depth of at most 3",
        ),
        (lambda: ConvNet(6).build((28, 28, 1), 10), "at most 5"),
        (lambda: VGG11().build((4, 9, 3), 10), "images of 4x9 are too small for this network: give at least 8x8"),
        (lambda: DenseNet((6, 0)).validate(), "net.layers[1] is 0"),
        (lambda: LeNet(norm="group").validate(), "cannot split 6 channels"),
        (lambda: ViT(width=10).validate(), "net.width 10 cannot be divided among 4 heads"),
        (lambda: ViT(patch=5).build((8, 8, 1), 10), "net.patch 5 does not divide 8x8 images: use one of [1, 2, 4, 8]"),
    ],
)
def test_invalid_requests_name_the_fix(request_, message):
    with pytest.raises(RequestError) as caught:
        request_()
    assert message in str(caught.value) and "\n" not in str(caught.value)
