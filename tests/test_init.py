"""Tests initialisation against golden section 5, and drawing without repetition."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax.axes.init import Mix, Noise, RandomReal
from distill_jax.axes.init.first_images import _grid
from distill_jax.axes.selector import draw_distinct
from distill_jax.contracts import Initialisation
from distill_jax.types import RealData, RequestError
from tests.golden_weights import golden_figures

FIGURES = golden_figures("decode")
KEY = jax.random.key(3)
NET: Any = None  # nor a model: only k-means uses them


def nhwc(x):
    return jnp.asarray(np.asarray(x).transpose(0, 2, 3, 1))


def close(got, want, tolerance):
    np.testing.assert_allclose(np.asarray(got, np.float64), np.asarray(want, np.float64), rtol=0, atol=tolerance)


def real_data(images, labels):
    """Return real data with mean and deviation that differ from those of the images."""
    channels = images.shape[-1]
    return RealData.from_arrays(images, labels, np.full(channels, 0.4), np.full(channels, 0.2))


def numbered(labels, side=4):
    """Return real data in which all pixels of image n have the value n."""
    images = np.arange(len(labels), dtype=np.uint8)[:, None, None, None] * np.ones((1, side, side, 1), np.uint8)
    return real_data(images, np.asarray(labels))


@pytest.mark.parametrize("case", ["mix2_32", "mix3_32", "mix3_64"])
def test_mix_golden(case):
    real, want = FIGURES[f"{case}__real_u8"], FIGURES[f"{case}__init_u8"]
    classes, factor, ipc = len(real), int(case[3]), len(want) // len(real)
    # Classes interleaved, so that the index matters.
    images = np.moveaxis(real, 0, 1).reshape(-1, *real.shape[2:]).transpose(0, 2, 3, 1)
    data = real_data(images, np.tile(np.arange(classes), real.shape[1]))
    got = jax.jit(lambda data: Mix("first").images(NET, NET, data, ipc, factor, KEY))(data)
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(np.round(np.asarray(got) * 255), nhwc(want).reshape(got.shape))
    close(got * 255, np.round(got * 255), 1e-4)


def test_nearest_tables_golden():
    for name in (n for n in FIGURES if n.startswith("nearest_")):
        side, small = int(name.split("_")[1]), int(name.split("_")[3])
        cell, source = _grid(side, round(side / small))
        tables = [source[cell == k].tolist() for k in range(cell.max() + 1)]
        assert FIGURES[name].tolist() in tables
        assert [len(table) for table in tables] == sorted((len(table) for table in tables), reverse=True)


@pytest.mark.parametrize("init", [RandomReal(), Mix("random"), Mix("first")])
def test_real_initialisation_uses_distinct_images_of_the_class(init):
    assert isinstance(init, Initialisation)
    labels = [0, 1, 1, 0, 1, 1, 1, 0, 1, 1, 1, 1, 1]
    data, ipc, factor = numbered(labels), 2, 2
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
    data = numbered([0] * 3 + [1] * 40)
    draw = jax.jit(jax.vmap(lambda key: draw_distinct(key, data, 7)))
    rows = np.asarray(draw(jax.random.split(KEY, 500)))
    assert rows.dtype == np.int32
    for first in rows[:, 0]:
        assert sorted(first[:3]) == [0, 1, 2]
        np.testing.assert_array_equal(first, np.resize(first[:3], 7))
    assert all(len(set(second)) == 7 for second in rows[:, 1])
    counts = np.bincount(rows[:, 1].ravel(), minlength=40)
    assert counts.min() > 0.6 * counts.mean() and counts.max() < 1.5 * counts.mean()


def test_the_images_drawn_from_two_classes_are_independent():
    data = numbered([0, 1, 1, 0, 0, 1])
    drawn = jax.jit(jax.vmap(lambda key: draw_distinct(key, data, 1)[:, 0]))(jax.random.split(KEY, 900))
    pairs, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(pairs) == 9 and np.abs(counts - 100).max() < 5 * np.sqrt(100 * 8 / 9), "five standard errors"


def test_noise_is_standard_normal_in_network_space():
    data = numbered([0, 1, 1], side=16)
    images = jax.jit(lambda data, key: Noise().images(NET, NET, data, 10, 2, key))(data, KEY)
    assert isinstance(Noise(), Initialisation) and images.shape == (2, 10, 16, 16, 1)
    network = (np.asarray(images) - np.asarray(data.normaliser.mean)) / np.asarray(data.normaliser.std)
    assert abs(network.mean()) < 0.05 and abs(network.std() - 1) < 0.05


def test_an_unknown_order_is_refused():
    with pytest.raises(RequestError, match="'random' or 'first'") as error:
        Mix("last").validate()
    assert "\n" not in str(error.value)
