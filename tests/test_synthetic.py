"""Decoding and initialisation against golden section 5, the image optimiser against the turn-by-turn loop."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax.synthetic import (
    Mix,
    MultiFormation,
    Noise,
    Pixels,
    RandomReal,
    _grid,
    as_network,
    class_turns,
    decoded_set,
    draw_distinct,
    stored,
    to_network,
    to_pixel,
)
from distill_jax.types import Initialisation, Parameterisation, RealData, RequestError
from tests.golden_weights import CIFAR_MEAN, CIFAR_STD, GOLDEN, cifar_normalised, pixels

FIGURES = np.load(GOLDEN / "decode.npz")
KEY = jax.random.key(3)


def nhwc(x):
    return jnp.asarray(np.asarray(x).transpose(0, 2, 3, 1))


def close(got, want, tolerance):
    np.testing.assert_allclose(np.asarray(got, np.float64), np.asarray(want, np.float64), rtol=0, atol=tolerance)


# ------------------------------------------------------------------ spaces


def test_to_network_and_back():
    u8 = np.random.default_rng(0).integers(0, 256, (3, 3, 5, 4), dtype=np.uint8)
    mean, std = jnp.asarray(CIFAR_MEAN), jnp.asarray(CIFAR_STD)
    network = to_network(nhwc(u8), mean, std)
    assert network.dtype == jnp.float32
    close(network, cifar_normalised(u8), 1e-6)
    close(to_network(jnp.asarray(pixels(u8)), mean, std), network, 1e-6)
    close(to_pixel(network, mean, std), pixels(u8), 1e-6)
    with jax.enable_x64(True):
        assert to_network(jnp.ones((2, 1, 1, 1, 3), jnp.float64), mean, std).dtype == jnp.float64
        assert to_pixel(jnp.ones((5, 3), jnp.bfloat16), mean, std).dtype == jnp.bfloat16


# ------------------------------------------------------------------ decoding

SINGLE_AND_MULTI = ["s2_32", "s3_32", "s3_64", "s2_28", "s3_28", "m2_32", "m3_32"]
BOUND = ["b2_ipc4", "b3_ipc2", "b2_ipc2", "b3_ipc1", "b3_ipc4"]


@pytest.mark.parametrize("case", SINGLE_AND_MULTI + BOUND)
def test_decode_golden(case):
    factor, rest = int(case[1]), case[3:]
    if case[0] == "b":
        ipc = int(rest[3:])
        stored, how = FIGURES["x4"][:ipc], MultiFormation(factor, "bound", bound=10)
    else:
        stored = FIGURES[f"x{rest}"][:, : 1 if case[0] == "m" else None]
        ipc, how = len(stored), MultiFormation(factor, "multi" if case[0] == "m" else "single")
    got = jax.jit(how.decode)(nhwc(stored))
    close(got, nhwc(FIGURES[f"{case}__data"]), 1e-6)
    assert how.decoded(ipc) == len(got) == len(FIGURES[f"{case}__target"])


def test_bound_table_golden_and_its_bound():
    for ipc, factor, bound, *by_factor, total in FIGURES["bound_table"].tolist():
        how = MultiFormation(factor, "bound", bound)
        counts = {f: end - first for f, first, end in how._plan(ipc)}
        assert [counts.get(f, 0) for f in (3, 2, 1)] == by_factor
        assert how.decoded(ipc) == total
    for ipc in range(1, 30):
        for bound in range(1, 40):
            how = MultiFormation(3, "bound", bound)
            assert ipc <= how.decoded(ipc) <= max(ipc, bound)
            assert sum(end - first for _, first, end in how._plan(ipc)) == ipc


@pytest.mark.parametrize("how", [Pixels(), MultiFormation(1, "multi"), MultiFormation(2, "bound", 1)])
def test_decode_identities(how):
    images = jnp.asarray(np.random.default_rng(0).uniform(size=(2, 8, 8, 1)), jnp.float32)
    assert isinstance(how, Parameterisation) and how.decoded(2) == 2
    close(how.decode(images), images, 0)
    how.check((8, 8, 1))


@pytest.mark.parametrize("how", [MultiFormation(2), MultiFormation(3, "multi"), MultiFormation(3, "bound", 20)])
def test_decode_is_linear_with_exact_second_derivative(how):
    """Rectangular images in float64: jit equals eager, vmap over classes the loop, and |decode|^2 is quadratic."""
    with jax.enable_x64(True):
        x, v = jnp.asarray(np.random.default_rng(0).uniform(size=(2, 3, 8, 10, 2)))
        decode = jax.jit(how.decode)
        close(decode(x), how.decode(x), 1e-14)
        close(jax.jit(jax.vmap(how.decode))(jnp.stack([x, v])), jnp.stack([decode(x), decode(v)]), 1e-14)

        @jax.jit
        def second(x, v):
            grey = how.decode(jnp.zeros_like(x))  # what padding adds
            slope = jax.grad(lambda x: 0.5 * jnp.sum((how.decode(x) - grey) ** 2))
            return jax.jvp(slope, (x,), (v,))[1], slope(v)

        hessian_v, want = second(x, v)
        close(hessian_v, want, 1e-12)
        assert jax.eval_shape(how.decode, x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: MultiFormation(0), "factor is 0"),
        (lambda: MultiFormation(2, "double"), "'single', 'multi' or 'bound'"),
        (lambda: MultiFormation(2, "bound", 0), "bound is 0"),
        (lambda: MultiFormation(2, space="network"), "'pixel' or 'normalised'"),
        (lambda: Pixels("pixels"), "'pixel' or 'normalised'"),
        (lambda: Mix("last"), "'random' or 'first'"),
        (lambda: MultiFormation(3).check((8, 8, 1)), "use 2 or less"),
        (lambda: MultiFormation(9).check((32, 40, 3)), "use 8 or less"),
        (lambda: class_turns(0.1, 0.5, "parallel"), "'sequential' or 'joint'"),
    ],
)
def test_bad_requests(build, words):
    with pytest.raises(RequestError, match=words) as error:
        build()
    assert "\n" not in str(error.value)


def test_factors_that_fit():
    for factor, shape in ((2, (8, 8, 1)), (8, (32, 32, 3)), (7, (28, 28, 1)), (1, (2, 2, 1))):
        MultiFormation(factor).check(shape)
    assert hash(MultiFormation(2)) == hash(MultiFormation()) and Pixels() != Pixels("normalised")


# ------------------------------------------------------------------ initialisation

NET: Any = None  # nor a model: only k-means looks at them


def real_data(images, labels, classes):
    """As the data package lays it out: each class's rows in data-set order, padded by cycling."""
    rows = [np.flatnonzero(labels == c) for c in range(classes)]
    counts = np.asarray([len(r) for r in rows])
    index = np.stack([np.resize(r, counts.max()) for r in rows])
    channels = images.shape[-1]
    mean, std = jnp.full(channels, 0.4, jnp.float32), jnp.full(channels, 0.2, jnp.float32)
    labels, index, counts = (jnp.asarray(a, jnp.int32) for a in (labels, index, counts))
    return RealData(jnp.asarray(images), labels, index, counts, mean, std)


def numbered(labels, classes, side=4):
    """Image n is the constant n."""
    images = np.arange(len(labels), dtype=np.uint8)[:, None, None, None] * np.ones((1, side, side, 1), np.uint8)
    return real_data(images, np.asarray(labels), classes)


@pytest.mark.parametrize("case", ["mix2_32", "mix3_32", "mix3_64"])
def test_mix_golden(case):
    real, want = FIGURES[f"{case}__real_u8"], FIGURES[f"{case}__init_u8"]
    classes, factor, ipc = len(real), int(case[3]), len(want) // len(real)
    # Classes interleaved, so that the index matters.
    images = np.moveaxis(real, 0, 1).reshape(-1, *real.shape[2:]).transpose(0, 2, 3, 1)
    data = real_data(images, np.tile(np.arange(classes), real.shape[1]), classes)
    got = jax.jit(lambda data: Mix("first").images(NET, NET, data, ipc, factor, KEY))(data)
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(np.round(np.asarray(got) * 255), nhwc(want).reshape(got.shape))
    close(got * 255, np.round(got * 255), 1e-4)


def test_nearest_tables_golden():
    for name in (n for n in FIGURES.files if n.startswith("nearest_")):
        side, small = int(name.split("_")[1]), int(name.split("_")[3])
        cell, source = _grid(side, round(side / small))
        tables = [source[cell == k].tolist() for k in range(cell.max() + 1)]
        assert FIGURES[name].tolist() in tables
        assert [len(table) for table in tables] == sorted((len(table) for table in tables), reverse=True)


@pytest.mark.parametrize("init", [RandomReal(), Mix("random"), Mix("first")])
def test_real_initialisation_takes_distinct_images_of_the_class(init):
    assert isinstance(init, Initialisation)
    labels = [0, 1, 1, 0, 1, 1, 1, 0, 1, 1, 1, 1, 1]
    data, ipc, factor = numbered(labels, 2), 2, 2
    counts = [labels.count(0), labels.count(1)]
    images = jax.jit(lambda data, key: init.images(NET, NET, data, ipc, factor, key))(data, KEY)
    assert images.shape == (2, ipc, 4, 4, 1) and images.dtype == jnp.float32
    shown = np.round(np.asarray(images) * 255).astype(int)
    wanted = ipc * factor**2 if isinstance(init, Mix) else ipc
    for c in (0, 1):
        used = set(shown[c].ravel())
        assert all(labels[n] == c for n in used)
        assert len(used) == min(wanted, counts[c])


def test_draw_distinct():
    data = numbered([0] * 3 + [1] * 40, 2)
    draw = jax.jit(jax.vmap(lambda key: draw_distinct(key, data, 7)))
    rows = np.asarray(draw(jax.random.split(KEY, 500)))
    assert rows.dtype == np.int32
    for first in rows[:, 0]:
        assert sorted(first[:3]) == [0, 1, 2]
        np.testing.assert_array_equal(first, np.resize(first[:3], 7))
    assert all(len(set(second)) == 7 for second in rows[:, 1])
    counts = np.bincount(rows[:, 1].ravel(), minlength=40)
    assert counts.min() > 0.6 * counts.mean() and counts.max() < 1.5 * counts.mean()


def test_noise_is_standard_normal_in_network_space():
    data = numbered([0, 1, 1], 2, side=16)
    images = jax.jit(lambda data, key: Noise().images(NET, NET, data, 10, 2, key))(data, KEY)
    assert isinstance(Noise(), Initialisation) and images.shape == (2, 10, 16, 16, 1)
    network = (np.asarray(images) - np.asarray(data.mean)) / np.asarray(data.std)
    assert abs(network.mean()) < 0.05 and abs(network.std() - 1) < 0.05


# ------------------------------------------------------------------ as networks see them, and as they are saved


def test_training_set_is_class_major_in_network_space():
    data = numbered([0, 1, 1, 2], 3, side=8)
    how = MultiFormation(2)
    images = jnp.linspace(-0.2, 1.2, 3 * 2 * 64).reshape(3, 2, 8, 8, 1)
    got = jax.jit(lambda images: decoded_set(how, images, data))(images)
    assert got.images.shape == (3 * 8, 8, 8, 1) and got.targets.dtype == jnp.float32
    np.testing.assert_array_equal(np.argmax(got.targets, axis=1), np.repeat(np.arange(3), 8))
    close(got.images[8:16], (how.decode(images[1]) - 0.4) / 0.2, 1e-5)
    close(as_network(Pixels("normalised"), images, data), images, 0)
    close(stored(Pixels("normalised"), images), images, 0)
    close(stored(how, images), np.clip(images, 0, 1), 0)


# ------------------------------------------------------------------ the image optimiser


def gradient(x, c, sweep):
    """Any function of the image and the class: what drifts is seen by the next gradient."""
    return np.sin(3 * x + c) + 0.3 * x * (sweep + 1)


def turn_by_turn(x, sweeps, lr, mu, clamp_before):
    """The released loop: every class's turn is one SGD step on the whole tensor."""
    x, m = x.copy(), np.zeros_like(x)
    for sweep in range(sweeps):
        if sweep == clamp_before:
            x = np.clip(x, 0, 1)
        for c in range(len(x)):
            g = np.zeros_like(x)
            g[c] = gradient(x[c], c, sweep)
            m = mu * m + g
            x = x - lr * m
    return x, m


@pytest.mark.parametrize(("classes", "momentum"), [(4, 0.5), (5, 0.9), (3, 0.0), (1, 0.5), (3, 1.0)])
def test_class_turns_equal_the_turn_by_turn_loop(classes, momentum):
    start = np.random.default_rng(classes).uniform(0, 1, (classes, 2, 3, 3, 1))
    rate = np.float32(0.2)  # as a traced Hyper holds it
    want, want_m = turn_by_turn(start, 5, float(rate), momentum, clamp_before=3)
    assert np.abs(want - start).max() > 0.5
    with jax.enable_x64(True):
        c = jnp.arange(classes, dtype=jnp.float64)[:, None, None, None, None]

        @jax.jit
        def sweep(images, state, index, lr, mu):
            optimiser = class_turns(lr, mu)
            images, state = optimiser.before(images, state)
            gradients = jnp.sin(3 * images + c) + 0.3 * images * (index + 1)
            return optimiser.after(gradients, images, state)

        images = jnp.asarray(start)
        state = class_turns(0.2, momentum).init(images)
        for index in range(5):
            if index == 3:
                images = jnp.clip(images, 0, 1)
            images, state = sweep(images, state, float(index), jnp.asarray(rate), float(momentum))
        assert images.dtype == state.dtype == jnp.float64
        close(images, want, 1e-12)
        close(state, want_m, 1e-12)


def test_joint_turn_is_plain_sgd():
    images = jnp.linspace(0.0, 1.0, 12).reshape(3, 1, 2, 2, 1)
    optimiser = class_turns(jnp.float32(0.1), 0.5, "joint")
    x, state = images, optimiser.init(images)
    for _ in range(2):
        seen, state = optimiser.before(x, state)
        close(seen, x, 0)
        x, state = optimiser.after(jnp.ones_like(x), seen, state)
    close(x, images - 0.1 * (1 + 1.5), 1e-6)
    close(state, jnp.full_like(x, 1.5), 1e-6)
    assert x.dtype == state.dtype == jnp.float32
