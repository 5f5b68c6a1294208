"""The algorithm: the golden sweep, and properties of whole steps over every preset."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.methods import METHODS
from distill_jax import distill
from distill_jax.augment import NoAugment
from distill_jax.distill import Problem, State, init_state, matching, run_block
from distill_jax.nets import ConvNet, from_torch
from distill_jax.objectives import GradientMatching
from distill_jax.spec import Hyper, Spec
from distill_jax.synthetic import MultiFormation, class_turns
from distill_jax.tree import stack
from distill_jax.types import ClassObjective, RealData, Synthetic
from distill_jax.update import Frozen
from tests import toy
from tests.golden_weights import CIFAR_MEAN, CIFAR_STD, GOLDEN, deterministic


@pytest.mark.parametrize(("metric", "rate"), [("mse", 0.02), ("l1", 0.005)])
def test_image_update_golden(metric: str, rate: float) -> None:
    """Three sweeps over four classes that take turns on one tensor (golden README, section 4)."""
    with np.load(GOLDEN / "sweep.npz") as file:
        golden = dict(file)
    sweeps, classes, batch = golden["real_u8"].shape[:3]
    real = golden["real_u8"].transpose(1, 0, 2, 4, 5, 3).reshape(classes * sweeps * batch, 32, 32, 3)
    per_class = sweeps * batch
    data = RealData(
        images=jnp.asarray(real),
        labels=jnp.repeat(jnp.arange(classes, dtype=jnp.int32), per_class),
        index=jnp.arange(classes * per_class, dtype=jnp.int32).reshape(classes, per_class),
        counts=jnp.full((classes,), per_class, jnp.int32),
        mean=jnp.asarray(CIFAR_MEAN),
        std=jnp.asarray(CIFAR_STD),
    )
    spec = Spec(
        augment=NoAugment(),
        objective=GradientMatching(metric),
        parameterisation=MultiFormation(2),
        update=Frozen(),
        class_chunk=1,
        model_chunk=1,
    )
    net = ConvNet(depth=3, width=16).build((32, 32, 3), classes)
    models = stack([from_torch(net, deterministic(golden["names"], golden["shapes"], golden["roles"]))])
    problem = Problem(spec, net, Hyper(), data, None, jax.random.key(0))
    turns = class_turns(rate, 0.5)

    @jax.jit
    def sweep(images, state, selection):
        images, state = turns.before(images, state)
        loss, grads = matching(problem, models, Synthetic(images), selection, jax.random.key(0))
        return *turns.after(grads.images, images, state), loss

    images = jnp.asarray(golden["init_u8"].transpose(0, 2, 3, 1).reshape(classes, 2, 32, 32, 3) / np.float32(255))
    state = turns.init(images)
    for s in range(sweeps):
        selection = jnp.tile(s * batch + jnp.arange(batch, dtype=jnp.int32), (classes, 1))
        images, state, loss = sweep(images, state, selection)
        ours = np.asarray(images).reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2)
        if metric == "mse":
            np.testing.assert_allclose(loss, golden["mse__losses"][s].sum(), rtol=1e-5)
            np.testing.assert_allclose(ours, golden["mse__images"][s], atol=3e-6)
    if metric == "l1":
        np.testing.assert_allclose(ours, golden["l1__images_last"], atol=3e-6)


MATCHING = jax.jit(matching)


# Between them, these have every choice that any preset makes.
QUICK = ("dsa", "dm", "cafe", "mtt", "dream_acc_dd")
EVERY_PRESET = pytest.mark.parametrize(
    "method", [m if m in QUICK else pytest.param(m, marks=pytest.mark.slow) for m in METHODS]
)


@cache
def finished(method: str) -> tuple[Problem, State, np.ndarray]:
    """A preset on the toy, all its steps in one block."""
    problem = toy.problem(method)
    steps = problem.spec.steps
    state, losses = run_block(problem, init_state(problem), steps)
    return problem, state, np.asarray(losses)[:steps]


@EVERY_PRESET
def test_every_preset_runs_and_moves_its_images(method: str) -> None:
    problem, state, losses = finished(method)
    assert np.isfinite(losses).all()
    before, after = init_state(problem).synthetic.images, state.synthetic.images
    assert after.shape == before.shape and not np.array_equal(before, after)
    assert int(state.step) == problem.spec.steps


@EVERY_PRESET
def test_a_run_cut_into_blocks_ends_bit_identical(method: str) -> None:
    problem, whole, losses = finished(method)
    before = run_block._cache_size()  # type: ignore[attr-defined]
    state = init_state(problem)
    parts = []
    for steps in (1, 3):
        state, part = run_block(problem, state, steps)
        parts.append(np.asarray(part)[:steps])
    jax.tree.map(np.testing.assert_array_equal, state, whole)
    np.testing.assert_array_equal(np.concatenate(parts), losses)
    assert run_block._cache_size() == before, "a block of another length compiled again"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "method", [m if m == "dream_acc_dd" else pytest.param(m, marks=pytest.mark.slow) for m in METHODS]
)
def test_chunking_does_not_change_the_gradient(method: str) -> None:
    problem = finished(method)[0]
    if not isinstance(problem.spec.objective, ClassObjective):
        pytest.skip("an objective on the whole set has no class chunks")
    state = init_state(problem)

    def gradient(chunk: int):
        chunked = replace(problem, spec=replace(problem.spec, class_chunk=chunk, model_chunk=chunk))
        return MATCHING(chunked, state.models, state.synthetic, state.selection, jax.random.key(3))

    (loss, one), (same, two) = gradient(1), gradient(2)
    np.testing.assert_allclose(loss, same, rtol=1e-5)
    scale = float(jnp.max(jnp.abs(one.images)))
    np.testing.assert_allclose(one.images, two.images, rtol=0, atol=1e-5 * scale)


@EVERY_PRESET
def test_every_presets_loss_falls_on_the_toy(method: str) -> None:
    """On the models, real images and draws of the start, so that nothing but the synthetic part differs."""
    problem, state, _ = finished(method)
    start = init_state(problem)
    classes, batch = start.selection.shape
    selection = jnp.tile(jnp.arange(batch, dtype=jnp.int32), (classes, 1))

    def loss(synthetic: Synthetic) -> float:
        return sum(float(MATCHING(problem, start.models, synthetic, selection, jax.random.key(k))[0]) for k in range(4))

    later, _ = run_block(problem, jax.tree.map(jnp.copy, state), 40)
    assert loss(later.synthetic) < loss(start.synthetic)


@pytest.mark.slow
def test_the_loss_falls_on_the_toy() -> None:
    """With one frozen model and one batch, image steps can only lower the loss."""
    problem = toy.problem("idc", update=Frozen(), augment=NoAugment(), outer_steps=1, inner_steps=60)
    problem = replace(problem, hyper=replace(problem.hyper, syn_lr=1e-3))
    _, losses = run_block(problem, init_state(problem), 60)
    steps = np.diff(np.asarray(losses)[:60] * np.arange(1, 61), prepend=0)  # losses are running means
    assert steps[-10:].mean() < 0.8 * steps[:3].mean()


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_jit_equals_eager(method: str) -> None:
    problem = toy.problem(method)
    state = init_state(problem)
    arguments = (problem, state.models, state.synthetic, state.selection, jax.random.key(4))
    compiled = MATCHING(*arguments)
    with jax.disable_jit():
        eager = matching(*arguments)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), compiled, eager)


def test_pixels_are_clamped_between_outer_iterations() -> None:
    problem, state, _ = finished("dream_acc_dd")
    wild = state._replace(synthetic=Synthetic(state.synthetic.images * 100 - 50))
    begun = jax.jit(distill.begin_outer)(problem, wild, jax.random.key(0))
    assert float(begun.synthetic.images.min()) >= 0 and float(begun.synthetic.images.max()) <= 1
