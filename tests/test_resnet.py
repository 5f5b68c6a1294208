"""Tests the larger networks in float32 against figures of the published PyTorch code (golden README, section 2)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax.nets import ResNet, ResNetAP, from_torch
from distill_jax.types import RequestError
from tests.golden_weights import GOLDEN, cifar_normalised, deterministic, waves
from tests.test_nets_golden import OTHERS

QUICK = ("rn10_bn_cifar", "rnap10_in_cifar")


@pytest.mark.parametrize("case", [c if c in QUICK else pytest.param(c, marks=pytest.mark.slow) for c in OTHERS])
def test_logits_golden(case: str) -> None:
    with np.load(GOLDEN / "other_nets.npz") as file:
        golden = {name.removeprefix(f"{case}__"): file[name] for name in file.files if name.startswith(f"{case}__")}
        golden["x"] = cifar_normalised(file["x32_u8"])
    if not case.endswith("_cifar"):
        golden["x"] = waves(int(case.rpartition("_")[2]))
    x = jnp.asarray(golden["x"][: len(golden["logits_train"])])
    net = OTHERS[case].build(x.shape[1:], 10)
    model = from_torch(net, deterministic(golden["names"], golden["shapes"], golden["roles"]))
    assert sum(leaf.size for leaf in jax.tree.leaves(model.params)) == golden["nparams"]
    out, stats = jax.jit(lambda x: net.apply(model, x, True))(x)
    np.testing.assert_allclose(out.logits, golden["logits_train"], atol=1e-5)
    if "logits_eval" in golden:
        after = model._replace(stats=stats)
        logits = jax.jit(lambda x: net.apply(after, x, False))(x)[0].logits
        np.testing.assert_allclose(logits, golden["logits_eval"], atol=1e-5)


def test_small_greyscale_images_fit() -> None:
    net = ResNet(10).build((8, 8, 1), 3)
    out = jax.eval_shape(lambda: net.apply(net.init(jax.random.key(0)), jnp.zeros((2, 8, 8, 1)), True))[0]
    assert out.logits.shape == (2, 3) and out.embedding.shape == (2, 256) and len(out.blocks) == 4


def test_images_that_do_not_fit_are_refused() -> None:
    with pytest.raises(RequestError, match="net.depth is 50"):
        ResNet(50).validate()
    with pytest.raises(RequestError, match="too small"):
        ResNetAP().build((7, 7, 3), 10)
