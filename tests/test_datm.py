"""Tests difficulty-aligned trajectory matching against the released code (golden README, "Newer methods")."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax.augment import NoAugment
from distill_jax.axes.init import CorrectlyClassified, RandomReal
from distill_jax.axes.labels import LearnedLabels, teachers_logits
from distill_jax.axes.models import ExpertTrajectories
from distill_jax.axes.objective import TrajectoryMatching
from distill_jax.axes.optimiser import SGD
from distill_jax.check_spec import check
from distill_jax.distill import Problem, State, init_state, run_block
from distill_jax.methods import DATM, METHODS
from distill_jax.nets import ConvNet, from_torch
from distill_jax.recipes import resolve
from distill_jax.train import Order
from distill_jax.types import Array, Model, Net, RealData, RequestError, TrainSet
from tests import toy
from tests.golden_weights import GOLDEN
from tests.test_paired import Bright


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "newer.npz") as file:
        return {key: file[key] for key in file.files if key.startswith("datm_")}


def network(golden: dict[str, np.ndarray], dtype: str) -> tuple[Net, Model]:
    net = ConvNet(2, 8, dtype=dtype).build((8, 8, 3), 4)  # type: ignore[arg-type]
    shapes = [tuple(int(n) for n in shape if n) for shape in golden["datm_shapes"]]

    def load(flat: np.ndarray) -> Model:
        pieces = np.split(flat.astype(dtype), np.cumsum([np.prod(shape) for shape in shapes])[:-1])
        return from_torch(net, [piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)])

    return net, load(golden["datm_start"])._replace(target=load(golden["datm_target"]).params)


def order_of(golden: dict[str, np.ndarray], dtype: str) -> Order:
    """Return batches of 3, 5 and 3 images."""
    rows, weights = np.zeros((3, 5), np.int32), np.zeros((3, 5), dtype)
    for step in range(3):
        batch = golden[f"datm_batch{step}"]
        rows[step, : len(batch)], weights[step, : len(batch)] = batch, 1
    return Order(jnp.asarray(rows), jnp.asarray(weights))


def loss_and_gradients(golden: dict[str, np.ndarray], dtype: str):
    net, model = network(golden, dtype)
    plain = TrajectoryMatching(augment=NoAugment())

    @jax.jit
    @lambda loss: jax.value_and_grad(loss, argnums=(0, 1, 2))
    def loss(images: Array, logits: Array, rate: Array) -> Array:
        shown = TrainSet(images, jax.nn.softmax(logits))
        return plain.distance(net, model, shown, rate, order_of(golden, dtype), jax.random.key(0))

    arrays = golden["datm_images"].transpose(0, 2, 3, 1), golden["datm_labels"], golden["datm_lr"]
    return loss(*(jnp.asarray(a, dtype) for a in arrays))


def theirs(golden: dict[str, np.ndarray], end: str) -> list[np.ndarray]:
    images, *rest = (golden[f"datm_grad_{what}{end}"] for what in ("images", "labels", "lr"))
    return [images.transpose(0, 2, 3, 1), *rest]


def test_loss_and_its_derivatives(golden: dict[str, np.ndarray]) -> None:
    loss, grads = loss_and_gradients(golden, "float32")
    np.testing.assert_allclose(loss, golden["datm_loss"], rtol=1.1e-5)
    for mine, known in zip(grads, theirs(golden, ""), strict=True):
        np.testing.assert_allclose(mine, known, rtol=0, atol=1.1e-5 * np.abs(known).max())


@pytest.mark.usefixtures("x64")
def test_loss_and_its_derivatives_in_double_precision(golden: dict[str, np.ndarray]) -> None:
    loss, grads = loss_and_gradients(golden, "float64")
    np.testing.assert_allclose(loss, golden["datm_loss_f64"], rtol=1e-9)
    for mine, known in zip(grads, theirs(golden, "_f64"), strict=True):
        np.testing.assert_allclose(mine, known, rtol=0, atol=1e-9 * np.abs(known).max())


def test_a_loss_above_the_threshold_is_skipped(golden: dict[str, np.ndarray]) -> None:
    objective = TrajectoryMatching(threshold=1.0)
    assert objective.skip(jnp.asarray(golden["datm_loss"]))
    assert not replace(objective, threshold=1.1).skip(jnp.asarray(golden["datm_loss"]))
    assert TrajectoryMatching().skip(jnp.asarray(2.0)) is None


@cache
def short_run(threshold: float) -> tuple[Problem, State]:
    """Return a problem with a range of epochs that grows, and the state of its run after two outer iterations."""
    models = ExpertTrajectories(size=2, start=2, ahead=1, grows_from=1, grows_over=1, batch=4, augment=NoAugment())
    objective = TrajectoryMatching(steps=2, rate_lr=1e-7, threshold=threshold, augment=NoAugment())
    problem = toy.problem("datm", models=models, objective=objective, inner_steps=1, live=8)
    return problem, run_block(problem, init_state(problem), 2)[0]


@pytest.mark.parametrize("threshold", [1e-6, pytest.param(1e6, marks=pytest.mark.slow)])
def test_a_skipped_step_changes_nothing(threshold: float) -> None:
    problem, after = short_run(threshold)
    before = init_state(problem)
    changed = [
        not np.array_equal(a, b)
        for a, b in zip(
            jax.tree.leaves((before.synthetic, before.optimiser)),
            jax.tree.leaves((after.synthetic, after.optimiser)),
            strict=True,
        )
    ]
    assert any(changed) == (threshold > 1) and int(after.step) == 2


# ------------------------------------------------------------------ experts and their epochs


def test_the_end_of_the_range_grows(golden: dict[str, np.ndarray]) -> None:
    experts = ExpertTrajectories(start=20, grows_from=10, grows_over=1000)
    found = [int(experts.end(jnp.asarray(outer, jnp.int32))) for outer in golden["datm_upper_it"]]
    np.testing.assert_array_equal(found, golden["datm_upper"])
    assert ExpertTrajectories(start=20).end(jnp.asarray(0)) == 20


def test_epochs_of_an_expert_to_save() -> None:
    assert ExpertTrajectories(start=3, ahead=2).kept == (0, 1, 2, 3, 4)
    assert ExpertTrajectories(start=3, ahead=2, first=1, epochs=9).kept == (1, 2, 3, 4, 9)
    assert ExpertTrajectories(start=3, ahead=2, first=2, epochs=3).kept == (2, 3, 4)


def test_draws_are_from_the_range_of_the_outer_iteration() -> None:
    """Uses a pool whose parameters are their epoch numbers."""
    experts = ExpertTrajectories(size=2, start=6, ahead=3, first=1, grows_from=2, grows_over=4)
    params = jnp.tile(jnp.asarray(experts.kept, jnp.float32), (2, 1))
    pool, seen = Model({"w": params}, {}), {}
    sample = jax.jit(lambda outer, key: experts.sample(None, pool, 200, outer, key))  # type: ignore[arg-type]
    for outer in range(6):
        drawn = sample(jnp.asarray(outer), jax.random.key(outer))
        np.testing.assert_array_equal(drawn.target["w"] - drawn.params["w"], 3)
        seen[outer] = set(np.asarray(drawn.params["w"]).astype(int).tolist())
    assert [seen[outer] for outer in (0, 1, 3)] == [{1}, {1, 2}, {1, 2, 3, 4}]
    assert seen[4] == seen[5] == {1, 2, 3, 4, 5}


def test_a_run_draws_from_a_range_that_grows() -> None:
    problem, later = short_run(1e-6)
    first = toy.begun(problem)
    starts = jax.tree.map(lambda a: np.asarray(a)[:, :2], problem.pool.params)  # [expert, epoch, ...]
    for state, epochs in ((first, {0}), (later, {0, 1})):
        drawn = np.asarray(state.models.params["classifier"]["kernel"])
        apart = np.abs(drawn[:, None, None] - starts["classifier"]["kernel"]).max(axis=(-2, -1))
        live, _, epoch = np.nonzero(apart == 0)
        assert set(live.tolist()) == set(range(8)) and set(epoch.tolist()) == epochs


# ------------------------------------------------------------------ initial images and labels


def test_initial_labels_are_the_logits_of_experts_that_are_right(golden: dict[str, np.ndarray]) -> None:
    logits, known = jnp.asarray(golden["datm_li_logits"]), golden["datm_li_out"]
    found = jax.jit(teachers_logits)(logits, jnp.asarray(golden["datm_li_y"], jnp.int32))
    nobody = np.isnan(known).any(axis=1)
    assert list(np.flatnonzero(nobody)) == [5, 7]
    np.testing.assert_allclose(
        found, np.where(nobody.reshape(-1, 1), np.mean(logits, axis=0), known), rtol=0, atol=1e-6
    )


def test_a_run_begins_with_images_and_labels_of_its_experts() -> None:
    problem, _ = short_run(1e-6)
    state, teachers = init_state(problem), problem.spec.models.teachers(problem.pool)
    shown = state.synthetic.images.reshape(-1, *toy.SHAPE)
    logits = jax.jit(jax.vmap(lambda model: problem.net.apply(model, shown, train=False)[0].logits))(teachers)
    expected = jax.jit(teachers_logits)(logits, jnp.asarray([0, 0, 1, 1]))
    np.testing.assert_allclose(state.synthetic.labels.reshape(4, 2), expected, atol=1e-5)


def test_labels_start_as_sure_of_their_class_and_are_learned_with_momentum() -> None:
    labels = LearnedLabels(lr=0.1, momentum=0.5, confidence=3.0)
    initial = TrainSet(jnp.zeros((4, 1, 1, 1)), jnp.eye(2)[jnp.asarray([0, 0, 1, 1])])
    start = labels.init(None, None, initial)  # type: ignore[arg-type]
    np.testing.assert_array_equal(start, [[[3, 0]] * 2, [[0, 3]] * 2])
    moved, optimiser = start, labels.optimiser()
    state = optimiser.init(moved)
    for _ in range(2):
        step: Any
        step, state = optimiser.update(jnp.ones_like(moved), state, moved)
        moved += step
    np.testing.assert_allclose(moved, start - 0.1 * (1 + 1.5), rtol=1e-6)


@cache
def untrained() -> tuple[Net, Model, RealData, np.ndarray]:
    """Return a network, its model, the toy data and the logits of all their images."""
    net, data = ConvNet(1, 4).build(toy.SHAPE, 2), toy.data()
    model = jax.jit(net.init)(jax.random.key(3))
    logits = jax.jit(lambda x: net.apply(model, data.normaliser.to_network(x), train=False)[0].logits)(data.images)
    return net, model, data, np.asarray(logits)


@pytest.mark.parametrize("ipc", [2, 6])
def test_correct_images_come_first(ipc: int) -> None:
    net, model, data, logits = untrained()
    right = np.argmax(logits, axis=-1) == np.asarray(data.labels)
    drawn = jax.jit(CorrectlyClassified().images, static_argnums=(0, 3, 4))
    images = drawn(net, model, data, ipc, 1, jax.random.key(0))
    sure = np.asarray(jax.nn.softmax(logits))[np.arange(16), np.asarray(data.labels)]
    for c in range(2):
        apart = np.abs(np.asarray(data.images, np.float32)[None] / 255 - np.asarray(images[c])[:, None])
        rows = np.argmin(apart.sum(axis=(2, 3, 4)), axis=1).tolist()
        of_class = np.flatnonzero(np.asarray(data.labels) == c)
        assert len(set(rows)) == ipc and set(rows) <= set(of_class)
        enough = min(ipc, int(right[of_class].sum()))
        assert right[np.asarray(rows[:enough], int)].all()
        rest = [row for row in of_class[np.argsort(-sure[of_class])] if not right[row]][: ipc - enough]
        assert rows[enough:] == rest


def test_correct_images_are_drawn_at_random_and_others_by_their_probability() -> None:
    """The network is right about all images of class 0, and wrong about all of class 1."""
    labels, levels = np.repeat([0, 1], 4), np.asarray([180, 200, 220, 240, 220, 180, 200, 240])
    data = RealData.from_arrays(levels[:, None, None, None], labels, [0.5], [0.5])
    net: Any = Bright()
    drawn = jax.jit(jax.vmap(lambda key: CorrectlyClassified().images(net, net, data, 2, 1, key)))
    shown = np.round(np.asarray(drawn(jax.random.split(jax.random.key(0), 480)))[..., 0, 0, 0] * 255)
    pairs, counts = np.unique(shown[:, 0], axis=0, return_counts=True)
    assert len(pairs) == 12 and np.abs(counts - 40).max() < 5 * np.sqrt(40 * 11 / 12), "five standard errors"
    np.testing.assert_array_equal(shown[:, 1], [[180, 200]] * 480)


# ------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("data", "ipc", "numbers", "batch"),
    [
        ("cifar10", 1, (80, 2, 0, 4, 4, 100, 5, 1e-7, 1.1), 0),
        ("cifar10", 10, (80, 2, 0, 10, 20, 100, 2, 1e-5, 1.0), 0),
        ("cifar10", 50, (80, 2, 0, 20, 40, 1000, 2, 1e-5, 1.0), 0),
        ("cifar10", 1000, (100, 2, 40, 60, 60, 50, 10, 1e-5, 1.0), 1000),
        ("cifar100", 1, (40, 3, 0, 10, 20, 1000, 10, 1e-5, 1.0), 0),
        ("cifar100", 10, (80, 2, 0, 30, 50, 1000, 10, 1e-5, 1.0), 0),
        ("cifar100", 50, (80, 2, 20, 70, 70, 1000, 10, 1e-5, 1.0), 1000),
        ("cifar100", 100, (80, 2, 30, 70, 70, 50, 10, 1e-5, 1.0), 1000),
        ("tiny", 1, (40, 2, 0, 15, 20, 10_000, 10, 1e-4, 1.0), 0),
        ("tiny", 10, (40, 2, 10, 50, 50, 100, 10, 1e-4, 1.0), 500),
        ("tiny", 50, (20, 2, 40, 70, 70, 100, 10, 1e-4, 1.0), 1000),
    ],
)
def test_recipes_have_the_published_numbers(data: str, ipc: int, numbers: tuple[float, ...], batch: int) -> None:
    experiment = resolve("datm", data, ipc=ipc, shape=(64, 64, 3) if data == "tiny" else (32, 32, 3))
    spec, student, experts = experiment.spec, experiment.spec.objective, experiment.spec.models
    assert isinstance(student, TrajectoryMatching) and isinstance(experts, ExpertTrajectories)
    assert isinstance(spec.labels, LearnedLabels) and isinstance(spec.optimiser, SGD)
    lr = spec.optimiser.lr
    ours = (student.steps, experts.ahead, experts.first, experts.grows_from, experts.start, lr)
    assert (*ours, spec.labels.lr, student.rate_lr, student.threshold) == numbers
    assert (student.batch, experts.size, student.rate) == (batch, 100, 0.01)
    assert (spec.labels.momentum, experts.epochs, experts.batch, spec.outer_steps) == (0.9, 100, 256, 10_000)
    assert (experiment.protocol.name, experiment.protocol.batch) == ("datm", 128)
    real = (data, ipc) == ("cifar100", 50)
    assert type(spec.init) is (RandomReal if real else CorrectlyClassified)


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (replace(DATM, models=ExpertTrajectories(first=20)), "models.first"),
        (replace(DATM, models=ExpertTrajectories(grows_from=21)), "models.grows_from"),
        (replace(DATM, models=ExpertTrajectories(grows_over=0)), "models.grows_over"),
        (replace(DATM, models=ExpertTrajectories(epochs=-1)), "models.epochs"),
        (replace(DATM, objective=TrajectoryMatching(threshold=-1.0)), "objective.threshold"),
        (replace(DATM, labels=LearnedLabels(start="where")), "labels.start"),
        (
            replace(METHODS["rat_bptt"], labels=LearnedLabels(start="teachers")),
            "labels.start teachers needs a trained network",
        ),
        (replace(METHODS["dc"], init=CorrectlyClassified()), "init CorrectlyClassified needs a trained network"),
    ],
)
def test_bad_input(spec, field: str) -> None:
    with pytest.raises(RequestError, match=field):
        check(spec, toy.SHAPE, [900, 900])
