"""Tests NCFM against the released code (golden README, "Newer methods"), and its combination with other choices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax.augment import NoAugment
from distill_jax.axes.models import InterpolatedPool, RandomInit, interpolated
from distill_jax.axes.objective import CalibratedCharacteristic, CharacteristicFunction, FeatureMatching
from distill_jax.axes.objective.characteristic import calibration_loss, characteristic, parts
from distill_jax.axes.optimiser import SGD, Adam, ClassByClassAdam
from distill_jax.axes.parameterisation import MultiFormation
from distill_jax.axes.perturb import Directions
from distill_jax.axes.selector import Representative
from distill_jax.check_spec import check
from distill_jax.cli.request.arguments import Common, parse
from distill_jax.distill import init_state, run_block
from distill_jax.methods import METHODS
from distill_jax.nets import ConvNet, from_torch
from distill_jax.run import no_tick
from distill_jax.types import Array, Model, Net, Normaliser, RequestError
from tests import toy
from tests.golden_weights import CIFAR_MEAN, CIFAR_STD, cifar_normalised, golden_figures

SHAPE, CLASSES, IPC = (16, 16, 3), 3, 2
FIGURES = golden_figures("newer")
DECODER = MultiFormation(2)


def nhwc(images: np.ndarray) -> np.ndarray:
    return np.moveaxis(images, -3, -1)


def close(ours, theirs: np.ndarray, tolerance: float) -> None:
    """Compare with a tolerance relative to the largest entry."""
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


def network(dtype: str, theta: str) -> tuple[Net, Model]:
    net = ConvNet(2, 8, dtype=dtype).build(SHAPE, CLASSES)  # type: ignore[arg-type]
    shapes = [tuple(int(n) for n in shape if n) for shape in FIGURES["ncfm_shapes"]]
    ends = np.cumsum([np.prod(shape) for shape in shapes])[:-1]
    pieces = np.split(FIGURES[f"ncfm_theta_{theta}"].astype(dtype), ends)
    model = from_torch(net, [piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)])
    return net, jax.tree.map(lambda a: np.asarray(a, dtype), model)


def frequencies(iteration: int, c: int, dtype: str) -> np.ndarray:
    """Reorder the golden frequencies, which are for features flattened as (C, H, W)."""
    t = FIGURES["ncfm_loop_t"][iteration, c].astype(dtype)
    return t.reshape(len(t), 8, 4, 4).transpose(0, 2, 3, 1).reshape(t.shape)


@pytest.fixture(params=[("float64", "_f64", 1e-9), ("float32", "", 2.4e-5)], ids=lambda param: param[0])
def precision(request: pytest.FixtureRequest) -> Iterator[tuple[str, str, float]]:
    """Return (dtype, suffix of the figures, tolerance)."""
    with jax.enable_x64(request.param[0] == "float64"):
        yield request.param


@pytest.mark.parametrize(("case", "weights"), [("", (0.5, 0.5)), ("_a9", (0.9, 0.1))])
def test_distance_of_features_golden(precision: tuple[str, str, float], case: str, weights) -> None:
    dtype, suffix, tolerance = precision
    real, syn, t = (jnp.asarray(FIGURES[f"ncfm_{name}"], dtype) for name in ("feat_real", "feat_syn", "t"))
    objective = CharacteristicFunction(amplitude=weights[0], phase=weights[1])
    loss, grad = jax.jit(jax.value_and_grad(lambda syn: objective.distance(real, syn, t)))(syn)
    close(loss, FIGURES[f"ncfm_loss{case}{suffix}"], tolerance)
    close(grad, FIGURES[f"ncfm_grad_feat{case}{suffix}"], tolerance)
    for features, name in ((real, "real"), (syn, "syn")):
        of = jax.jit(characteristic)(features, t)
        close(of.cos, FIGURES[f"ncfm_cos_{name}{suffix}"], tolerance)
        close(of.sin, FIGURES[f"ncfm_sin_{name}{suffix}"], tolerance)


@pytest.mark.usefixtures("x64")
def test_the_two_parts_are_the_distance_of_complex_numbers() -> None:
    rng = np.random.default_rng(0)
    t = jnp.asarray(rng.normal(size=(20, 6)))
    features = [jnp.asarray(rng.normal(size=(n, 6))) for n in (5, 9)]
    a, b = (jax.jit(characteristic)(of, t) for of in features)
    x, y = (np.asarray(of.cos) + 1j * np.asarray(of.sin) for of in (a, b))
    amplitude, phase = jax.jit(parts)(a, b)
    np.testing.assert_allclose(amplitude + phase, np.abs(x - y) ** 2, rtol=1e-9)
    np.testing.assert_allclose(phase, 2 * (np.abs(x * y) - (x * y.conj()).real), rtol=1e-9)


@pytest.mark.usefixtures("x64")
def test_equal_sets_golden() -> None:
    real, t = (jnp.asarray(FIGURES[f"ncfm_{name}"], jnp.float64) for name in ("feat_real", "t"))
    loss, grad = jax.jit(jax.value_and_grad(lambda syn: CharacteristicFunction().distance(real, syn, t)))(real[::-1])
    np.testing.assert_allclose(loss, FIGURES["ncfm_same_loss_f64"], rtol=1e-9)
    assert np.abs(grad).max() < 1e-9


def test_a_network_on_the_line_golden() -> None:
    ends = jax.tree.map(lambda *a: np.stack(a), *(network("float32", end)[1].params for end in ("init", "trained")))
    mid = jax.jit(interpolated)(ends, FIGURES["ncfm_lambda"][0])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), mid, network("float32", "mid")[1].params)


@cache
def losses(dtype: str, calibrating: bool):
    """Return a function (packed images [I, H, W, c], class, iteration) -> loss after decoding, and its gradient."""
    net, model = network(dtype, "mid")
    model = model._replace(target=network(dtype, "trained")[1].params)
    normaliser = Normaliser(*(jnp.asarray(a).astype(dtype) for a in (CIFAR_MEAN, CIFAR_STD)))

    def loss(images: Array, c: int, real: Array, t: Array) -> Array:
        syn = normaliser.to_network(DECODER.decode(images))
        if calibrating:
            return calibration_loss(net, model, syn, jnp.asarray(c))
        theirs, ours = (net.apply(model, x, True)[0].embedding for x in (real, syn))
        return CharacteristicFunction().distance(theirs, ours, t)

    compiled = jax.jit(jax.value_and_grad(loss))

    def evaluate(images, c: int, iteration: int):
        real = cifar_normalised(FIGURES["ncfm_real_u8"][iteration, c]).astype(dtype)
        return compiled(jnp.asarray(images), c, real, frequencies(iteration, c, dtype))

    return evaluate


def test_loss_and_gradient_through_the_network_golden(precision: tuple[str, str, float]) -> None:
    dtype, suffix, tolerance = precision
    images = nhwc(FIGURES["ncfm_packed"]).astype(dtype).reshape(CLASSES, IPC, *SHAPE)[1]
    tolerance = max(tolerance, 1e-7)  # the golden inputs were normalised in float32
    for calibrating, name in ((False, "img"), (True, "calib")):
        loss, grad = losses(dtype, calibrating)(images, 1, 0)
        close(loss, FIGURES[f"ncfm_{name}_loss{suffix}"], tolerance)
        close(grad, nhwc(FIGURES[f"ncfm_{name}_grad{suffix}"]), tolerance)


@pytest.mark.parametrize(
    ("name", "optimiser"),
    [
        ("adamw", Adam(1e-3, weight_decay=5e-4)),
        ("adamw", ClassByClassAdam(1e-3, weight_decay=5e-4)),
        ("sgd", SGD(0.01, 0.5)),
    ],
    ids=["adam-turn-by-turn", "class-by-class-adam", "sgd-turn-by-turn"],
)
def test_two_iterations_golden(name: str, optimiser) -> None:
    """Runs matching steps of all classes in turn, then calibration steps, each with one optimiser on the whole set."""
    images = jnp.asarray(nhwc(FIGURES["ncfm_packed"]).reshape(CLASSES, IPC, *SHAPE))
    state = optimiser.init(images)
    kinds = [losses("float32", calibrating) for calibrating in (False, True)]
    before, after = jax.jit(optimiser.before), jax.jit(optimiser.after)
    for iteration in range(2):
        images = jnp.clip(images, 0, 1)
        totals = []
        for of in kinds:
            total = 0.0
            if isinstance(optimiser, ClassByClassAdam):
                images, state = before(images, state, 1.0)
                found = [of(images[c], c, iteration) for c in range(CLASSES)]
                images, state = after(jnp.stack([grad for _, grad in found]), images, state, 1.0)
                total = sum(float(loss) for loss, _ in found)
            else:
                for c in range(CLASSES):
                    loss, grad = of(images[c], c, iteration)
                    images, state = after(jnp.zeros_like(images).at[c].set(grad), images, state, 1.0)
                    total += float(loss)
            totals.append(total)
        np.testing.assert_allclose(totals, FIGURES[f"ncfm_{name}_totals"][iteration], rtol=1e-5)
        theirs = nhwc(FIGURES[f"ncfm_{name}_images_it{iteration + 1}"]).reshape(images.shape)
        close(images, theirs, 6.3e-5 if name == "adamw" else 1.6e-5)


# ------------------------------------------------------------------ the pool and combinations


def test_models_lie_between_the_ends_of_their_lines() -> None:
    net, data = ConvNet(1, 4).build(toy.SHAPE, 2), toy.data()
    source = InterpolatedPool(size=2, epochs=1, batch=8, cutmix=0.0, augment=NoAugment(), trained=True)
    pool = source.pretrain(net, data, jax.random.key(0), no_tick)
    models = jax.jit(source.sample, static_argnums=(0, 2))(net, pool, 8, 0, jax.random.key(1))
    jax.tree.map(lambda a: a.shape[:2] == (2, 2) or pytest.fail(str(a.shape)), pool)

    def kernel(params) -> np.ndarray:
        return np.asarray(params["classifier"]["kernel"])

    first, last = kernel(pool.params)[:, 0], kernel(pool.params)[:, 1]
    of = [int(np.abs(last - target).sum((1, 2)).argmin()) for target in kernel(models.target)]
    np.testing.assert_array_equal(last[of], kernel(models.target))
    shares = (kernel(models.params) - last[of]) / (first - last)[of]
    assert set(of) == {0, 1} and (shares >= -1e-3).all() and (shares <= 1 + 1e-3).all()
    assert np.ptp(shares, axis=(1, 2)).max() < 1e-2 and np.ptp(shares.mean((1, 2))) > 0.1
    np.testing.assert_array_equal(kernel(source.teachers(pool).params), last)
    without = jax.eval_shape(lambda key: replace(source, trained=False).sample(net, pool, 2, 0, key), jax.random.key(1))
    assert without.target is None


def test_model_augmentation_and_representative_matching_plug_into_ncfm() -> None:
    words = "--perturb directions --selector representative"
    spec = parse(["ncfm", "digits", *words.split()], Common)[2].spec
    assert isinstance(spec.perturb, Directions) and isinstance(spec.selector, Representative)
    changes = {"perturb": spec.perturb, "selector": toy.shrunk(spec).selector, "augment": NoAugment()}
    problem = toy.problem("ncfm", **changes)
    state, losses = run_block(problem, init_state(problem), 4)
    assert np.isfinite(losses[:4]).all() and np.isfinite(state.synthetic.images).all()


def test_calibration_adds_the_loss_of_the_trained_network() -> None:
    net, (first, last) = ConvNet(1, 4).build(toy.SHAPE, 2), jax.random.split(jax.random.key(2))
    init = jax.jit(net.init)
    model = init(first)._replace(target=init(last).params)
    real, syn = jax.random.normal(jax.random.key(0), (2, 4, *toy.SHAPE))
    plain, calibrated = CharacteristicFunction(), CalibratedCharacteristic(calibration=2.0)

    @jax.jit
    def losses(model: Model, real: Array, syn: Array, c: Array, key: Array) -> tuple[Array, Array, Array]:
        matched, both = (of.class_loss(net, model, real, syn, c, key) for of in (plain, calibrated))
        return matched, calibration_loss(net, model, syn, c), both

    matched, said, both = losses(model, real, syn, jnp.asarray(1), jax.random.key(1))
    assert matched > 0 and said > 0
    np.testing.assert_allclose(both, matched + 2 * said, rtol=1e-6)


def test_features_of_the_last_block_are_compared_at_new_standard_normal_frequencies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        CharacteristicFunction, "distance", lambda self, real, syn, frequencies: (real, syn, frequencies)
    )
    net = ConvNet(2, 4).build(toy.SHAPE, 2)
    model, (real, syn) = jax.jit(net.init)(jax.random.key(0)), jax.random.normal(jax.random.key(1), (2, 3, *toy.SHAPE))
    objective = CharacteristicFunction(frequencies=400)
    found = jax.jit(lambda key: objective.class_loss(net, model, real, syn, jnp.asarray(1), key))
    (of_real, of_syn, one), (*_, other) = (jax.tree.map(np.asarray, found(jax.random.key(seed))) for seed in (0, 1))
    embedding = jax.jit(lambda x: net.apply(model, x, True)[0].embedding)
    for features, images in ((of_real, real), (of_syn, syn)):
        np.testing.assert_allclose(features, embedding(images), atol=1e-5)
    assert one.shape == (400, 16)
    # Five standard errors of 6400 numbers.
    np.testing.assert_allclose([one.mean(), one.std(), np.mean(np.abs(one) < 1)], [0, 1, 0.683], atol=0.063)
    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.063


def test_bad_requests() -> None:
    for objective in (CharacteristicFunction(frequencies=0), CharacteristicFunction(phase=0.0)):
        with pytest.raises(RequestError, match="objective"):
            objective.validate()
    with pytest.raises(RequestError, match="calibration"):
        CalibratedCharacteristic(calibration=-1.0).validate()
    with pytest.raises(RequestError, match="models.epochs"):
        InterpolatedPool(epochs=0).validate()
    with pytest.raises(RequestError, match="optimiser.lr"):
        ClassByClassAdam(lr=0.0).validate()
    for changes, said in (({"models": RandomInit()}, "interpolated"), ({"objective": FeatureMatching()}, "trained")):
        with pytest.raises(RequestError, match=said):
            check(replace(METHODS["ncfm"], **changes), (32, 32, 3), [5000] * 10)
