"""Tests the training loop against the released code (golden README, sections 8 and 9)."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from distill_jax import train as training
from distill_jax.augment import Siamese
from distill_jax.nets import ConvNet, from_torch
from distill_jax.nets.net import DTypeName
from distill_jax.platform import compiled_for
from distill_jax.schedules import rate_drops
from distill_jax.train import NetworkSGD, Order, Pipeline, epochs_order, flatten, images_order, train
from distill_jax.train_many import networks_at_once
from distill_jax.types import Model, Normaliser, TrainSet
from tests.golden_weights import GOLDEN, cifar_normalised, deterministic
from tests.recorder import Recorder

NET = ConvNet(depth=3, width=16).build((32, 32, 3), 10)

jit_train = jax.jit(train, static_argnames=("net", "optimiser", "pipeline"))
jit_epochs_order = jax.jit(epochs_order, static_argnums=(1, 2, 3))
jit_images_order = jax.jit(images_order, static_argnums=(1, 2, 3))


def labels_of(n: int, classes: int) -> np.ndarray:
    """Return one-hot labels [n, classes] of the classes 0, 1, ... in turn."""
    return np.eye(classes, dtype=np.float32)[np.arange(n) % classes]


@pytest.mark.parametrize(("case", "steps"), [("plain1", 1), ("plain2", 2)])
def test_model_update_golden(case: str, steps: int) -> None:
    with np.load(GOLDEN / "netupdate.npz") as file:
        golden = dict(file)
    weights = deterministic(golden["names"], golden["shapes"], golden["roles"])
    model = from_torch(NET, weights)
    images = np.concatenate([cifar_normalised(golden["batch1_u8"]), cifar_normalised(golden["batch2_u8"])])
    labels = np.concatenate([golden["y1"], golden["y2"]])
    data = TrainSet(*jax.device_put((images, np.eye(10, dtype=np.float32)[labels])))
    n = len(golden["y1"])
    rows = np.arange(2 * n, dtype=np.int32).reshape(2, n)[:steps]
    order = Order(*jax.device_put((rows, np.ones((steps, n), np.float32))))
    optimiser = NetworkSGD(0.01, 0.9, 5e-4).transform()
    pipeline = Pipeline(batch=n, cutmix=0.0)
    model, state, losses = jit_train(
        NET, model, optimiser, optimiser.init(flatten(model.params)), data, order, pipeline, jax.random.key(0)
    )
    np.testing.assert_allclose(np.mean(np.asarray(losses)), golden[f"{case}__mean_loss"], atol=3e-6)

    def load(flat: np.ndarray):
        shapes = [w.shape for w in weights.values()]
        pieces = np.split(flat, np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1])
        return from_torch(NET, [piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)]).params

    _close(model.params, load(golden[f"{case}__w"]), 5e-7)
    _close(optax.tree.get(state, "trace"), flatten(load(golden[f"{case}__momentum"])), 5e-6)


def _close(ours, theirs, atol: float) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=atol), ours, theirs)


@pytest.mark.parametrize("epochs", [300, 1000])
def test_learning_rate_golden(epochs: int) -> None:
    with np.load(GOLDEN / "schedule.npz") as golden:
        expected = golden[f"idc_lr_{epochs}"]
    steps = 3
    ours = 0.01 * np.asarray(jax.jit(jax.vmap(rate_drops(epochs, steps)))(np.arange(epochs * steps)))
    np.testing.assert_allclose(ours, np.repeat(expected, steps), rtol=1e-6)


def test_a_single_epoch_keeps_its_learning_rate() -> None:
    for schedule in ("thirds", "half"):
        np.testing.assert_array_equal(jax.jit(jax.vmap(rate_drops(1, 9, schedule)))(np.arange(9)), 1.0)


def test_two_drops_in_one_epoch_multiply() -> None:
    rates = jax.jit(jax.vmap(rate_drops(3, 2)))(np.arange(6))
    np.testing.assert_allclose(rates, [1, 1, 1, 1, 0.04, 0.04], rtol=1e-6)


def test_pretraining_rate_golden() -> None:
    with np.load(GOLDEN / "schedule.npz") as golden:
        cases = {name: golden[name] for name in golden if name.startswith("accdd_pretrain_lr_")}
    assert cases
    for name, expected in cases.items():
        first, number = (int(part) for part in name.split("_")[-2:])
        ours = 0.01 * np.asarray(jax.jit(jax.vmap(rate_drops(first + number, 1)))(np.arange(len(expected))))
        np.testing.assert_allclose(ours, expected, rtol=1e-6, err_msg=name)


def test_steps_until_n_images_were_seen_golden() -> None:
    with np.load(GOLDEN / "netupdate.npz") as golden:
        table = golden["ndata_steps"]
    for images, steps in table.T:
        order = jax.eval_shape(partial(images_order, n=100, batch=8, images=int(images)), jax.random.key(0))
        assert order.rows.shape == order.weights.shape == (steps, 8)


def test_an_epoch_shows_every_image_once() -> None:
    order = jax.device_get(jit_epochs_order(jax.random.key(0), 10, 4, 3))
    assert order.rows.shape == (9, 4)
    for epoch in range(3):
        rows, weights = (a[3 * epoch : 3 * epoch + 3].ravel() for a in order)
        assert sorted(rows[weights == 1]) == list(range(10))
    assert jit_epochs_order(jax.random.key(0), 10, 64, 1).rows.shape == (1, 10)


def test_every_epoch_has_an_order_of_its_own() -> None:
    epochs = np.asarray(jit_epochs_order(jax.random.key(0), 9, 3, 40).rows).reshape(40, 9)
    rounds = np.asarray(jit_images_order(jax.random.key(1), 9, 3, 360).rows).reshape(40, 9)
    for orders in (epochs, rounds):
        assert len(np.unique(orders, axis=0)) == 40
        # The standard error of a mean of 40 numbers from 0 to 8 is 0.4.
        np.testing.assert_allclose(orders.mean(axis=0), 4, atol=1.6)
        np.testing.assert_array_equal(np.sort(orders), [np.arange(9)] * 40)


def test_images_do_not_repeat_while_they_last() -> None:
    rows = np.asarray(jit_images_order(jax.random.key(0), 100, 10, 100).rows).ravel()
    assert len(set(rows)) == 100
    assert jit_images_order(jax.random.key(0), 7, 10, 25).rows.shape == (3, 10)


def test_padding_rows_do_not_count() -> None:
    net = ConvNet(depth=1, width=4).build((4, 4, 1), 3)
    model = net.init(jax.random.key(0))
    images = np.random.default_rng(1).normal(size=(5, 4, 4, 1)).astype(np.float32)
    data = TrainSet(*jax.device_put((images, labels_of(5, 3))))
    optimiser = NetworkSGD(0.1, 0.0, 0.0).transform()
    pipeline = Pipeline(batch=5, cutmix=0.0)

    start = optimiser.init(flatten(model.params))

    def trained(rows: list[int], weights: list[int]):
        order = Order(*jax.device_put((np.asarray([rows], np.int32), np.asarray([weights], np.float32))))
        return jit_train(net, model, optimiser, start, data, order, pipeline, jax.random.key(2))[0].params

    _close(trained([0, 1, 2, 0, 1], [1, 1, 1, 0, 0]), trained([0, 1, 2], [1, 1, 1]), 1e-6)


def test_every_image_of_every_step_is_augmented_by_itself_and_then_mixed() -> None:
    """Image i is the constant i in network space. Colour moves it by less than half as a whole, so the network sees one
    value for each image, also in the pixels that cutmix pastes into another.
    """
    steps, n = 60, 6
    net = Recorder(steps, n, (8, 8, 1), n)
    images = np.repeat(4 * np.arange(n, dtype=np.uint8), 64).reshape(n, 8, 8, 1)
    data = TrainSet(*jax.device_put((images, labels_of(n, n))))
    rows = np.tile(np.arange(n, dtype=np.int32), (steps, 1))
    order = Order(*jax.device_put((rows, np.ones((steps, n), np.float32))))
    model, sgd, pipeline = net.init(jax.random.key(0)), optax.sgd(1.0), Pipeline(n, 0.5, Siamese("color"))
    fours = Normaliser(*jax.device_put((np.zeros(1, np.float32), np.full(1, 4 / 255, np.float32))))
    model, *_ = jit_train(
        net, model, sgd, sgd.init(flatten(model.params)), data, order, pipeline, jax.random.key(1), fours
    )
    images, slopes = net.seen(model)
    kinds = np.round(images[..., 0])[..., None] == np.arange(n)
    shares = kinds.mean(axis=(2, 3))
    np.testing.assert_allclose(n * slopes + 1 / n, shares, atol=1e-6)  # targets are the shares of pixels

    moved = images - np.round(images)
    colours = [[moved[t][kinds[t, ..., i]] for i in range(n)] for t in range(steps)]
    assert max(np.ptp(pixels) for step in colours for pixels in step) < 1e-5
    table = np.asarray([[pixels[0] for pixels in step] for step in colours])
    assert len(np.unique(table)) == steps * n and np.abs(table.mean(axis=0)).max() < 0.15 < 0.45 < np.abs(table).max()

    mixed = 1 - shares.max(axis=2).min(axis=1)
    # Half of the steps are mixed, give or take three standard errors; boxes of no pixel leave some of them unmixed.
    assert 0.25 < np.mean(mixed > 0) < 0.65 and len(np.unique(mixed)) > 8


def test_hits_are_counted_once_whatever_the_chunk() -> None:
    net = ConvNet(depth=1, width=4).build((4, 4, 1), 3)
    model = net.init(jax.random.key(0))
    images = np.random.default_rng(1).integers(0, 256, (11, 4, 4, 1), np.uint8)
    labels = np.arange(11) % 3
    plain = Normaliser(*jax.device_put((np.zeros(1, np.float32), np.ones(1, np.float32))))

    @jax.jit
    def counts(images: jax.Array, labels: jax.Array):
        return [training.count_correct(net, model, images, labels, plain, chunk) for chunk in (0, 1, 4, 11, 100)]

    assert len({int(count) for count in counts(images, labels)}) == 1


def _trained(dtype: DTypeName, optimiser: optax.GradientTransformation, **options):
    """Return a function that returns two networks after a few steps that use all features of a step, and a derivative
    through these steps, and its arguments."""
    net = ConvNet(depth=1, width=4, norm="batch", dtype=dtype).build((4, 4, 3), 3)
    models = jax.vmap(net.init)(jax.random.split(jax.random.key(0), 2))
    images = np.random.default_rng(1).normal(size=(6, 4, 4, 3)).astype(dtype)
    order = jit_images_order(jax.random.key(2), 6, 4, 12)
    pipeline = Pipeline(4, 0.5, Siamese("flip"))

    def run(images: jax.Array, models: Model, order: Order):
        def one(model):
            state = optimiser.init(flatten(model.params))
            data, key = TrainSet(images, jnp.asarray(labels_of(6, 3), dtype)), jax.random.key(3)
            return train(net, model, optimiser, state, data, order, pipeline, key, **options)

        return jax.vmap(one)(models)

    def length(*arguments):
        trained = run(*arguments)
        return optax.tree.norm(trained[0].params, squared=True), trained

    return jax.jit(jax.grad(length, has_aux=True)), (images, models, order)


@pytest.mark.parametrize(
    ("dtype", "tolerance", "momentum"),
    [
        ("float64", 1e-10, True),
        pytest.param("float32", 1e-5, False, marks=pytest.mark.slow),
        pytest.param("float32", 1e-5, True, marks=pytest.mark.slow),
        pytest.param("float64", 1e-10, False, marks=pytest.mark.slow),
    ],
)
def test_an_accelerator_trains_as_a_cpu(dtype: DTypeName, tolerance: float, momentum: bool) -> None:
    optimiser = NetworkSGD(0.05).transform(rate_drops(6, 1)) if momentum else optax.scale(-0.05)
    with jax.enable_x64(dtype == "float64"):
        function, arguments = _trained(dtype, optimiser, remat=momentum)
        here = function(*arguments)
        with compiled_for("gpu"):
            there = function(*arguments)
    assert jax.tree.structure(there) == jax.tree.structure(here)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=tolerance), there, here)


def test_networks_that_train_at_once_have_batches_that_fit_an_accelerator() -> None:
    assert networks_at_once(5, 256, (32, 32, 3)) == 1
    with compiled_for("gpu"):
        assert networks_at_once(5, 64, (32, 32, 3)) == 5
        assert networks_at_once(100, 256, (64, 64, 3)) == 2
        assert networks_at_once(100, 256, (128, 128, 3)) == networks_at_once(5, 64, (224, 224, 3)) == 1
        assert networks_at_once(60, 64, (32, 32, 3)) == 30
        assert networks_at_once(101, 64, (32, 32, 3)) == 32
    with compiled_for("tpu"):  # the activations of all networks fit in the fast memory
        assert networks_at_once(5, 64, (32, 32, 3)) == networks_at_once(5, 256, (32, 32, 3)) == 1
        assert networks_at_once(100, 64, (8, 8, 1)) == 10
