"""Tests what the steps of a run pass to its choices, with choices that record it: models, keys, rates and images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax.augment import NoAugment, Siamese
from distill_jax.axes.init import Noise
from distill_jax.axes.parameterisation import Pixels
from distill_jax.axes.perturb import NoPerturbation
from distill_jax.contracts import (
    ClassObjective,
    Initialisation,
    ModelSource,
    ModelUpdate,
    Optimiser,
    Perturbation,
    Selector,
    SetObjective,
)
from distill_jax.distill import BEFORE_FIRST, Problem, State, _batches, begin_outer, init_state, matching, run_block
from distill_jax.nets import ConvNet
from distill_jax.run import Keys
from distill_jax.spec import Spec, as_arrays
from distill_jax.types import Array, Model, Net, PyTree, RealData, Synthetic, TrainSet, choice


@choice
class Numbers(ModelSource):
    """Models of a single random number from 0 to 1, with the number of the outer iteration."""

    def sample(self, net: Net, pool: PyTree, live: int, outer: Array | int, key: Array) -> Model:
        return Model({"w": jax.random.uniform(key, (live,))}, {"outer": jnp.full(live, outer)})

    def teachers(self, pool: PyTree) -> Model | None:
        return pool


@choice
class PlusTwo(Perturbation):
    def perturb(self, models: Model, key: Array) -> Model:
        return models._replace(params={"w": models.params["w"] + 2})


@choice
class First(Selector):
    """Selects the first images, and keeps what it is asked with."""

    batch: int = 2

    def init(self, net: Net, teachers: Model | None, data: RealData) -> PyTree:
        return {"inner": jnp.zeros((), jnp.int32), "w": jnp.zeros(()), "drawn": jnp.zeros(())}

    def select(
        self, net: Net, model: Model, data: RealData, memory: PyTree, inner: Array, key: Array
    ) -> tuple[Array, PyTree]:
        rows = jnp.tile(jnp.arange(self.batch), (data.classes, 1))
        return rows, {"inner": inner, "w": model.params["w"], "drawn": jax.random.uniform(key)}


@choice
class Times(ClassObjective):
    """A loss whose gradient by every pixel is the number of the model, or a random number if ``drawn``."""

    drawn: bool = False

    def class_loss(self, net: Net, model: Model, real: Array, syn: Array, c: Array, key: Array) -> Array:
        return (jax.random.uniform(key) if self.drawn else model.params["w"]) * jnp.sum(syn)


@choice
class CountingSGD(Optimiser):
    """Moves by the gradient times outer + 1, and counts its steps."""

    def schedule(self, outer: Array, outer_steps: Array | int) -> Array:
        return (outer + 1).astype(float)

    def init(self, images: Array) -> Array:
        return jnp.zeros((), jnp.int32)

    def after(self, gradients: Array, images: Array, state: Array, scale: Array | float) -> tuple[Array, Array]:
        return images - scale * gradients, state + 1


@choice
class Record(ModelUpdate):
    """Leaves models unchanged and keeps a random number of ``begin``, and of the last update, and its images."""

    uses_synthetic = True

    def begin(self, net: Net, model: Model, data: RealData, key: Array) -> tuple[Model, PyTree]:
        return model, {"begun": jax.random.uniform(key), "drawn": jnp.zeros(()), "shown": jnp.zeros((2, 1, 1, 1))}

    def update(
        self, net: Net, model: Model, state: PyTree, data: RealData, syn: TrainSet, key: Array
    ) -> tuple[Model, PyTree]:
        return model, {"begun": state["begun"], "drawn": jax.random.uniform(key), "shown": syn.images}


@choice
class OfModel(Initialisation):
    """Images that are the number of the model."""

    def images(self, net: Net, model: Model, data: RealData, ipc: int, factor: int, key: Array) -> Array:
        return jnp.broadcast_to(model.params["w"], (2, ipc, 1, 1, 1))


@choice
class OfTeacher(OfModel):
    uses_teacher = True


SPEC = Spec(
    models=Numbers(),
    perturb=PlusTwo(),
    selector=First(),
    parameterisation=Pixels("normalised"),
    augment=NoAugment(),
    objective=Times(),
    optimiser=CountingSGD(),
    update=Record(),
    init=Noise(),
    outer_steps=3,
    inner_steps=2,
    live=2,
    class_chunk=1,
    model_chunk=1,
)


def problem(side: int = 1, **changes: Any) -> Problem:
    """Return a problem of two classes of four real images, image i of which is the constant i."""
    images = np.tile(np.arange(8).reshape(8, 1, 1, 1), (1, side, side, 1))
    data = RealData.from_arrays(images, np.arange(8) // 4, [0], [1 / 255])
    net = ConvNet(1, 1).build((8, 8, 1), 2)
    return Problem(as_arrays(replace(SPEC, **changes)), net, data, None, jax.random.key(0))


@pytest.fixture(scope="module")
def states() -> list[State]:
    """Return the state before the first step and after each of six steps."""
    run, states = problem(), [init_state(problem())]
    for _ in range(6):
        states.append(run_block(run, jax.tree.map(jnp.copy, states[-1]), 1)[0])
    return jax.tree.map(np.asarray, states)


def test_models_and_updates_are_new_and_independent_in_each_outer_iteration(states: list[State]) -> None:
    for name in ("model", "update"):
        numbers = [state.models.params["w"] if name == "model" else state.update["begun"] for state in states[1:]]
        first, second = numbers[::2], numbers[1::2]
        np.testing.assert_array_equal(first, second)
        assert len(np.unique(first)) == 6, name
    assert min(state.models.params["w"].min() for state in states[1:]) >= 2, "models are perturbed"
    assert not states[0].models.params["w"].any(), "the first step samples the first models"
    assert [state.models.stats["outer"].tolist() for state in states[1:]] == [[n, n] for n in (0, 0, 1, 1, 2, 2)]
    assert len(np.unique([state.update["drawn"] for state in states[1:]])) == 12


def test_selections_are_for_the_first_model_and_know_the_inner_step(states: list[State]) -> None:
    for step, state in enumerate(states[1:]):
        assert state.selector["inner"] == step % 2 and state.selector["w"] == state.models.params["w"][0]
    assert len({float(state.selector["drawn"]) for state in states[1:]}) == 6


def test_images_follow_the_mean_gradient_at_the_rate_of_the_outer_iteration(states: list[State]) -> None:
    mean = 0.0
    for step, (before, after) in enumerate(zip(states[:-1], states[1:], strict=True)):
        images, moved = before.synthetic.images, after.synthetic.images
        w, outer, inner = after.models.params["w"].mean(), step // 2, step % 2
        np.testing.assert_allclose(moved, images - (outer + 1) * w, rtol=1e-5, atol=1e-5)
        mean = (inner * mean + w * images.sum()) / (inner + 1)
        np.testing.assert_allclose(after.loss, mean, rtol=1e-5)
        assert after.optimiser.images == step + 1, "the optimiser goes on in the next outer iteration"
        np.testing.assert_allclose(after.update["shown"], [moved.reshape(2, 1, 1, 1)] * 2, rtol=1e-6)


@pytest.mark.parametrize("init", [OfModel(), OfTeacher()])
def test_initial_images_see_the_first_model_or_the_first_teacher(init: OfModel) -> None:
    pool = Model({"w": jnp.asarray([7.0, 8.0])}, {"outer": jnp.zeros(2, jnp.int32)})
    run = replace(problem(init=init, parameterisation=Pixels()), pool=pool)
    state, (key, _) = init_state(run), jax.random.split(jax.random.fold_in(run.root, BEFORE_FIRST))
    first = begin_outer(run, state, key).models.params["w"][0]
    np.testing.assert_array_equal(state.synthetic.images, 7 if init.uses_teacher else first)


def test_initial_images_of_a_normalised_space_are_normalised() -> None:
    run = replace(problem(init=OfTeacher()), pool=Model({"w": jnp.asarray([7.0])}, {}))
    np.testing.assert_allclose(init_state(run).synthetic.images, 7 * 255, rtol=1e-6)


def test_each_phase_of_a_run_has_a_key_of_its_own() -> None:
    keys = [jax.random.key_data(key).tobytes() for seed in (0, 1) for key in Keys.of(seed)]
    assert len(keys) == len(set(keys)) == 8


def test_classes_draw_independently_and_models_alike() -> None:
    run = problem(objective=Times(drawn=True))
    models = Model({"w": jnp.zeros(3)}, {})
    synthetic, rows = Synthetic(jnp.ones((2, 1, 1, 1, 1))), jnp.zeros((2, 2), jnp.int32)
    gradients = jax.jit(jax.vmap(lambda key: matching(run, models, synthetic, rows, key)[1].images.ravel()))
    one, other = np.asarray(gradients(jax.random.split(jax.random.key(0), 400))).T
    # If each model drew for itself, a mean of three draws would deviate by 0.17; a single one deviates by 0.29.
    assert 0.26 < one.std() < 0.32 and abs(np.corrcoef(one, other)[0, 1]) < 0.2


@choice
class TimesAll(SetObjective):
    """A loss of all classes whose gradient by every pixel is the number of the model."""

    def set_loss(self, net: Net, model: Model, real: Array, syn: Synthetic, key: Array) -> Array:
        return model.params["w"] * jnp.sum(syn.images)


def test_the_loss_of_all_classes_is_the_mean_over_models() -> None:
    run, models = problem(objective=TimesAll()), Model({"w": jnp.asarray([1.0, 2.0, 6.0])}, {})
    synthetic, rows = Synthetic(jnp.ones((2, 1, 1, 1, 1))), jnp.zeros((2, 2), jnp.int32)
    loss, gradient = jax.jit(matching)(run, models, synthetic, rows, jax.random.key(0))
    np.testing.assert_allclose([loss, *gradient.images.ravel()], [6, 3, 3], rtol=1e-6)


@choice
class LeaveAfterTwo(ModelUpdate):
    """Is done with the first model after one update and with the second after two."""

    leaves_early = True

    def begin(self, net: Net, model: Model, data: RealData, key: Array) -> tuple[Model, PyTree]:
        return model, {"left": model.stats["number"] + 1}

    def update(
        self, net: Net, model: Model, state: PyTree, data: RealData, syn: TrainSet, key: Array
    ) -> tuple[Model, PyTree]:
        return model, {"left": state["left"] - 1}

    def leave(self, state: PyTree) -> Array:
        return state["left"] <= 0


@choice
class Numbered(Numbers):
    def sample(self, net: Net, pool: PyTree, live: int, outer: Array | int, key: Array) -> Model:
        return Model({"w": jnp.ones(live)}, {"number": jnp.arange(live)})


def test_an_outer_iteration_whose_models_are_all_done_skips_its_other_steps() -> None:
    run = problem(models=Numbered(), perturb=NoPerturbation(), update=LeaveAfterTwo(), inner_steps=4)
    state, moves = init_state(run), []
    for _ in range(8):
        before = np.asarray(state.synthetic.images)
        state, _ = run_block(run, state, 1)
        moves.append(float((before - state.synthetic.images).max()))
    np.testing.assert_allclose(moves, [1, 1, 0, 0, 2, 2, 0, 0], rtol=1e-5)  # the rate doubles in the second iteration
    assert int(state.step) == 8 and int(state.optimiser.images) == 4


def test_a_step_shows_random_decoded_images() -> None:
    run = problem(ipc=4, syn_batch=2)
    images, rows = jnp.arange(4.0).reshape(4, 1, 1, 1), jnp.asarray([3, 1])
    keys = jax.random.split(jax.random.key(0), 600)
    real, syn = jax.jit(jax.vmap(lambda key: _batches(run, images, rows, jnp.asarray(1), key)))(keys)
    np.testing.assert_allclose(real.reshape(600, 2), [[7, 5]] * 600, rtol=1e-6)
    pairs, counts = np.unique(np.sort(np.asarray(syn).reshape(600, 2)), axis=0, return_counts=True)
    assert pairs.tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]
    assert np.abs(counts - 100).max() < 46, "five standard errors"


def test_real_and_synthetic_images_are_augmented_alike() -> None:
    run = problem(8, augment=Siamese("crop"))
    keys, rows, images = jax.random.split(jax.random.key(0), 5), jnp.arange(4), jnp.arange(4.0, 8)
    alike = jnp.tile(images.reshape(4, 1, 1, 1), (1, 8, 8, 1))
    real, syn = jax.jit(jax.vmap(lambda key: _batches(run, alike, rows, jnp.asarray(1), key)))(keys)
    np.testing.assert_allclose(real, syn, atol=1e-5)
    assert len(np.unique(np.asarray(real).reshape(5, -1), axis=0)) > 2
