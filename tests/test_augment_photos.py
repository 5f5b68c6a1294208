"""Tests the augmentations of evaluation against NumPy formulas for given draws, and their properties."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax.augment_photos import ATTEMPTS, BasicAugment, BasicDraws, PhotoAugment, PhotoDraws
from distill_jax.check_spec import check_augmentations, validate
from distill_jax.contracts import Augmentation
from distill_jax.evaluation import IDC_PROTOCOL
from distill_jax.spec import CHOICES, from_json, to_json
from distill_jax.types import RequestError
from tests.photos_numpy import basic, box, one, photo, to_network

KEY = jax.random.key(11)
GREY = PhotoAugment(mean=(0.13,), std=(0.31,))
KINDS: list[tuple[PhotoAugment | BasicAugment, int]] = [
    (PhotoAugment(), 3),
    (GREY, 1),
    (BasicAugment(), 3),
    (BasicAugment(), 1),
]


@cache
def compiled(augment: Augmentation) -> tuple[Callable, Callable]:
    """Return the functions that augment all images alike, and each image for itself."""
    return jax.jit(augment), jax.jit(augment.each)


@cache
def drawer(augment: Augmentation) -> Callable:
    """Return the compiled ``augment.draw``, which takes the number of draws as its second argument."""
    return jax.jit(augment.draw, static_argnums=1)


def drawn(augment: PhotoAugment | BasicAugment, n: int):
    """Return ``n`` draws as NumPy arrays, whose elements can be taken without a program for each."""
    return jax.device_get(drawer(augment)(KEY, n))


def images(channels=3, height=11, width=14, n=3, seed=0):
    """Return float64 pixels in [0, 1]."""
    return np.random.default_rng(seed).uniform(size=(n, height, width, channels))


def close(got, want, tolerance):
    np.testing.assert_allclose(np.asarray(got, np.float64), np.asarray(want, np.float64), rtol=0, atol=tolerance)


# ------------------------------------------------------------------ both


@pytest.mark.parametrize(("augment", "channels"), KINDS)
@pytest.mark.parametrize(("height", "width"), [(11, 14), (16, 16), (24, 7)])
def test_against_numpy(augment, channels, height, width):
    """In float64, with enough draws for every operation and every order."""
    n = 40
    x = images(channels, height, width, n)
    x = to_network(augment, x) if isinstance(augment, PhotoAugment) else x
    reference = photo if isinstance(augment, PhotoAugment) else basic
    with jax.enable_x64(True):
        draws = drawn(augment, n)
        got = compiled(augment)[1](KEY, jnp.asarray(x))
        assert got.dtype == jnp.float64 and got.shape == x.shape
        want = [reference(augment, image, one(draws, i)) for i, image in enumerate(x)]
        # The draws are float32, and so is the size computed from them.
        close(got, np.stack(want), 1e-6)


@pytest.mark.parametrize(("augment", "channels"), KINDS)
def test_one_draw_for_all_or_one_per_image(augment, channels):
    """An image is transformed equally in any batch."""
    x = images(channels).astype(np.float32)
    alike = np.tile(x[:1], (3, 1, 1, 1))
    (call, each), apply = compiled(augment), jax.jit(augment.apply)
    assert np.ptp(call(KEY, alike), axis=0).max() < 1e-5
    assert np.ptp(each(KEY, alike), axis=0).max() > 0.1
    shared, draws = drawn(augment, 1), drawn(augment, 3)
    together, apart = call(KEY, x), each(KEY, x)
    for i in range(3):
        close(together[i], apply(x[i : i + 1], one(shared, 0))[0], 1e-5)
        close(apart[i], apply(x[i : i + 1], one(draws, i))[0], 1e-5)


@pytest.mark.parametrize(("augment", "channels"), KINDS)
def test_dtypes_stay(augment, channels):
    x = images(channels).astype(np.float32)
    call, each = compiled(augment)
    got, low = each(KEY, x), each(KEY, x.astype(jnp.bfloat16))
    assert low.dtype == jnp.bfloat16 and low.shape == x.shape
    close(low, got, 0.1)
    assert got.dtype == jnp.float32 and got.shape == x.shape
    keys = jax.random.split(KEY, 2)
    close(jax.jit(jax.vmap(augment, (0, None)))(keys, x)[1], call(keys[1], x), 1e-5)


@pytest.mark.parametrize(("augment", "channels"), KINDS)
def test_gradient(augment, channels):
    """The gradient is finite, and equals finite differences in double precision."""
    with jax.enable_x64(True):
        x, v = (images(channels, 9, 8, 6, seed) for seed in (1, 2))
        # Pixels far from 0 and 1, because clamping has a kink there.
        x = to_network(augment, 0.3 + 0.1 * x) if isinstance(augment, PhotoAugment) else x

        @jax.jit
        @jax.value_and_grad
        def loss(x):
            return jnp.sum(jnp.sin(augment.each(KEY, x)))

        slope = np.asarray(loss(x)[1])
        assert np.all(np.isfinite(slope))
        difference = (float(loss(x + 1e-6 * v)[0]) - float(loss(x - 1e-6 * v)[0])) / 2e-6
        np.testing.assert_allclose(np.sum(slope * v), difference, rtol=1e-6)


@pytest.mark.parametrize(("augment", "size"), [(PhotoAugment(), 2 * ATTEMPTS + 10), (BasicAugment(), 6)])
def test_draws_are_independent(augment, size):
    draws = drawn(augment, 4000)
    table = np.concatenate([np.asarray(v).reshape(4000, -1) for v in draws], axis=1)
    assert table.shape == (4000, size) and table.dtype == np.float32
    uniform = table[:, :-3] if isinstance(augment, PhotoAugment) else table
    assert uniform.min() >= 0 and uniform.max() < 1 and np.abs(uniform.mean(axis=0) - 0.5).max() < 0.02
    assert np.abs(np.corrcoef(table.T) - np.eye(size)).max() < 0.08
    if isinstance(augment, PhotoAugment):
        close(draws.alpha.mean(axis=0), np.zeros(3), 0.06)
        close(draws.alpha.std(axis=0), np.ones(3), 0.04)


@pytest.mark.parametrize(("name", "augmentation"), [("photos", PhotoAugment), ("basic", BasicAugment)])
def test_registered_and_rebuilt(name, augmentation):
    value = CHOICES["augment"][name]()
    assert isinstance(value, Augmentation)
    assert value == augmentation() and hash(value) == hash(augmentation()) and not jax.tree.leaves(value)
    validate(value)
    changed = replace(value, jitter=0.2) if isinstance(value, PhotoAugment) else replace(value, crop=2)
    assert from_json(json.loads(json.dumps(to_json(changed)))) == changed != value


@pytest.mark.parametrize(
    ("augment", "words"),
    [
        (PhotoAugment(mean=(0.5,)), "mean has 1 values and std has 3"),
        (PhotoAugment(mean=(0.5, 0.5), std=(0.2, 0.2)), "give each 3, or 1"),
        (PhotoAugment(mean=(0.5, math.nan, 0.5)), "finite"),
        (PhotoAugment(std=(0.2, 0.0, 0.2)), "above 0"),
        (PhotoAugment(smallest=0.0), "smallest is 0"),
        (PhotoAugment(smallest=1.5), "smallest is 1.5"),
        (PhotoAugment(jitter=1.1), "jitter is 1.1"),
        (PhotoAugment(lighting=-1.0), "lighting is -1"),
        (BasicAugment(crop=-1), "crop is -1"),
        (BasicAugment(scale=1.0), "scale is 1"),
        (BasicAugment(rotate=200.0), "rotate is 200"),
    ],
)
def test_bad_numbers(augment, words):
    with pytest.raises(RequestError, match=words) as error:
        validate(augment)
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------ photos


def still(**changes):
    """Return draws that change nothing, for PhotoAugment(smallest=1.0)."""
    half = np.float32(0.5)
    zeros = np.zeros(3, np.float32)
    values = np.full((ATTEMPTS, 2), half), zeros[:2], half, np.full(3, half), np.float32(0), zeros
    nothing = PhotoDraws(*jax.device_put(values))
    return nothing._replace(**changes)


def test_photos_leave_alone_what_no_draw_changes():
    augment = PhotoAugment(smallest=1.0)
    x = to_network(augment, images(3, 12, 12)).astype(np.float32)
    apply = jax.jit(augment.apply)
    close(apply(x, still()), x, 1e-5)
    close(apply(x, still(flip=np.float32(0))), x[:, :, ::-1], 1e-5)


def test_nothing_is_clamped():
    augment = PhotoAugment(smallest=1.0)
    white = to_network(augment, np.ones((1, 8, 8, 3))).astype(np.float32)
    apply = jax.jit(augment.apply)
    bright = apply(white, still(factors=np.full(3, 0.99, np.float32)))
    close(bright, to_network(augment, np.full((1, 8, 8, 3), 1.392)), 1e-5)
    lit = np.asarray(apply(white, still(alpha=np.asarray((-2, 0, 0), np.float32)))) - white
    close(lit[0, 3, 3], 0.2 * 0.2175 * np.asarray((0.5675, 0.5808, 0.5836)) / np.asarray(augment.std), 1e-5)
    lone = PhotoAugment(mean=(0.5,), std=(0.2,), smallest=1.0)
    grey = to_network(lone, images(1, 8, 8)).astype(np.float32)
    draws = still(alpha=np.ones(3, np.float32), factors=np.asarray((0.5, 0.5, 0.9), np.float32))
    close(jax.jit(lone.apply)(grey, draws), grey, 1e-5)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (30, 44)])
def test_boxes(height, width):
    """Every box lies inside and has between half and all of the area, and boxes reach every corner of the image."""
    augment = PhotoAugment()
    draws = drawn(augment, 4000)
    found = jax.jit(jax.vmap(lambda d: augment.box(height, width, d)))(draws)
    top, left, h, w = map(np.asarray, found)
    whole = np.stack([top, left, h, w])
    np.testing.assert_array_equal(whole, np.round(whole))
    assert top.min() == 0 and left.min() == 0 and (top + h).max() == height and (left + w).max() == width
    share, ratio = h * w / (height * width), w / h
    assert 0.46 < share.min() < 0.52 and share.max() <= 1
    assert 0.7 < ratio.min() < 0.8 and 1.25 < ratio.max() < 1.42
    # The mean share would be 0.75 if all boxes fitted.
    want = np.mean([math.prod(box(augment, height, width, one(draws, i))[2:]) for i in range(400)])
    close(np.mean((h * w)[:400]), want, 0.005 * height * width)


@pytest.mark.parametrize(
    ("height", "width", "want"),
    [(12, 12, (0, 0, 12, 12)), (30, 10, (8, 0, 13, 10)), (10, 31, (0, 9, 10, 13)), (10, 12, (0, 0, 10, 12))],
)
def test_central_box_where_none_fits(height, width, want):
    tall = PhotoAugment(smallest=1.0)
    chosen = jax.jit(lambda boxes: tall.box(height, width, still(boxes=boxes)))
    # The whole area is too tall at the narrowest ratio, and too wide at the widest.
    for ratio in (0.0, 0.999):
        assert tuple(map(int, chosen(np.tile(np.asarray((0.0, ratio), np.float32), (ATTEMPTS, 1))))) == want


def test_first_box_that_fits():
    augment = PhotoAugment()
    boxes = np.asarray([(0.999, 0.0)] * 3 + [(0.2, 0.4)] + [(0.5, 0.5)] * (ATTEMPTS - 4), np.float32)
    draws = still(boxes=boxes, place=np.asarray((0.999, 0.3), np.float32))
    assert tuple(map(int, jax.jit(lambda d: augment.box(20, 20, d))(draws))) == box(augment, 20, 20, draws)
    assert box(augment, 20, 20, draws) != box(augment, 20, 20, draws._replace(boxes=boxes[4:]))


def test_channels_must_be_those_of_mean():
    protocol = replace(IDC_PROTOCOL, augment=PhotoAugment())
    check_augmentations(protocol, (8, 8, 3))
    with pytest.raises(RequestError, match="^protocol.augment: mean has 3 values, but images have 1 channels"):
        check_augmentations(protocol, (8, 8, 1), "protocol.")


# ------------------------------------------------------------------ basic


def test_basic_operations_and_shifts_are_equally_likely():
    augment, n = BasicAugment(), 6000
    draws = drawn(augment, n)
    where = jax.device_put(np.moveaxis(np.indices((28, 28), np.float32), 0, -1))
    # The pixels are their own coordinates, so the middle, which the fill never reaches, shows the shift.
    crops = draws._replace(choice=np.zeros(n, np.float32))
    middle = jax.jit(jax.vmap(lambda d: augment.apply(where[None], d)[0, 14, 14]))
    shifts = np.asarray(middle(crops)) - 14
    for axis in (0, 1):
        values, counts = np.unique(np.round(shifts[:, axis], 3), return_counts=True)
        np.testing.assert_array_equal(values, np.arange(-4, 4))
        assert counts.min() > 0.85 * counts.mean()
    counts = np.bincount((np.asarray(draws.choice) * 3).astype(int))
    assert len(counts) == 3 and counts.min() > 0.95 * n / 3


def test_basic_fills_with_the_mean_of_each_channel():
    x = np.zeros((2, 10, 10, 2), np.float32)
    x[0, 2:8, 2:8, 0], x[1, ..., 1] = 1, 3
    draws = BasicDraws(*jax.device_put((np.float32(0), *np.zeros((2, 2), np.float32), np.float32(0))))
    moved = np.asarray(jax.jit(BasicAugment().apply)(x, draws))
    close(moved[:, :4], np.broadcast_to(x.mean(axis=(1, 2))[:, None, None], (2, 4, 10, 2)), 1e-6)
    close(moved[:, 4:, 4:], x[:, :6, :6], 1e-6)


def test_basic_identities():
    x, halves = images(1, 28, 28).astype(np.float32), np.full(2, 0.5, np.float32)
    moved_by = jax.jit(BasicAugment().apply)
    unmoved_by = jax.jit(BasicAugment(crop=0, scale=0.0, rotate=0.0).apply)
    for choice in (0.1, 0.5, 0.9):
        middle = BasicDraws(*jax.device_put((np.float32(choice), halves, halves, np.float32(0.5))))
        close(moved_by(x, middle), x, 1e-5)
        close(unmoved_by(x, middle._replace(angle=np.float32(0))), x, 1e-5)
