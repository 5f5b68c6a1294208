"""Tests the algorithm: the golden sweep, and properties of whole steps of every preset."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax import distill
from distill_jax.augment import NoAugment, Siamese
from distill_jax.axes.labels import LearnedLabels
from distill_jax.axes.objective import GradientMatching, TrajectoryMatching
from distill_jax.axes.optimiser import SGD, Adam, ClassByClassSGD
from distill_jax.axes.parameterisation import MultiFormation
from distill_jax.axes.perturb import NoPerturbation
from distill_jax.axes.update import Frozen
from distill_jax.check_spec import check
from distill_jax.contracts import ClassObjective
from distill_jax.distill import Problem, State, init_state, matching, run_block
from distill_jax.methods import METHODS
from distill_jax.nets import ConvNet, from_torch
from distill_jax.spec import Spec, as_arrays
from distill_jax.tree import stack
from distill_jax.types import Array, Model, PyTree, RealData, RequestError, Synthetic, choice
from tests import toy
from tests.golden_weights import CIFAR_MEAN, CIFAR_STD, GOLDEN, deterministic


@choice
class MeanSquareOrL1(GradientMatching):
    """Gradient matching with metric "mse", or "l1" if ``l1`` is 1, as one program."""

    l1: float = 0.0

    def distance(self, a: PyTree, b: PyTree) -> Array:
        mse, l1 = (GradientMatching(metric).distance(a, b) for metric in ("mse", "l1"))
        return jnp.where(jnp.asarray(self.l1) == 1, l1, mse)


@partial(jax.jit, compiler_options={"xla_backend_optimization_level": 1})  # the fastest to compile and run
def sweep_over_classes(
    problem: Problem, models: Model, turns: ClassByClassSGD, images: Array, state: Array, selection: Array
) -> tuple[Array, Array, Array]:
    images, state = turns.before(images, state, 1.0)
    with jax.numpy_dtype_promotion("standard"):  # real images enter the network as float32
        loss, grads = matching(problem, models, Synthetic(images), selection, jax.random.key(0))
    return *turns.after(grads.images, images, state, 1.0), loss


@pytest.mark.parametrize(("metric", "rate"), [("mse", 0.02), ("l1", 0.005)])
def test_image_update_golden(metric: str, rate: float, x64: None) -> None:
    """Runs three sweeps over four classes, one class at a time on one tensor (golden README, section 4).

    The test needs double precision. In float32 a unit of the second sweep is so close to zero that rounding decides on
    which side of its ReLU it is, which differs with SSE4.2."""
    with np.load(GOLDEN / "sweep.npz") as file:
        golden = dict(file)
    sweeps, classes, batch = golden["real_u8"].shape[:3]
    real = golden["real_u8"].transpose(1, 0, 2, 4, 5, 3).reshape(classes * sweeps * batch, 32, 32, 3)
    per_class = sweeps * batch
    data = RealData.from_arrays(real, np.repeat(np.arange(classes), per_class), CIFAR_MEAN, CIFAR_STD)
    spec = Spec(
        augment=NoAugment(),
        objective=MeanSquareOrL1(l1=float(metric == "l1")),
        parameterisation=MultiFormation(2),
        update=Frozen(),
        class_chunk=1,
        model_chunk=1,
    )
    net = ConvNet(depth=3, width=16, dtype="float64").build((32, 32, 3), classes)
    models = stack([from_torch(net, deterministic(golden["names"], golden["shapes"], golden["roles"]))])
    problem = Problem(as_arrays(spec), net, data, None, jax.random.key(0))
    turns = ClassByClassSGD(rate, 0.5)

    images = jnp.asarray(golden["init_u8"].transpose(0, 2, 3, 1).reshape(classes, 2, 32, 32, 3) / 255)
    state = turns.init(images)
    for s in range(sweeps):
        selection = jnp.tile(s * batch + jnp.arange(batch, dtype=jnp.int32), (classes, 1))
        images, state, loss = sweep_over_classes(problem, models, turns, images, state, selection)
        ours = np.asarray(images).reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2)
        if metric == "mse":
            np.testing.assert_allclose(loss, golden["mse__losses"][s].sum(), rtol=1e-5)
            np.testing.assert_allclose(ours, golden["mse__images"][s], atol=3e-6)
    if metric == "l1":
        np.testing.assert_allclose(ours, golden["l1__images_last"], atol=3e-6)


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
    state = init_state(problem)

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
    state = init_state(problem)
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


# ------------------------------------------------------------------ no method pays for the needs of another


def test_no_method_carries_state_that_only_others_need() -> None:
    state = jax.eval_shape(init_state, toy.problem("acc_dd"))
    paths = {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)}
    assert not [path for path in paths if "labels" in path or "learnable" in path or ".update.images" in path]
    assert any("learnable" in jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(
        jax.eval_shape(init_state, toy.problem("mtt"))))  # fmt: skip

    def branches(method: str) -> int:
        problem = toy.problem(method)
        jaxpr = run_block.trace(problem, init_state(problem), problem.spec.steps).jaxpr.jaxpr  # that of finished()
        loop = next(eqn for eqn in jaxpr.eqns if eqn.primitive.name in ("while", "scan"))
        body = loop.params["body_jaxpr" if loop.primitive.name == "while" else "jaxpr"].jaxpr
        return sum(eqn.primitive.name == "cond" for eqn in body.eqns)

    # One branch at the begin of an outer iteration, and a second one for CAFE, whose iterations may end early.
    assert (branches("dsa"), branches("cafe")) == (1, 2)


def test_specs_of_one_structure_share_a_program() -> None:
    problem = finished("dream_acc_dd")[0]
    before = run_block._cache_size()  # type: ignore[attr-defined]
    other = jax.tree.map(lambda leaf: leaf * jnp.asarray(2, leaf.dtype), problem.spec)  # outer_steps too
    assert other.steps == 2 * problem.spec.steps > 0
    state, _ = run_block(replace(problem, spec=other), init_state(problem), 2)
    assert run_block._cache_size() == before  # type: ignore[attr-defined]
    assert not np.array_equal(state.synthetic.images, init_state(problem).synthetic.images)


# ------------------------------------------------------------------ the optimiser and the labels axis


def test_class_by_class_sgd_is_a_loop_over_classes() -> None:
    rng = np.random.default_rng(0)
    images, gradients = rng.normal(size=(2, 3, 1, 2, 2, 1)).astype(np.float32)
    optimiser, state = ClassByClassSGD(0.1, 0.5), jnp.asarray(rng.normal(size=images.shape), jnp.float32)
    expected, momentum = images.copy(), np.asarray(state).copy()
    for c in range(3):
        momentum *= 0.5
        momentum[c] += gradients[c]
        expected -= 0.1 * momentum
    step = jax.jit(lambda images, state: optimiser.after(gradients, *optimiser.before(images, state, 1.0), 1.0))
    ours, moved = step(jnp.asarray(images), state)
    np.testing.assert_allclose(ours, expected, atol=1e-6)
    np.testing.assert_allclose(moved, momentum, atol=1e-6)


@pytest.mark.slow  # dsa and cim step with SGD and Adam above
@pytest.mark.parametrize("optimiser", [SGD(1e-3), Adam(1e-3, weight_decay=0.1)])
def test_any_optimiser_moves_the_images(optimiser: SGD | Adam) -> None:
    problem = toy.problem("idc", optimiser=optimiser)
    state, losses = run_block(problem, init_state(problem), 2)
    assert np.isfinite(losses[:2]).all()
    assert not np.array_equal(state.synthetic.images, init_state(problem).synthetic.images)


def test_learned_labels_move() -> None:
    objective = TrajectoryMatching(steps=2, rate_lr=1e-7, augment=NoAugment())
    problem = toy.problem("mtt", labels=LearnedLabels(), objective=objective, live=1)
    first = init_state(problem)
    start = first.synthetic.labels
    assert start.shape == (2, 2, 2) and np.array_equal(np.argmax(start, axis=-1), [[0, 0], [1, 1]])
    state = jax.jit(distill.inner_step)(problem, first, jax.random.key(0))  # compiles faster than a block
    assert np.isfinite(state.synthetic.labels).all() and not np.array_equal(state.synthetic.labels, start)
    with pytest.raises(RequestError, match="does not use labels"):
        check(replace(METHODS["dc"], labels=LearnedLabels()), toy.SHAPE, list(toy.COUNTS))
    with pytest.raises(RequestError, match="decode-type single"):
        bound = MultiFormation(2, "bound", bound=5)
        check(replace(METHODS["datm"], ipc=2, parameterisation=bound), toy.SHAPE, list(toy.COUNTS))


def test_only_the_classes_of_a_run_limit_it() -> None:
    spec = replace(METHODS["dm"], ipc=8, classes=(0,))
    check(spec, toy.SHAPE, [9, 7])
    with pytest.raises(RequestError, match=r"class 0 has fewer images \(7\)"):
        check(spec, toy.SHAPE, [7, 9])
    with pytest.raises(RequestError, match="mean is"):
        check(replace(spec, mean=(float("nan"),), std=(1.0,)), toy.SHAPE, [9, 7])
