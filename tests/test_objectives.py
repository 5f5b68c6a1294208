"""Tests matching losses and their image gradients against the released code (golden README, section 3)."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax.axes.objective import FeatureMatching, GradientMatching, class_gradient
from distill_jax.nets import ConvNet, from_torch
from distill_jax.types import Model, Net, RequestError
from tests.golden_weights import GOLDEN, cifar_normalised, deterministic

CASES = {
    "idc_mse": GradientMatching("mse"),
    "idc_l1": GradientMatching("l1"),
    "idc_l1_mean": GradientMatching("l1_mean"),
    "idc_cos": GradientMatching("cos"),
    "idc_mse_bias": GradientMatching("mse", bias=True),
    "idc_mse_fc": GradientMatching("mse", head=True),
    "idc_mse_bias_fc": GradientMatching("mse", bias=True, head=True),
    "idc_feat_2": FeatureMatching(first=2, last=2),
    "idc_feat_0to2": FeatureMatching(first=0, last=2),
    "dc_ours": GradientMatching("cos", head=True),
    "dc_mse": GradientMatching("mse", bias=True, head=True),
    "dc_cos": GradientMatching("cos", bias=True, head=True, layerwise=False),
    "dm": FeatureMatching(),
}


@pytest.fixture(scope="module")
def golden() -> Iterator[dict[str, np.ndarray]]:
    with np.load(GOLDEN / "matching.npz") as file:
        yield dict(file)


def _net(golden: dict[str, np.ndarray], dtype: str = "float32") -> tuple[Net, Model]:
    net = ConvNet(depth=3, width=16, dtype=dtype).build((32, 32, 3), 10)  # type: ignore[arg-type]
    return net, from_torch(net, deterministic(golden["names"], golden["shapes"], golden["roles"]))


def _loss_and_gradient(objective, net: Net, model: Model, golden: dict[str, np.ndarray], dtype):
    real, syn = (jnp.asarray(cifar_normalised(golden[name]), dtype) for name in ("real_u8", "syn_u8"))
    c = jnp.asarray(golden["class"], jnp.int32)
    key = jax.random.key(0)
    return jax.jit(jax.value_and_grad(lambda s: objective.class_loss(net, model, real, s, c, key)))(syn)


@pytest.fixture(scope="module")
def pulled(golden: dict[str, np.ndarray]):
    """Return the gradients of both batches, and the pullback from the synthetic gradient to the images."""
    net, model = _net(golden)
    c = jnp.asarray(golden["class"], jnp.int32)
    real, syn = (jnp.asarray(cifar_normalised(golden[name])) for name in ("real_u8", "syn_u8"))

    @jax.jit
    def pull(cotangent):
        gradient, back = jax.vjp(lambda x: class_gradient(net, model, x, c), syn)
        return gradient, back(cotangent)[0]

    of_real = jax.jit(lambda x: class_gradient(net, model, x, c))(real)
    of_synthetic, _ = pull(jax.tree.map(np.zeros_like, of_real))
    return of_real, of_synthetic, lambda cotangent: pull(cotangent)[1]


@pytest.mark.parametrize("case", [name for name, objective in CASES.items() if isinstance(objective, GradientMatching)])
def test_gradient_matching_golden(case: str, golden: dict[str, np.ndarray], pulled) -> None:
    real, syn, pull = pulled
    loss, cotangent = jax.jit(jax.value_and_grad(lambda g: CASES[case].distance(real, g)))(syn)
    _check(case, loss, pull(cotangent), golden)


def test_whole_objective_golden(golden: dict[str, np.ndarray]) -> None:
    loss, grad = _loss_and_gradient(CASES["idc_l1"], *_net(golden), golden, jnp.float32)
    _check("idc_l1", loss, grad, golden)


FEATURES = [name for name, objective in CASES.items() if isinstance(objective, FeatureMatching)]


@pytest.fixture(scope="module")
def features(golden: dict[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the loss and the gradient of each case of FEATURES, from one program."""
    net, model = _net(golden)
    real, syn = (cifar_normalised(golden[name]) for name in ("real_u8", "syn_u8"))
    c, key = np.int32(golden["class"]), jax.random.key(0)

    @jax.jit
    def compute(real, syn):
        def losses(syn):
            return jnp.stack([CASES[case].class_loss(net, model, real, syn, c, key) for case in FEATURES])

        values, pull = jax.vjp(losses, syn)
        return values, jax.vmap(pull)(jnp.eye(len(FEATURES)))[0]

    return dict(zip(FEATURES, zip(*jax.device_get(compute(real, syn)), strict=True), strict=True))


@pytest.mark.parametrize("case", FEATURES)
def test_feature_matching_golden(case: str, golden: dict[str, np.ndarray], features) -> None:
    loss, grad = features[case]
    _check(case, loss, grad, golden)


def _check(case: str, loss, grad, golden: dict[str, np.ndarray]) -> None:
    np.testing.assert_allclose(loss, golden[f"{case}__loss"], rtol=3e-6)
    expected = golden[f"{case}__dsyn"].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(grad, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize("case", ["idc_mse", "dc_ours"])
def test_golden_float64(case: str, golden: dict[str, np.ndarray], x64: None) -> None:
    net, model = _net(golden, "float64")
    model = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), model)
    loss, grad = _loss_and_gradient(CASES[case], net, model, golden, jnp.float64)
    np.testing.assert_allclose(loss, golden[f"{case}__loss_f64"], rtol=1e-9)
    flat = np.asarray(grad).transpose(0, 3, 1, 2).ravel()
    stats = [flat.sum(), np.linalg.norm(flat), (flat * np.cos(0.37 * np.arange(flat.size))).sum()]
    np.testing.assert_allclose(stats, golden[f"{case}__dsyn_stats_f64"], rtol=1e-8, atol=1e-9 * stats[1])


@pytest.mark.parametrize("objective", [GradientMatching("cos", head=True), FeatureMatching()])
def test_equal_images_match(objective) -> None:
    net = ConvNet(depth=2, width=4).build((8, 8, 1), 3)
    x = np.random.default_rng(1).normal(size=(5, 8, 8, 1)).astype(np.float32)
    model = net.init(jax.random.key(0))
    loss = jax.jit(lambda x: objective.class_loss(net, model, x, x, jnp.int32(1), jax.random.key(2)))(x)
    # cos guards its division by adding 1e-6, so equal gradients are not exactly at distance zero.
    assert 0 <= float(loss) < (0.05 if getattr(objective, "metric", "") == "cos" else 1e-9)


def test_bad_choices_name_the_field() -> None:
    with pytest.raises(RequestError, match="objective.metric 'l2'"):
        GradientMatching("l2").validate()
    net = ConvNet(depth=2, width=4).build((8, 8, 1), 3)
    with pytest.raises(RequestError, match="objective.first 2 to objective.last 2 selects no block of this --net"):
        FeatureMatching(2, 2).check(net, (8, 8, 1))


def test_losses_of_blocks_add_up_to_that_of_their_range() -> None:
    net = ConvNet(depth=3, width=4).build((8, 8, 1), 3)
    model = net.init(jax.random.key(0))
    real, syn = (np.random.default_rng(n).normal(size=(n, 8, 8, 1)).astype(np.float32) for n in (5, 3))

    @jax.jit
    def losses(real, syn):
        pairs = [(0, 0), (1, 1), (2, 2), (0, 1), (-3, -1)]
        of = (FeatureMatching(*pair).class_loss for pair in pairs)
        return [loss(net, model, real, syn, jnp.int32(0), jax.random.key(0)) for loss in of]

    first, second, third, two, three = losses(real, syn)
    assert min(first, second, third) > 0
    np.testing.assert_allclose([two, three], [first + second, first + second + third], rtol=1e-5)
