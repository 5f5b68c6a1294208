"""Tests coresets: the rules against naive implementations of their definitions, and their use as baselines."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax.axes.init import Herding, KCenter, KMeansInit
from distill_jax.axes.selector import herding, k_center
from distill_jax.axes.selector.rules import choose
from distill_jax.contracts import Initialisation
from distill_jax.types import RequestError
from tests.test_select import COUNTS, KEY, MODEL, NET, data  # noqa: F401  (a fixture)

POINTS = np.random.default_rng(2).normal(size=(30, 5)).astype(np.float32)


def herded(points, k):
    """Choose by brute force the point that brings the mean of the chosen points nearest to the mean of all."""
    chosen: list[int] = []
    for _ in range(k):
        gaps = {
            i: np.linalg.norm(points.mean(0) - points[[*chosen, i]].mean(0))
            for i in range(len(points))
            if i not in chosen
        }
        chosen.append(min(gaps, key=gaps.__getitem__))
    return chosen


def centred(points, k):
    """Choose by brute force the point nearest to the mean, then the points farthest from all chosen ones."""
    chosen = [int(np.linalg.norm(points - points.mean(0), axis=1).argmin())]
    while len(chosen) < k:
        gaps = np.linalg.norm(points[:, None] - points[None, chosen], axis=2).min(1)
        chosen.append(int(gaps.argmax()))
    return chosen


@pytest.mark.parametrize(("rule", "naive"), [(herding, herded), (k_center, centred)])
def test_rules_are_their_definitions_and_never_choose_padding(rule, naive):
    jitted = jax.jit(rule, static_argnums=2)
    alone = jnp.asarray(POINTS)
    # If padding counted, herding would choose it near the mean of all, and k-center far away.
    more = jnp.concatenate([alone, jnp.tile(alone.mean(0, keepdims=True), (4, 1)), jnp.full((2, 5), 99.0)])
    for points in (alone, more):
        np.testing.assert_array_equal(jitted(points, jnp.asarray(30), 12, KEY), naive(POINTS, 12))
    assert sorted(jitted(more, jnp.asarray(30), 30, KEY).tolist()) == list(range(30))


@pytest.mark.parametrize("init", [Herding(), KCenter(), KMeansInit(normalise=True)])
def test_a_coreset_is_of_different_images_of_the_class(init, data):  # noqa: F811
    positions = jax.jit(choose, static_argnums=(0, 1, 4, 6))(init.rule, NET, MODEL, data, 6, KEY, init.normalise)
    rows = np.take_along_axis(np.asarray(data.index), np.asarray(positions), axis=1)
    labels, images = np.asarray(data.labels), np.asarray(data.images)
    np.testing.assert_array_equal(labels[rows], np.repeat(np.arange(3), 6).reshape(3, 6))
    start = jax.jit(init.images, static_argnums=(0, 3, 4))(NET, MODEL, data, 6, 1, KEY)
    np.testing.assert_allclose(start, images[rows] / np.float32(255), rtol=1e-6)
    if not isinstance(init, KMeansInit):
        assert all(len(set(row.tolist())) == 6 for row in rows)


def test_a_coreset_larger_than_a_class_is_refused():
    for init in (Herding(), KCenter(), KMeansInit()):
        init.check(COUNTS, 9, 1)
        with pytest.raises(RequestError, match="10 different images for --init, but class 2 has only 9"):
            init.check(COUNTS, 10, 1)
        assert isinstance(init, Initialisation)
