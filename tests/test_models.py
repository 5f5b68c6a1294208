"""Tests the perturbation against the released code (golden README, section 7), and the model sources."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from distill_jax.axes.models import EarlyStagePool, RandomInit
from distill_jax.axes.perturb import Directions, direction, move
from distill_jax.nets import ConvNet, from_torch
from distill_jax.types import Model, RequestError
from tests.golden_weights import GOLDEN, pixels

NET = ConvNet(depth=3, width=16).build((32, 32, 3), 10)
TINY = ConvNet(depth=2, width=4).build((8, 8, 1), 3)


def _unflatten(flat: np.ndarray, golden) -> list[np.ndarray]:
    ends = golden["offsets"]
    shapes = [tuple(int(n) for n in shape if n) for shape in golden["shapes"]]
    return [flat[a:b].reshape(shape) for a, b, shape in zip(ends[:-1], ends[1:], shapes, strict=True)]


@pytest.mark.parametrize("norm", ["filter", "layer", "weight"])
def test_directions_and_weights_golden(norm: str) -> None:
    with np.load(GOLDEN / "perturb.npz") as golden:
        golden = dict(golden)

    def load(name: str):
        return from_torch(NET, _unflatten(golden[name], golden)).params

    params = load("w")

    @jax.jit
    def compute(params, dx_raw, dy_raw):
        dx, dy = (direction(params, raw, norm) for raw in (dx_raw, dy_raw))
        return dx, move(move(params, dx, 0.05), dy, -0.03)

    dx, moved = compute(params, load("dx_raw"), load("dy_raw"))
    for ours, name in ((dx, f"{norm}__dx"), (moved, f"{norm}__w")):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=3e-7), ours, load(name))
    if norm == "filter":
        model = Model(moved, {})
        with np.load(GOLDEN / "convnet.npz") as convnet:
            logits = jax.jit(lambda x: NET.apply(model, x, False)[0].logits)(pixels(convnet["x_u8"]))
        np.testing.assert_allclose(logits, golden["logits_after"], atol=3e-6)


def test_no_perturbation_is_the_identity_to_the_bit() -> None:
    params = TINY.init(jax.random.key(0)).params
    moved = jax.jit(Directions(0.01, 0.0).perturbed)(params, jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, moved, params)


@pytest.mark.parametrize("count", [1, 2])
def test_perturbation_has_the_published_size_and_leaves_vectors_alone(count: int) -> None:
    params = jax.device_get(NET.init(jax.random.key(0)).params)
    moved = jax.device_get(jax.jit(Directions(0.05, 0.05, count=count).perturbed)(params, jax.random.key(1)))
    for path, (a, b) in {
        jax.tree_util.keystr(path): pair
        for path, pair in jax.tree_util.tree_leaves_with_path(
            jax.tree.map(lambda a, b: (a, b), params, moved), is_leaf=lambda x: isinstance(x, tuple)
        )
    }.items():
        change = float(np.linalg.norm((b - a).ravel()))
        if a.ndim == 1:
            assert change == 0, path
        else:  # independent directions of 5 % each: one in the paper, two in the released code
            assert change / float(np.linalg.norm(a.ravel())) == pytest.approx(0.05 * count**0.5, rel=0.2), path


def test_steps_along_a_direction_are_uniform_between_min_and_max() -> None:
    params = {"conv": {"kernel": np.ones((3, 3, 1, 2), np.float32)}}
    keys = jax.random.split(jax.random.key(0), 4000)
    perturbed = jax.jit(lambda perturb: jax.vmap(lambda key: perturb.perturbed(params, key))(keys))

    def steps(perturb: Directions) -> np.ndarray:
        change = np.asarray(perturbed(perturb)["conv"]["kernel"]) - 1
        return np.sqrt(np.sum(change**2, axis=(1, 2, 3))) / 3  # 3 is the norm of each filter

    drawn = steps(Directions(0.01, 0.09))
    np.testing.assert_allclose(drawn[:, 0], drawn[:, 1], rtol=1e-4)  # one step for all filters of a model
    assert drawn.min() >= 0.01 - 1e-6 and drawn.max() <= 0.09 + 1e-6
    counts, _ = np.histogram(drawn[:, 0], 8, (0.01, 0.09))
    assert np.abs(counts - 500).max() < 100  # 4.8 standard deviations of a binomial count
    np.testing.assert_allclose(steps(Directions(0.05, 0.02)), 0.02, rtol=1e-4)  # a minimum above the maximum


def test_k_pool_members_are_drawn_and_perturbed_independently() -> None:
    pool = jax.vmap(TINY.init)(jax.random.split(jax.random.key(0), 2))
    sample = jax.jit(EarlyStagePool(size=2).sample, static_argnums=(0, 2, 3))
    models = sample(TINY, pool, 8, 0, jax.random.key(1))

    def kernels_of(models: Model) -> np.ndarray:
        return np.asarray(models.params["classifier"]["kernel"])

    kernels = kernels_of(models)
    members = {np.asarray(kernel).tobytes() for kernel in kernels_of(pool)}
    assert {np.asarray(kernel).tobytes() for kernel in kernels} == members
    kernels = kernels_of(jax.jit(Directions().perturb)(models, jax.random.key(2)))
    assert len({np.asarray(kernel).tobytes() for kernel in kernels}) == 8


def test_random_models_differ() -> None:
    models = RandomInit().sample(TINY, None, 3, 0, jax.random.key(0))
    kernels = np.asarray(models.params["classifier"]["kernel"])
    assert kernels.shape[0] == 3 and len({np.asarray(kernel).tobytes() for kernel in kernels}) == 3


@pytest.mark.parametrize("bad", [{"size": 0}, {"epochs": -1}, {"batch": 0}])
def test_bad_fields_are_named(bad: dict) -> None:
    with pytest.raises(RequestError, match=next(iter(bad))):
        EarlyStagePool(**bad).validate()


@pytest.mark.parametrize("bad", [{"norm": "filtre"}, {"count": 0}, {"max": -0.1}, {"min": -0.1}])
def test_bad_perturbations_are_named(bad: dict) -> None:
    with pytest.raises(RequestError, match=f"perturb.{next(iter(bad))}"):
        Directions(**bad).validate()
