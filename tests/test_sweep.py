"""Tests that a sweep computes what its runs compute one by one."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax import distill, sweep, tree
from distill_jax.augment import NoAugment
from distill_jax.axes.init import Mix
from distill_jax.axes.labels import LearnedLabels, SoftLabels
from distill_jax.axes.models import EarlyStagePool
from distill_jax.axes.optimiser import ClassByClassSGD
from distill_jax.axes.parameterisation import MultiFormation, Pixels
from distill_jax.axes.perturb import Directions, NoPerturbation
from distill_jax.axes.selector import RandomBatch
from distill_jax.axes.update import TrainOnReal
from distill_jax.contracts import ClassObjective, Parameterisation
from distill_jax.data import Dataset
from distill_jax.distill import Problem
from distill_jax.nets import ConvNet
from distill_jax.platform import compiled_for
from distill_jax.run import Block, distilled_set
from distill_jax.spec import Spec, as_arrays
from distill_jax.types import Array, Model, Net, RealData, RequestError, choice


@choice
class WithSpread(ClassObjective):
    """A plug-in: the distance of the mean features, plus ``spread`` times the distance of their mean squares."""

    spread: float = 0.0

    def class_loss(self, net: Net, model: Model, real: Array, syn: Array, c: Array, key: Array) -> Array:
        ours, theirs = (net.apply(model, x, train=True)[0].embedding for x in (syn, real))
        means = jnp.sum((jnp.mean(ours, axis=0) - jnp.mean(theirs, axis=0)) ** 2)
        return means + self.spread * (jnp.mean(ours**2) - jnp.mean(theirs**2)) ** 2


SPEC = Spec(
    models=EarlyStagePool(size=2),
    selector=RandomBatch(4),
    parameterisation=Pixels(),
    augment=NoAugment(),
    objective=WithSpread(),
    optimiser=ClassByClassSGD(0.01),
    update=TrainOnReal(images=4, batch=4, cutmix=0.0, augment=NoAugment()),
    init=Mix(),
    net=ConvNet(depth=1, width=4),
    outer_steps=2,
    inner_steps=2,
    class_chunk=1,
    model_chunk=1,
)
STILL = replace(SPEC, perturb=NoPerturbation())
ROOTS = [jax.random.key(0), jax.random.key(1)]


def problem(spec: Spec = SPEC) -> Problem:
    """Return a problem with two classes of random 8x8 images and a pool of random models."""
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 1), np.uint8)
    net = spec.net.build((8, 8, 1), 2)
    pool = jax.lax.map(net.init, jax.random.split(jax.random.key(2), 2))
    data = RealData.from_arrays(images, np.arange(12) % 2, [0.5], [0.25])
    return Problem(as_arrays(spec), net, data, pool, jax.random.key(0))


training_sets = jax.jit(sweep.training_sets, static_argnames="repeats")


def swept(base: Problem, specs: list[Spec], roots: list[Array], chunk: int) -> tuple[distill.State, np.ndarray]:
    """Return the final states of all points, and their losses [S, steps]."""
    points = sweep.stacked(base, specs, roots)
    blocks: list[Block] = []
    states = sweep.run(points, sweep.init_states(points, chunk), [blocks.append], chunk=chunk)
    return states, np.concatenate([block.losses for block in blocks], axis=1)


def alone(spec: Spec, root: Array) -> tuple[distill.State, np.ndarray]:
    """Return the final state of a single run, and its losses [steps]."""
    one = replace(problem(spec), root=root)
    state, losses = distill.run_block(one, distill.init_state(one), 4)
    return state, np.asarray(losses)[:4]


def test_specs_of_every_combination():
    specs = sweep.specs_of(SPEC, {"perturb.max": [0.0, 0.1], "optimiser.lr": [1.0, 2.0, 3.0]})
    points = [(s.perturb.max, s.optimiser.lr) for s in specs]  # type: ignore[attr-defined]
    assert points == [(a, b) for a in (0.0, 0.1) for b in (1.0, 2.0, 3.0)]
    assert sweep.specs_of(SPEC, {}) == [SPEC]
    for path, said in (
        ("perturb.mx", "did you mean perturb.max"),
        ("optimiser.momentun", "did you mean optimiser.momentum"),
        ("update.optimiser.lrr", "did you mean update.optimiser.lr"),
        ("outer_step", "did you mean outer_steps"),
        ("objective.rate", "add --objective trajectory"),
    ):
        for look in (sweep.field_at, sweep.is_traced):
            with pytest.raises(RequestError, match=f"{path} is unknown: {said}") as error:
                look(SPEC, path)
            assert "\n" not in str(error.value)
    with pytest.raises(RequestError, match="repeated value"):
        sweep.specs_of(SPEC, {"optimiser.lr": [1.0, 1.0]})


def test_the_fields_in_which_points_of_one_program_may_differ():
    plugged = replace(SPEC, objective=WithSpread())
    for path in ("perturb.max", "perturb.min", "optimiser.lr", "update.optimiser.weight_decay", "objective.spread"):
        assert sweep.is_traced(plugged, path), path
    # Excluded are shapes, the training options of the shared pool, the number of steps, and structure.
    shared = ("models.optimiser.lr", "outer_steps")
    for path in ("ipc", "update.cutmix", "update.images", "perturb.count", "perturb.norm", *shared):
        assert not sweep.is_traced(plugged, path), path
    assert not sweep.is_traced(plugged, "objective")


def test_points_have_one_structure_even_if_numbers_are_integers():
    base = problem()
    points = sweep.stacked(base, sweep.specs_of(SPEC, {"optimiser.lr": [1, 2.5]}), ROOTS)
    dtypes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), base.spec)
    assert jax.tree.map(lambda leaf: (leaf.shape[1:], leaf.dtype), points.spec) == dtypes
    assert points.spec.optimiser.lr.tolist() == [1, 1, 2.5, 2.5]  # type: ignore[attr-defined]
    assert points.spec.steps == SPEC.steps


def test_points_compute_what_single_runs_compute(monkeypatch: pytest.MonkeyPatch):
    traces = []
    step = distill.inner_step
    monkeypatch.setattr(distill, "inner_step", lambda *args: traces.append(1) or step(*args))
    specs = sweep.specs_of(SPEC, {"perturb.max": [0.0, 0.3]})

    mapped, losses = swept(problem(), specs, ROOTS, chunk=1)  # three blocks: one step, one step, and the rest
    assert len(traces) == 1
    vmapped, same = swept(problem(), specs, ROOTS, chunk=4)
    assert mapped.step.tolist() == [4] * 4 and losses.shape == (4, 4)
    images = mapped.synthetic.images
    np.testing.assert_allclose(vmapped.synthetic.images, images, atol=1e-6)
    np.testing.assert_allclose(same, losses, rtol=1e-5)
    assert np.abs(images[0] - images[2]).max() > 1e-6  # perturbation has an effect

    for i, root in enumerate(ROOTS):
        state, of_one = alone(STILL, root)
        np.testing.assert_allclose(images[i], state.synthetic.images, atol=1e-7)
        np.testing.assert_allclose(losses[i, -1], of_one[3], rtol=1e-6)


@pytest.mark.slow  # test_ablate.py sweeps one by its runner
def test_numbers_of_a_plug_in_are_swept_in_one_program():
    base = replace(SPEC, objective=WithSpread(), perturb=Directions(max=0.3))
    specs = sweep.specs_of(base, {"perturb.max": [0.0, 0.3], "objective.spread": [0.0, 2.0]})
    compiled = sweep.run_block._cache_size()  # type: ignore[attr-defined]
    for chunk, programs in ((1, 1), (4, 2)):
        states, losses = swept(problem(base), specs, [ROOTS[0]], chunk)
        assert sweep.run_block._cache_size() - compiled == programs  # type: ignore[attr-defined]
        for i, spec in enumerate(specs):
            state, of_one = alone(spec, ROOTS[0])
            np.testing.assert_allclose(states.synthetic.images[i], state.synthetic.images, atol=1e-6)
            np.testing.assert_allclose(losses[i], of_one, rtol=1e-5)
        first, *others = np.asarray(states.synthetic.images)
        assert all(np.abs(first - other).max() > 1e-6 for other in others)  # both numbers have an effect
    # Other numbers use the same program.
    swept(problem(base), sweep.specs_of(base, {"objective.spread": [1.0, 3.0, 4.0, 5.0]}), [ROOTS[1]], 1)
    assert sweep.run_block._cache_size() - compiled == 2  # type: ignore[attr-defined]


def test_training_sets_are_point_by_point():
    base = problem(STILL)
    points = sweep.stacked(base, sweep.specs_of(STILL, {"optimiser.lr": [0.1, 0.2]}), [base.root])
    states = sweep.init_states(points, 1)
    images = states.synthetic.images.at[1].set(0.0)
    sets = training_sets(points, states._replace(synthetic=states.synthetic._replace(images=images)), repeats=3)
    assert sets.rows.tolist() == [[0, 1]] * 3 + [[2, 3]] * 3
    np.testing.assert_allclose(sets.store.images[2:], -2.0)  # black, in network space
    np.testing.assert_array_equal(sets.store.targets, [[1, 0], [0, 1]] * 2)


def test_training_sets_have_the_labels_and_all_cells_of_the_saved_set() -> None:
    """Soft labels come from the pool's networks. The bound of 'bound' holds for matching, not for evaluation."""
    bound = MultiFormation(2, "bound", bound=3)
    soft = problem(replace(STILL, labels=SoftLabels(), parameterisation=bound))
    learned = problem(replace(STILL, labels=LearnedLabels(), ipc=2))
    images = np.zeros((1, 8, 8, 1), np.uint8)
    data = Dataset.from_arrays("toy", np.repeat(images, 2, 0), np.arange(2), np.repeat(images, 2, 0), np.arange(2))
    for one in (learned, soft):
        problems = sweep.stacked(one, [one.spec], [one.root])
        states = sweep.init_states(problems)
        found = sweep.training_sets(problems, states, repeats=1).store
        made = distilled_set(one, data, jax.tree.map(lambda a: a[0], states), {})
        np.testing.assert_allclose(found.images, made.arrays()[0], atol=1e-6)
        np.testing.assert_allclose(found.targets, made.targets(), atol=1e-6)
    assert len(made.arrays()[0]) == 8 and made.targets().min() > 0


@choice
class LearnsAScalar(WithSpread):
    """A plug-in with a learned scalar that is no learning rate unless ``is_rate``."""

    is_rate: bool = False
    start: float = 0.5

    def learnable(self) -> Array:
        return jnp.asarray(self.start, jnp.float32)

    def learned_rate(self, learnable: Array) -> Array | None:
        return learnable if self.is_rate else super().learned_rate(learnable)


def test_a_learned_scalar_is_a_rate_only_if_the_objective_says_so():
    rate, other = (replace(STILL, objective=LearnsAScalar(is_rate=is_rate)) for is_rate in (True, False))
    of_rate, of_other = (
        sweep.stacked(problem(spec), sweep.specs_of(spec, {"objective.start": [0.5, 0.25]}), ROOTS[:1])
        for spec in (rate, other)
    )
    states = sweep.init_states(of_rate, 1)
    assert np.asarray(training_sets(of_rate, states, 2).rates).tolist() == [0.5, 0.5, 0.25, 0.25]
    assert training_sets(of_other, states, 2).rates is None


def test_points_that_advance_at_once_together_match_as_many_pixels_as_fill_an_accelerator() -> None:
    points = sweep.stacked(problem(), [SPEC] * 9, ROOTS)  # 18 points, each with a class of 4 + 1 images of 8x8
    wide = replace(points, data=points.data._replace(images=jnp.zeros((12, 128, 128, 1), jnp.uint8)))
    assert sweep.automatic_chunk(points) == 1
    with compiled_for("gpu"):
        assert sweep.automatic_chunk(points) == 6  # at most MOST_AT_ONCE, and a divisor of 18
        assert sweep.automatic_chunk(wide) == 6
        full = replace(wide, spec=replace(wide.spec, class_chunk=2, selector=RandomBatch(16)))
        assert sweep.automatic_chunk(full) == 1
        live = replace(wide, spec=replace(wide.spec, model_chunk=3))
        assert sweep.automatic_chunk(live) == 2
    with compiled_for("tpu"):
        assert sweep.automatic_chunk(wide) == 1


@pytest.mark.parametrize("length, most, chunk", [(18, 8, 6), (18, 100, 18), (7, 3, 3), (9, 5, 3), (5, 0, 1)])
def test_a_chunk_divides_the_length_if_a_divisor_is_near(length: int, most: int, chunk: int) -> None:
    assert tree.chunk_within(length, most) == chunk


@choice
class Brighter(Parameterisation):
    """A plug-in whose decoding depends on a number."""

    gain: float = 1.0

    def decode(self, images: Array) -> Array:
        return self.gain * images


def test_points_that_decode_differently_are_scored_on_their_own_images() -> None:
    specs = sweep.specs_of(replace(STILL, parameterisation=Brighter()), {"parameterisation.gain": [0.5, 1.0]})
    base = problem(specs[0])
    points = sweep.stacked(base, specs, ROOTS)
    states = sweep.init_states(points)
    sets = training_sets(points, states, repeats=1)
    pixels = base.data.normaliser.to_pixel(sets.store.images[sets.rows])
    chosen = states.synthetic.images.reshape(pixels.shape)
    gains = jnp.asarray([0.5, 0.5, 1.0, 1.0]).reshape(-1, 1, 1, 1, 1)
    # Normalising and back costs a few rounding errors of numbers up to 2.
    np.testing.assert_allclose(pixels, gains * chosen, atol=1e-6)
