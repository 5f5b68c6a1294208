"""Tests the algorithm: the golden sweep, and what steps carry and refuse (whole runs: integration/test_presets.py)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax import distill
from distill_jax.augment import NoAugment
from distill_jax.axes.labels import LearnedLabels
from distill_jax.axes.objective import GradientMatching, TrajectoryMatching
from distill_jax.axes.optimiser import ClassByClassSGD
from distill_jax.axes.parameterisation import MultiFormation
from distill_jax.axes.update import Frozen
from distill_jax.check_spec import check
from distill_jax.distill import Problem, init_state, matching, run_block
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


# ------------------------------------------------------------------ no method pays for the needs of another


def test_no_method_carries_state_that_only_others_need() -> None:
    state = jax.eval_shape(init_state, toy.problem("acc_dd"))
    paths = {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)}
    assert not [path for path in paths if "labels" in path or "learnable" in path or ".update.images" in path]
    assert any("learnable" in jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(
        jax.eval_shape(init_state, toy.problem("mtt"))))  # fmt: skip

    def branches(method: str) -> int:
        problem = toy.problem(method)
        jaxpr = run_block.trace(problem, init_state(problem), problem.spec.steps).jaxpr.jaxpr
        loop = next(eqn for eqn in jaxpr.eqns if eqn.primitive.name in ("while", "scan"))
        body = loop.params["body_jaxpr" if loop.primitive.name == "while" else "jaxpr"].jaxpr
        return sum(eqn.primitive.name == "cond" for eqn in body.eqns)

    # One branch at the begin of an outer iteration, and a second one for CAFE, whose iterations may end early.
    assert (branches("dsa"), branches("cafe")) == (1, 2)


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


def test_learned_labels_move() -> None:
    objective = TrajectoryMatching(steps=2, rate_lr=1e-7, augment=NoAugment())
    problem = toy.problem("mtt", labels=LearnedLabels(), objective=objective, live=1)
    first = init_state(problem)
    start = first.synthetic.labels
    assert start.shape == (2, 2, 2) and np.array_equal(np.argmax(start, axis=-1), [[0, 0], [1, 1]])
    state = jax.jit(distill.inner_step)(problem, toy.begun(problem), jax.random.key(0))  # compiles faster than a block
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
