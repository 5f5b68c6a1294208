"""Tests whole runs of every preset on a toy: images move, the loss falls, and blocks and chunks change nothing."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax import distill
from distill_jax.augment import NoAugment, Siamese
from distill_jax.axes.optimiser import SGD, Adam, ClassByClassSGD
from distill_jax.axes.perturb import NoPerturbation
from distill_jax.axes.update import Frozen
from distill_jax.contracts import ClassObjective
from distill_jax.distill import Problem, State, init_state, matching, run_block
from distill_jax.methods import METHODS
from distill_jax.types import Array, Synthetic
from tests import toy

MATCHING = jax.jit(matching)


def first_images(problem: Problem) -> Array:
    """Return int32 [C, B]: the first real images of each class, or the images paired with the synthetic ones."""
    spec, data = problem.spec, problem.data
    if spec.objective.paired:
        return init_state(problem).selector
    return jnp.tile(jnp.arange(spec.selector.batch, dtype=jnp.int32), (data.classes, 1))


# Together these presets use every choice of all presets.
QUICK = ("dsa", "dm", "cafe", "mtt", "dream_acc_dd", "ncfm", "cim")
EVERY_PRESET = pytest.mark.parametrize(
    "method", [m if m in QUICK else pytest.param(m, marks=pytest.mark.slow) for m in METHODS]
)


@cache
def finished(method: str) -> tuple[Problem, State, np.ndarray]:
    """Return the state of a preset on the toy after all its steps in one block."""
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
    state = toy.begun(problem)

    def gradient(chunk: int):
        # Each class has its own draw of any augmentation, and one that mirrors compiles fastest.
        augment = Siamese("flip")
        chunked = replace(problem, spec=replace(problem.spec, class_chunk=chunk, model_chunk=chunk, augment=augment))
        return MATCHING(chunked, state.models, state.synthetic, first_images(problem), jax.random.key(3))

    (loss, one), (same, two) = gradient(1), gradient(2)
    np.testing.assert_allclose(loss, same, rtol=1e-5)
    scale = float(jnp.max(jnp.abs(one.images)))
    np.testing.assert_allclose(one.images, two.images, rtol=0, atol=1e-5 * scale)


@EVERY_PRESET
def test_every_presets_loss_falls_on_the_toy(method: str) -> None:
    """Compares losses with the same models, real images and draws, so that only the synthetic part differs. They are
    the losses of first steps, so that the program of the run computes them.
    """
    problem, state, _ = finished(method)
    start = init_state(problem)

    def loss(synthetic: Synthetic) -> float:
        total = 0.0
        for k in range(24):
            first = jax.tree.map(jnp.copy, start._replace(synthetic=synthetic))
            _, losses = run_block(replace(problem, root=jax.random.key(k)), first, 1)
            total += float(losses[0])
        return total

    optimiser: Any = problem.spec.optimiser
    if isinstance(optimiser, ClassByClassSGD):  # the rate for digits assumes more steps than these
        fast = replace(optimiser, lr=30 * optimiser.lr)
        problem = replace(problem, spec=replace(problem.spec, optimiser=fast))
    later, _ = run_block(problem, jax.tree.map(jnp.copy, state), 160)
    assert loss(later.synthetic) < 0.98 * loss(start.synthetic)


@pytest.mark.slow
def test_the_loss_falls_on_the_toy() -> None:
    """With one frozen model and one batch, image steps can only reduce the loss."""
    problem = toy.problem("idc", update=Frozen(), augment=NoAugment(), outer_steps=1, inner_steps=60)
    slow = replace(problem.spec.optimiser, lr=jnp.float32(1e-3))  # type: ignore[type-var]
    problem = replace(problem, spec=replace(problem.spec, optimiser=slow))
    _, losses = run_block(problem, init_state(problem), 60)
    steps = np.diff(np.asarray(losses)[:60] * np.arange(1, 61), prepend=0)  # losses are running means
    assert steps[-10:].mean() < 0.8 * steps[:3].mean()


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_jit_equals_eager(method: str) -> None:
    problem = toy.problem(method)
    state = toy.begun(problem)
    arguments = (problem, state.models, state.synthetic, first_images(problem), jax.random.key(4))
    compiled = MATCHING(*arguments)
    with jax.disable_jit():
        eager = matching(*arguments)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), compiled, eager)


def test_pixels_are_clamped_between_outer_iterations() -> None:
    problem, state, _ = finished("dream_acc_dd")
    wild = state._replace(synthetic=state.synthetic._replace(images=state.synthetic.images * 100 - 50))
    problem = replace(problem, spec=replace(problem.spec, perturb=NoPerturbation()))  # which compiles faster
    begun = jax.jit(distill.begin_outer)(problem, wild, jax.random.key(0))
    assert float(begun.synthetic.images.min()) >= 0 and float(begun.synthetic.images.max()) <= 1


def test_specs_of_one_structure_share_a_program() -> None:
    problem = finished("dream_acc_dd")[0]
    before = run_block._cache_size()  # type: ignore[attr-defined]
    other = jax.tree.map(lambda leaf: leaf * jnp.asarray(2, leaf.dtype), problem.spec)  # outer_steps too
    assert other.steps == 2 * problem.spec.steps > 0
    state, _ = run_block(replace(problem, spec=other), init_state(problem), 2)
    assert run_block._cache_size() == before  # type: ignore[attr-defined]
    assert not np.array_equal(state.synthetic.images, init_state(problem).synthetic.images)


@pytest.mark.slow  # dsa and cim step with SGD and Adam above
@pytest.mark.parametrize("optimiser", [SGD(1e-3), Adam(1e-3, weight_decay=0.1)])
def test_any_optimiser_moves_the_images(optimiser: SGD | Adam) -> None:
    problem = toy.problem("idc", optimiser=optimiser)
    state, losses = run_block(problem, init_state(problem), 2)
    assert np.isfinite(losses[:2]).all()
    assert not np.array_equal(state.synthetic.images, init_state(problem).synthetic.images)
