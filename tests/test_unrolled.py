"""Tests truncated backpropagation against released code (golden README, "Newer methods") and against a plain loop."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from distill_jax import train as train_module
from distill_jax.augment import NoAugment, Siamese
from distill_jax.axes.labels import LearnedLabels
from distill_jax.axes.objective import InnerAdam, TruncatedBackprop, after_window, unrolled
from distill_jax.distill import matching
from distill_jax.nets import ConvNet, from_torch
from distill_jax.platform import compiled_for
from distill_jax.train import NetworkSGD, Order, Pipeline, flatten, train
from distill_jax.types import Array, Model, Net, PyTree, Synthetic, TrainSet
from tests import toy
from tests.golden_weights import GOLDEN

SHAPE = (8, 8, 3)
ALL = Pipeline(8, 0.0)


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "newer.npz") as file:
        return {key: file[key] for key in file.files if key.startswith("rat_")}


def start(golden: dict[str, np.ndarray], dtype: str) -> tuple[Net, Model]:
    net = ConvNet(2, 8, dtype=dtype).build(SHAPE, 4)  # type: ignore[arg-type]
    shapes = [tuple(int(n) for n in shape if n) for shape in golden["rat_shapes"]]
    pieces = np.split(golden["rat_init"].astype(dtype), np.cumsum([np.prod(shape) for shape in shapes])[:-1])
    return net, from_torch(net, [piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)])


def nhwc(images: np.ndarray, dtype: str) -> Array:
    return jnp.asarray(images.transpose(0, 2, 3, 1), dtype)


def every_image(steps: int, dtype: str) -> Order:
    return Order(jnp.tile(jnp.arange(8, dtype=jnp.int32), (steps, 1)), jnp.ones((steps, 8), dtype))


def either(is_adam: Array, taped: bool) -> optax.GradientTransformation:
    """Return Adam if ``is_adam`` and SGD otherwise, as one program. ``taped`` selects Adam's variant in the window."""
    both = InnerAdam().transform(taped), NetworkSGD(0.01, 0.9, 5e-4).transform()

    def init(params: PyTree) -> tuple[PyTree, PyTree]:
        return both[0].init(params), both[1].init(params)

    def update(updates: PyTree, state: Any, params: PyTree = None) -> tuple[PyTree, tuple[PyTree, PyTree]]:
        (adam, one), (sgd, two) = (of.update(updates, part, params) for of, part in zip(both, state, strict=True))
        return jax.tree.map(partial(jnp.where, is_adam), adam, sgd), (one, two)

    return optax.GradientTransformation(init, update)


@cache
def meta_gradient(dtype: str):
    """Return a jitted function from (images, targets, model, real, whether with Adam) to (loss, (gradient by images,
    by targets)) after two steps that are held constant and three steps in the window. All cases share its program.
    """
    net = ConvNet(2, 8, dtype=dtype).build(SHAPE, 4)  # type: ignore[arg-type]
    key, free = jax.random.key(0), NoAugment()

    def loss(images: Array, targets: Array, model: Model, real: TrainSet, is_adam: Array) -> Array:
        shown = TrainSet(images, targets)
        held, before = jax.lax.stop_gradient(shown), either(is_adam, taped=False)
        warm, state, _ = train(
            net, model, before, before.init(flatten(model.params)), held, every_image(2, dtype), ALL, key
        )
        taped = either(is_adam, taped=True)
        return after_window(net, warm, taped, state, shown, every_image(3, dtype), real, key, free)

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))


def computed(golden: dict[str, np.ndarray], case: str, dtype: str):
    """Return (loss, (gradient by images, by targets)) of ``meta_gradient`` on the golden images."""
    labels, inner = case.split("_")
    _, model = start(golden, dtype)
    targets = golden["rat_soft"] if labels == "soft" else np.eye(4)[np.repeat(np.arange(4), 2)]
    real = TrainSet(nhwc(golden["rat_real"], dtype), jax.nn.one_hot(golden["rat_real_y"], 4, dtype=dtype))
    images = nhwc(golden["rat_images"], dtype)
    return meta_gradient(dtype)(images, jnp.asarray(targets, dtype), model, real, jnp.asarray(inner == "adam"))


@pytest.mark.parametrize(
    "case",
    [pytest.param("hard_adam", marks=pytest.mark.slow), "soft_adam", pytest.param("hard_sgd", marks=pytest.mark.slow)],
)
def test_meta_gradient(golden: dict[str, np.ndarray], case: str) -> None:
    loss, (images, labels) = computed(golden, case, "float32")
    np.testing.assert_allclose(loss, golden[f"rat_{case}_loss"], rtol=1e-5)
    theirs = golden[f"rat_{case}_grad"].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(images, theirs, rtol=0, atol=1.2e-4 * np.abs(theirs).max())
    if case == "soft_adam":
        theirs = golden[f"rat_{case}_grad_label"]
        np.testing.assert_allclose(labels, theirs, rtol=0, atol=1.2e-4 * np.abs(theirs).max())


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("case", ["hard_adam", "soft_adam", "hard_sgd"])
def test_meta_gradient_in_double_precision(golden: dict[str, np.ndarray], case: str) -> None:
    loss, (images, labels) = computed(golden, case, "float64")
    np.testing.assert_allclose(loss, golden[f"rat_{case}_loss_f64"], rtol=1e-9)
    theirs = golden[f"rat_{case}_grad_f64"].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(images, theirs, rtol=0, atol=1e-9 * np.abs(theirs).max())
    if case == "soft_adam":
        theirs = golden[f"rat_{case}_grad_label_f64"]
        np.testing.assert_allclose(labels, theirs, rtol=0, atol=1e-9 * np.abs(theirs).max())


def test_on_an_accelerator_the_real_images_pass_in_parts(monkeypatch) -> None:
    net, model, images, _ = small_problem()
    real = TrainSet(images[:, :4].reshape(12, 4, 4, 1), jax.nn.one_hot(jnp.repeat(jnp.arange(3), 4), 3))
    sizes, loss_of = [], train_module._loss
    monkeypatch.setattr(unrolled, "train", lambda net, model, *_, **__: (model, None, None))
    monkeypatch.setattr(train_module, "TRAINING_PIXELS", 2 * 4 * 4)
    monkeypatch.setattr(train_module, "_loss", lambda *args: sizes.append(len(args[3])) or loss_of(*args))

    def computed() -> tuple[Array, Model]:
        def loss(model: Model) -> Array:
            rest: Any = (None, None, None, every_image(1, "float32"), real, None, NoAugment())
            return after_window(net, model, *rest)

        return jax.jit(jax.value_and_grad(loss))(model)

    whole = computed()
    with compiled_for("gpu"):
        parts = computed()
    assert set(sizes) == {2}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), parts, whole)


# ------------------------------------------------------------------ the objective as a whole


SMALL = TruncatedBackprop(steps=7, window=2, least=1, batch=1, class_batch=2, augment=NoAugment())


def small_problem() -> tuple[Net, Model, Array, Synthetic]:
    net = ConvNet(1, 2).build((4, 4, 1), 3)
    model, real = jax.jit(net.init)(jax.random.key(0)), jax.random.normal(jax.random.key(1), (3, 5, 4, 4, 1))
    return net, model, real, Synthetic(jax.random.normal(jax.random.key(2), (3, 2, 4, 4, 1)))


@partial(jax.jit, static_argnums=1)
def rows_of_steps(key: Array, length: int) -> Array:
    """Return the images that each step shows: int32 [steps, images]."""
    _, before_key, order_key, _, _ = jax.random.split(key, 5)
    keys = [jax.random.split(jax.random.fold_in(before_key, i))[0] for i in range(length)]
    keys += list(jax.random.split(order_key, 2))
    return jax.lax.map(lambda key: SMALL.picks(key, 3, 2).rows, jnp.stack(keys))


def by_hand(net: Net, model: Model, real: Array, images: Array, shown: Array, length: int) -> Array:
    """Return the loss of a plain loop over the steps. Steps before the window see the images without gradient."""

    def loss(params, x: Array, labels: Array) -> Array:
        logits = net.apply(model._replace(params=params), x, train=True)[0].logits
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

    def step(carry, now: tuple[Array, Array]):
        (params, first, second), (k, rows) = carry, now
        # Nothing before the window has a gradient.
        held = partial(jax.tree.map, lambda a: jnp.where(k > length, a, jax.lax.stop_gradient(a)))
        grads = jax.grad(loss)(params, held(images.reshape(6, 4, 4, 1))[rows], rows // 2)
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, grads)
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, second, grads)

        def moved(p: Array, m: Array, v: Array) -> Array:
            root = jnp.where(v > 0, jnp.sqrt(jnp.where(v > 0, v, 1)), 0)
            within = p - 1e-3 * jnp.sqrt(1 - 0.999**k) / (1 - 0.9**k) * m / (root + 1e-8)
            return jnp.where(k > length, within, p - 1e-3 * m / (1 - 0.9**k) / (root / jnp.sqrt(1 - 0.999**k) + 1e-8))

        return held((jax.tree.map(moved, params, first, second), first, second)), None

    zeros = jax.tree.map(jnp.zeros_like, model.params)
    steps = jnp.arange(1, length + 3, dtype=jnp.float32), shown
    (params, _, _), _ = jax.lax.scan(step, (model.params, zeros, zeros), steps)
    return loss(params, real.reshape(15, 4, 4, 1), jnp.repeat(jnp.arange(3), 5))


def test_equals_a_plain_loop() -> None:
    net, model, real, syn = small_problem()
    key = jax.random.key(13)
    length = int(jax.random.randint(jax.random.split(key, 5)[0], (), 1, 6))
    assert length == 2, "the fewest steps that a loop before the window repeats"
    ours = jax.jit(jax.value_and_grad(lambda x: SMALL.set_loss(net, model, real, Synthetic(x), key)))(syn.images)
    shown = rows_of_steps(key, length)
    theirs = jax.jit(jax.value_and_grad(lambda x: by_hand(net, model, real, x, shown, length)))(syn.images)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=0, atol=1e-3 * np.abs(theirs[1]).max())


def test_a_step_uses_images_of_some_classes() -> None:
    everything = replace(SMALL, batch=9, class_batch=0)
    picks = jax.jit(lambda key: [of.picks(key, 3, 2).rows for of in (SMALL, everything)])
    rows, all_rows = map(np.asarray, picks(jax.random.key(0)))
    assert rows.shape == (2,) and len(set(rows // 2)) == 2
    np.testing.assert_array_equal(all_rows, np.arange(6))


def test_the_classes_of_a_step_draw_their_images_independently() -> None:
    some = replace(SMALL, class_batch=0)
    rows = np.asarray(
        jax.jit(jax.vmap(lambda key: some.picks(key, 5, 4).rows))(jax.random.split(jax.random.key(0), 400))
    )
    np.testing.assert_array_equal(rows // 4, [np.arange(5)] * 400)
    drawn = rows % 4
    assert np.abs(np.corrcoef(drawn.T) - np.eye(5)).max() < 0.25, "five standard errors"
    assert np.abs([np.mean(drawn == image, axis=0) - 0.25 for image in range(4)]).max() < 0.11


def test_every_class_is_drawn_equally_often() -> None:
    rows = jax.jit(jax.vmap(lambda key: SMALL.picks(key, 5, 4).rows))(jax.random.split(jax.random.key(0), 400))
    assert np.abs(np.bincount(np.asarray(rows).ravel() // 4) - 160).max() < 49, "five standard errors"


@pytest.fixture
def without_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the loss return the number of steps before the window, and the real images."""
    monkeypatch.setattr(TruncatedBackprop, "warm", lambda self, net, model, syn, steps, classes, key: (steps, None))
    monkeypatch.setattr(unrolled, "after_window", lambda net, model, taped, state, syn, order, real, *_: (model, real))


@pytest.mark.usefixtures("without_training")
def test_every_number_of_steps_is_equally_frequent() -> None:
    """Of at most seven steps, the last two are in the window, and at least one is before it."""
    _, _, real, syn = small_problem()
    loss = jax.jit(jax.vmap(lambda key: SMALL.set_loss(None, None, real, syn, key)[0]))  # type: ignore
    steps, counts = np.unique(loss(jax.random.split(jax.random.key(0), 1000)), return_counts=True)
    assert steps.tolist() == [1, 2, 3, 4, 5]
    assert np.abs(counts - 200).max() < 63, "five standard errors"


@pytest.mark.usefixtures("without_training")
def test_every_real_image_is_augmented_by_itself() -> None:
    _, _, real, syn = small_problem()
    mirrored = replace(SMALL, augment=Siamese("flip"))
    _, shown = jax.jit(lambda key: mirrored.set_loss(None, None, real, syn, key))(jax.random.key(0))  # type: ignore
    before = real.reshape(15, 4, 4, 1)
    is_flipped, is_same = (np.all(np.asarray(shown.images == x), axis=(1, 2, 3)) for x in (before[:, :, ::-1], before))
    assert (is_flipped ^ is_same).all() and 0 < is_flipped.sum() < 15


def test_synthetic_batches_are_augmented_before_and_in_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Pipeline] = []

    def train(net, model, optimiser, state, data, order, pipeline, key, remat=False):
        asked.append(pipeline)
        return model, state, None

    monkeypatch.setattr(unrolled, "train", train)
    net, model, real, syn = small_problem()
    mirrored = replace(SMALL, augment=Siamese("flip"))
    jax.eval_shape(lambda key: mirrored.set_loss(net, model, real, syn, key), jax.random.key(0))
    assert asked == [Pipeline(2, 0.0, Siamese("flip"))] * 2


@pytest.mark.slow
def test_models_in_one_chunk_equal_models_one_by_one() -> None:
    problem = toy.problem("rat_bptt", live=2, labels=LearnedLabels())
    state = toy.begun(problem)
    rows = jnp.tile(jnp.arange(4, dtype=jnp.int32), (2, 1))

    def gradient(chunk: int):
        chunked = replace(problem, spec=replace(problem.spec, model_chunk=chunk))
        return jax.jit(matching)(chunked, state.models, state.synthetic, rows, jax.random.key(0))

    (one, grads), (two, others) = gradient(1), gradient(2)
    np.testing.assert_allclose(one, two, rtol=1e-5)
    np.testing.assert_allclose(grads.images, others.images, rtol=0, atol=1e-3 * np.abs(grads.images).max())
    assert np.abs(grads.labels).max() > 0
