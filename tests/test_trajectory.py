"""Tests trajectory matching against the released code (golden README, section 11), and its settings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax.augment import NoAugment, Siamese
from distill_jax.axes.models import EarlyStagePool, ExpertTrajectories, RandomInit
from distill_jax.axes.objective import TrajectoryMatching
from distill_jax.axes.perturb import Directions
from distill_jax.check_spec import check
from distill_jax.methods import DSA, MTT
from distill_jax.nets import ConvNet, from_torch
from distill_jax.recipes import resolve
from distill_jax.run import with_chunks
from distill_jax.train import NetworkSGD, Order, Pipeline
from distill_jax.types import Array, Model, Net, RequestError, Synthetic, TrainSet
from tests import toy
from tests.golden_weights import GOLDEN, cifar_normalised

SHAPE = (8, 8, 3)
PLAIN = TrajectoryMatching(augment=NoAugment())


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "mtt.npz") as file:
        return dict(file)


def start(golden: dict[str, np.ndarray], dtype: str) -> tuple[Net, Model]:
    """Return the network at theta_0 and its target."""
    net = ConvNet(2, 8, dtype=dtype).build(SHAPE, 4)  # type: ignore[arg-type]
    shapes = [tuple(int(n) for n in shape if n) for shape in golden["shapes"]]

    def load(flat: np.ndarray) -> Model:
        pieces = np.split(flat.astype(dtype), np.cumsum([np.prod(shape) for shape in shapes])[:-1])
        return from_torch(net, [piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)])

    return net, load(golden["theta0"])._replace(target=load(golden["target"]).params)


def order_of(indices: np.ndarray) -> Order:
    """Return the order of steps that see exactly these images; -1 is padding."""
    return Order(jnp.asarray(np.maximum(indices, 0), jnp.int32), jnp.asarray(indices >= 0, jnp.float32))


def loss_and_gradients(golden: dict[str, np.ndarray], case: str, dtype: str) -> tuple[Array, tuple[Array, Array]]:
    net, model = start(golden, dtype)
    targets = jax.nn.one_hot(golden["label"], 4, dtype=dtype)
    order = order_of(golden[f"{case}__indices"])

    @jax.jit
    @lambda loss: jax.value_and_grad(loss, argnums=(0, 1))
    def loss(images: Array, rate: Array) -> Array:
        return PLAIN.distance(net, model, TrainSet(images, targets), rate, order, jax.random.key(0))

    return loss(jnp.asarray(cifar_normalised(golden["syn_u8"]), dtype), jnp.asarray(golden[f"{case}__lr"], dtype))


@pytest.mark.parametrize("case", [pytest.param("full20", marks=pytest.mark.slow), "mini3"])
def test_loss_and_its_derivatives(golden: dict[str, np.ndarray], case: str) -> None:
    loss, (d_images, d_rate) = loss_and_gradients(golden, case, "float32")
    np.testing.assert_allclose(loss, golden[f"{case}__loss"], rtol=2e-6)
    np.testing.assert_allclose(d_rate, golden[f"{case}__dlr"], rtol=2e-6)
    theirs = golden[f"{case}__dsyn"].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(d_images, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "case", ["mini3", *(pytest.param(c, marks=pytest.mark.slow) for c in ("full", "full20", "mini"))]
)
def test_loss_and_its_derivatives_in_double_precision(golden: dict[str, np.ndarray], case: str) -> None:
    loss, (d_images, d_rate) = loss_and_gradients(golden, case, "float64")
    np.testing.assert_allclose(loss, golden[f"{case}__loss_f64"], rtol=1e-10)
    np.testing.assert_allclose(d_rate, golden[f"{case}__dlr_f64"], rtol=1e-9)
    theirs = golden[f"{case}__dsyn_f64"].transpose(0, 2, 3, 1)  # stored in float32
    np.testing.assert_allclose(d_images, theirs, rtol=0, atol=2e-7 * np.abs(theirs).max())


def test_the_student_takes_as_many_steps_as_asked() -> None:
    """Takes five steps with three of eight images. Three steps show all eight, so the fourth step starts a second
    epoch.
    """
    net = ConvNet(1, 2).build((4, 4, 1), 4)
    model = jax.jit(net.init)(jax.random.key(0))
    model = model._replace(target=jax.tree.map(lambda a: a + 1, model.params))
    images = jax.random.normal(jax.random.key(1), (4, 2, 4, 4, 1))

    @jax.jit
    @lambda loss: jax.value_and_grad(loss, argnums=(0, 1))
    def loss(images: Array, rate: Array) -> Array:
        objective = TrajectoryMatching(steps=5, batch=3, augment=NoAugment())
        return objective.set_loss(net, model, images[:, :0], Synthetic(images, learnable=rate), jax.random.key(2))

    unmoved, _ = loss(images, jnp.zeros(()))
    assert unmoved == 1
    moved, (d_images, d_rate) = loss(images, jnp.asarray(0.1, jnp.float32))  # a weak type would compile again
    assert 0 < moved != 1 and d_rate != 0
    assert np.all(np.abs(d_images).sum(axis=(2, 3, 4)) > 0), "an epoch shows every image"


def test_the_steps_of_the_student_show_all_images_in_a_new_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three steps show all of eight images, and two steps begin a second epoch."""
    asked: list[tuple[TrainSet, Order, Pipeline]] = []

    def train(net, model, optimiser, state, syn, order, pipeline, key, remat):
        asked.append((syn, order, pipeline))
        return model, state, None

    monkeypatch.setattr("distill_jax.axes.objective.trajectory.train", train)
    model = Model({"w": jnp.zeros(2)}, {}, {"w": jnp.ones(2)})
    synthetic = Synthetic(jnp.arange(8.0).reshape(4, 2, 1, 1, 1), learnable=jnp.asarray(0.1))
    objective = TrajectoryMatching(steps=5, batch=3, augment=Siamese("flip"))

    @jax.jit
    def drawn(key: Array) -> tuple[TrainSet, Order]:
        objective.set_loss(None, model, synthetic.images[:, :0], synthetic, key)  # type: ignore[arg-type]
        return asked[0][:2]

    draws = [drawn(key) for key in jax.random.split(jax.random.key(0), 2)]
    (_, _, pipeline), *others = asked
    assert not others, "one trace"
    for syn, order in draws:
        np.testing.assert_array_equal(syn.images.ravel(), np.arange(8))
        np.testing.assert_array_equal(syn.targets, np.repeat(np.eye(4), 2, axis=0))
        np.testing.assert_array_equal(np.sort(order.rows[:3].ravel()[:8]), np.arange(8))
        np.testing.assert_array_equal(order.weights, [[1, 1, 1], [1, 1, 1], [1, 1, 0], [1, 1, 1], [1, 1, 1]])
        assert len(set(np.asarray(order.rows[3:]).ravel().tolist())) == 6 and pipeline == Pipeline(
            3, 0.0, Siamese("flip")
        )
    orders = [np.asarray(order.rows)[first : first + 2] for _, order in draws for first in (0, 3)]
    assert len({rows.tobytes() for rows in orders}) == 4


def test_the_learning_rate_of_the_student_is_learned_with_momentum() -> None:
    objective = TrajectoryMatching(rate=0.5, rate_lr=0.1, rate_momentum=0.5)
    rate, optimiser = objective.learnable(), objective.learnable_optimiser()
    state = optimiser.init(rate)
    for _ in range(2):
        step: Any
        step, state = optimiser.update(jnp.ones(()), state, rate)
        rate += step
    np.testing.assert_allclose(rate, 0.5 - 0.1 * (1 + 1.5), rtol=1e-6)


# ------------------------------------------------------------------ choices


def test_targets_and_objectives_must_match() -> None:
    for models in (RandomInit(), EarlyStagePool()):
        with pytest.raises(RequestError, match="objective TrajectoryMatching .* models .* none"):
            check(replace(MTT, models=models), toy.SHAPE, [9, 9])
    for models in (ExpertTrajectories(), EarlyStagePool(ahead=1)):
        with pytest.raises(RequestError, match="models .* objective GradientMatching does not use"):
            check(replace(DSA, models=models), toy.SHAPE, [9, 9])
    check(replace(MTT, models=EarlyStagePool(ahead=1), perturb=Directions(), net=ConvNet(1, 2)), toy.SHAPE, [9, 9])


def test_recipe_gives_early_stage_start_points_a_target() -> None:
    experiment = resolve("mtt", "digits", shape=toy.SHAPE, axes={"models": EarlyStagePool()})
    check(with_chunks(experiment.spec, toy.SHAPE, 10, "cpu"), toy.SHAPE, [9] * 10)


@pytest.mark.parametrize(
    ("recipe", "ipc", "numbers"),
    [
        ("cifar10", 1, (50, 2, 2, 100, 0.01, 1e-7, 0)),
        ("cifar10", 50, (30, 2, 40, 1000, 0.001, 1e-5, 0)),
        ("cifar100", 1, (20, 3, 20, 1000, 0.01, 1e-5, 0)),
        ("cifar100", 50, (80, 2, 40, 1000, 0.01, 1e-5, 125)),
        ("tiny", 10, (20, 2, 40, 10_000, 0.01, 1e-4, 200)),
    ],
)
def test_recipes_have_the_published_numbers(recipe: str, ipc: int, numbers: tuple[float, ...]) -> None:
    spec = resolve("mtt", recipe, ipc=ipc).spec
    student, experts, lr = spec.objective, spec.models, spec.optimiser.lr  # type: ignore[attr-defined]
    assert isinstance(student, TrajectoryMatching) and isinstance(experts, ExpertTrajectories)
    ours = (student.steps, experts.ahead, experts.start, lr, student.rate, student.rate_lr, student.batch)
    assert ours == numbers
    assert experts.optimiser == NetworkSGD(0.01, 0.0, 0.0)
    assert (experts.batch, spec.outer_steps, spec.inner_steps, spec.syn_batch) == (256, 5000, 1, 0)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: TrajectoryMatching(steps=0), "steps"),
        (lambda: TrajectoryMatching(batch=-1), "batch"),
        (lambda: ExpertTrajectories(size=0), "size"),
        (lambda: ExpertTrajectories(start=0), "start"),
        (lambda: ExpertTrajectories(ahead=0), "ahead"),
        (lambda: EarlyStagePool(ahead=-1), "ahead"),
    ],
)
def test_bad_input(make, field: str) -> None:
    with pytest.raises(RequestError, match=field):
        make().validate()
