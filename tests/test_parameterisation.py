"""Tests spaces and decoding against golden section 5, and the set as networks see it and as it is saved."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax.axes.parameterisation import MultiFormation, Pixels, as_network, decoded_set, stored
from distill_jax.contracts import Parameterisation
from distill_jax.types import Normaliser, RequestError, Synthetic
from tests.golden_weights import CIFAR_MEAN, CIFAR_STD, cifar_normalised, golden_figures, pixels
from tests.test_init import close, nhwc, numbered

FIGURES = golden_figures("decode")


# ------------------------------------------------------------------ spaces


def test_to_network_and_back():
    u8 = np.random.default_rng(0).integers(0, 256, (3, 3, 5, 4), dtype=np.uint8)
    normaliser = Normaliser(jnp.asarray(CIFAR_MEAN), jnp.asarray(CIFAR_STD))
    to_network, to_pixel = (jax.jit(f) for f in (normaliser.to_network, normaliser.to_pixel))
    network = to_network(nhwc(u8))
    assert network.dtype == jnp.float32
    close(network, cifar_normalised(u8), 1e-6)
    close(to_network(pixels(u8)), network, 1e-6)
    close(to_pixel(network), pixels(u8), 1e-6)
    with jax.enable_x64(True):
        wide, narrow = jax.ShapeDtypeStruct((2, 1, 1, 1, 3), jnp.float64), jax.ShapeDtypeStruct((5, 3), jnp.bfloat16)
        assert jax.eval_shape(normaliser.to_network, wide).dtype == jnp.float64
        assert jax.eval_shape(normaliser.to_pixel, narrow).dtype == jnp.bfloat16


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
    """For rectangular images in float64, jit equals eager, vmap over classes equals a loop, and |decode|^2 is
    quadratic.
    """
    with jax.enable_x64(True):
        x, v = jnp.asarray(np.random.default_rng(0).uniform(size=(2, 3, 8, 10, 2)))
        decode = jax.jit(how.decode)
        close(decode(x), how.decode(x), 1e-14)
        close(jax.jit(jax.vmap(how.decode))(np.stack([x, v])), np.stack([decode(x), decode(v)]), 1e-14)

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
        (lambda: MultiFormation(0).validate(), "factor is 0"),
        (lambda: MultiFormation(2, "double").validate(), "'single', 'multi' or 'bound'"),
        (lambda: MultiFormation(2, "bound", 0).validate(), "bound is 0"),
        (lambda: MultiFormation(2, space="network").validate(), "'pixel' or 'normalised'"),
        (lambda: Pixels("pixels").validate(), "'pixel' or 'normalised'"),
        (lambda: MultiFormation(3).check((8, 8, 1)), "use --factor 2 or less"),
        (lambda: MultiFormation(9).check((32, 40, 3)), "use --factor 8 or less"),
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


# ------------------------------------------------------------------ as networks see them, and as they are saved


def test_training_set_is_class_major_in_network_space():
    data = numbered([0, 1, 1, 2], side=8)
    how = MultiFormation(2)
    images = np.linspace(-0.2, 1.2, 3 * 2 * 64, dtype=np.float32).reshape(3, 2, 8, 8, 1)
    logits = np.arange(18, dtype=np.float32).reshape(3, 2, 3) ** 2 / 50

    @jax.jit
    def compute(images, logits):
        packed = decoded_set(how, Synthetic(images), data)
        learned = decoded_set(Pixels(), Synthetic(images, logits), data)
        plain = Pixels("normalised")
        same = as_network(plain, images, data), stored(plain, images)
        softmax = jax.nn.softmax(logits.reshape(6, 3))
        return packed, how.decode(images[1]), learned.targets, softmax, same, stored(how, images)

    got, decoded, targets, softmax, same, clipped = jax.device_get(compute(images, logits))
    assert got.images.shape == (3 * 8, 8, 8, 1) and got.targets.dtype == np.float32
    np.testing.assert_array_equal(np.argmax(got.targets, axis=1), np.repeat(np.arange(3), 8))
    close(got.images[8:16], (decoded - 0.4) / 0.2, 1e-5)
    close(targets, softmax, 1e-6)
    for unchanged in same:
        close(unchanged, images, 0)
    close(clipped, np.clip(images, 0, 1), 0)
