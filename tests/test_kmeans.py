"""Tests k-means against scikit-learn, against figures of DREAM's code (golden README, section 10), and its contract."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.cluster import KMeans, kmeans_plusplus
from sklearn.datasets import make_blobs

from distill_jax.axes.selector import kmeans, lloyd, medoids, plus_plus, squared_distances
from tests.golden_weights import golden_figures

ONCE: dict[str, Any] = {"n_init": 1}

jit_lloyd = jax.jit(lloyd)
jit_medoids = jax.jit(medoids)
jit_kmeans = jax.jit(kmeans, static_argnames="k")
jit_plus_plus = jax.jit(plus_plus, static_argnames="k")


@pytest.fixture(scope="module")
def golden():
    return golden_figures("dream")


@jax.jit
def distances(centres, points):
    return squared_distances(centres, points, jnp.sum(points**2, axis=1))


def inertia(centres, points):
    return float(np.sum(np.min(distances(centres, points), axis=0)))


def padded(points, rows: int):
    """Return ``points`` followed by ``count`` padding points that lie far away."""
    size = points.shape[1]
    return np.concatenate([points, 50 + np.arange(rows * size).reshape(rows, size)]).astype(points.dtype)


def blobs(seed: int, n: int = 300, centres: int = 30):
    points, *_ = make_blobs(n, 8, centers=centres, cluster_std=3.0, random_state=seed)
    return np.asarray(points, np.float32)


# ------------------------------------------------------------------ golden figures


def test_distances_are_those_of_dream(golden):
    ours = np.sqrt(np.maximum(distances(golden["cent"], golden["emb"]), 1e-12))
    np.testing.assert_allclose(ours, golden["dist"], atol=2e-5)


@pytest.mark.parametrize(("centres", "expected"), [("cent", "query_idx"), ("fpk_centers", "query_after_kmeans_idx")])
def test_medoids_are_the_images_that_dream_selects(golden, centres, expected):
    ours = jit_medoids(jnp.asarray(golden["emb"]), 200, jnp.asarray(golden[centres]))
    np.testing.assert_array_equal(ours, golden[expected])


def test_lloyd_is_that_of_scikit_learn(golden, x64):
    points, centres = (jnp.asarray(golden[name], jnp.float64) for name in ("emb", "cent"))
    ours = jit_lloyd(points, 200, centres, 300, 0.0)
    np.testing.assert_array_equal(ours.labels, golden["sk_labels"])
    np.testing.assert_allclose(ours.centres, golden["sk_centers"], rtol=0, atol=1e-13)
    np.testing.assert_allclose(ours.inertia, golden["sk_inertia"], rtol=1e-13)
    assert int(ours.rounds) == int(golden["sk_n_iter"])


def test_lloyd_equals_scikit_learn_in_every_iteration(golden, x64):
    points, centres = (jnp.asarray(golden[name], jnp.float64) for name in ("emb", "cent"))
    for rounds, expected in enumerate(golden["lloyd_inertia_per_iter"]):
        ours = jit_lloyd(points, 200, centres, rounds, 0.0)
        assert ours.rounds == rounds
        np.testing.assert_allclose(ours.inertia, expected, rtol=1e-10)


def test_an_empty_cluster_takes_the_farthest_point_as_in_scikit_learn(golden, x64):
    points, centres = (jnp.asarray(golden[name], jnp.float64) for name in ("emb", "cent_with_far"))
    ours = jit_lloyd(points, 200, centres, 300, 0.0)
    np.testing.assert_allclose(ours.inertia, golden["sk_far_inertia"], rtol=1e-13)


def test_lloyd_in_float32_with_early_stopping_ends_as_the_library_of_dream(golden):
    ours = jit_lloyd(jnp.asarray(golden["emb"]), 200, jnp.asarray(golden["cent"]))
    np.testing.assert_array_equal(ours.labels, golden["fpk_labels"])
    np.testing.assert_allclose(ours.centres, golden["fpk_centers"], atol=2e-5)
    assert ours.rounds == 5


# ------------------------------------------------------------------ against scikit-learn


def test_inertia_is_within_two_percent_of_scikit_learn():
    ours, theirs = [], []
    for seed in range(8):
        points = blobs(seed)
        ours.append(float(jit_kmeans(points, 300, 20, jax.random.key(seed)).inertia))
        theirs.append(KMeans(20, random_state=seed, **ONCE).fit(points).inertia_)
    assert np.mean(ours) <= 1.02 * np.mean(theirs)


def test_the_initial_centres_are_as_good_as_those_of_scikit_learn():
    ours, theirs = [], []
    for seed in range(16):
        points = blobs(seed)
        centres = points[np.asarray(jit_plus_plus(points, 300, 20, jax.random.key(seed)))]
        ours.append(inertia(centres, points))
        theirs.append(inertia(kmeans_plusplus(points, 20, random_state=seed)[0], points))
    assert np.mean(ours) <= 1.02 * np.mean(theirs)


# ------------------------------------------------------------------ properties


def test_the_returned_state_is_consistent():
    points = blobs(0)
    clusters = jit_kmeans(points, 300, 20, jax.random.key(0))
    expected = np.asarray(distances(clusters.centres, points))
    np.testing.assert_array_equal(clusters.labels, expected.argmin(0))
    np.testing.assert_allclose(clusters.inertia, expected.min(0).sum(), rtol=1e-4)
    for c, centre in enumerate(np.asarray(clusters.centres)):
        np.testing.assert_allclose(centre, points[clusters.labels == c].mean(0), atol=0.05)


def test_padding_has_no_influence_and_is_never_chosen():
    points, key = blobs(1, n=60), jax.random.key(3)
    alone = jit_kmeans(points, 60, 8, key)
    more = padded(points, 20)
    clusters = jit_kmeans(more, 60, 8, key)
    labels = np.asarray(clusters.labels)
    np.testing.assert_array_equal(labels[:60], alone.labels)
    np.testing.assert_array_equal(labels[60:], 8)
    np.testing.assert_allclose(clusters.centres, alone.centres, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(clusters.inertia, alone.inertia, rtol=1e-5)
    # Even centres that lie in the padding choose a real point.
    assert np.max(jit_medoids(more, 60, more[-8:])) < 60
    assert max(int(np.max(jit_plus_plus(more, 60, 30, jax.random.key(i)))) for i in range(3)) < 60


def test_a_random_start_takes_every_real_point_equally_often():
    """Without iterations the centres are the initial points."""
    points = jax.device_put(padded(np.asarray([[0.0], [10.0], [30.0]], np.float32), 3))
    keys = jax.random.split(jax.random.key(4), 600)
    starts = jax.jit(jax.vmap(lambda key: kmeans(points, 3, 2, key, iterations=0, start="random").centres[:, 0]))(keys)
    values, counts = np.unique(np.round(np.asarray(starts), 3), return_counts=True)
    np.testing.assert_array_equal(values, [0, 10, 30])
    assert np.abs(counts - 400).max() < 5 * np.sqrt(400 * 2 / 3), "five standard errors"
    assert np.abs(np.corrcoef(starts, rowvar=False)[0, 1]) < 0.2, "five standard errors"


def test_sets_of_different_size_are_clustered_together_as_one_by_one():
    sets = np.stack([padded(blobs(seed, n), 60 - n) for seed, n in ((0, 40), (1, 60), (2, 25))])
    counts, keys = np.asarray([40, 60, 25]), jax.random.split(jax.random.key(1), 3)
    vmapped = jax.jit(jax.vmap(kmeans, in_axes=(0, 0, None, 0)), static_argnums=2)
    together = jax.device_get(vmapped(sets, counts, 8, keys))
    for i in range(3):
        one = jit_kmeans(sets[i], int(counts[i]), 8, keys[i])
        np.testing.assert_array_equal(together.labels[i], one.labels)
        np.testing.assert_allclose(together.centres[i], one.centres, rtol=1e-5, atol=1e-5)
        assert together.rounds[i] == one.rounds


# Sixty rows of eight numbers in eight clusters, as above, so that the tests share a program.


def test_as_many_clusters_as_points_find_every_point():
    points = padded(blobs(4, n=8), 52)
    clusters = jit_kmeans(points, 8, 8, jax.random.key(0))
    assert sorted(jit_medoids(points, 8, clusters.centres).tolist()) == list(range(8))
    np.testing.assert_allclose(clusters.inertia, 0, atol=1e-2)


def test_duplicate_points_fewer_than_clusters():
    points = padded(np.tile(blobs(5, n=3), (5, 1)), 45)
    clusters = jit_kmeans(points, 15, 8, jax.random.key(0))
    assert np.isfinite(clusters.centres).all()
    assert set(jit_medoids(points, 15, clusters.centres).tolist()) == {0, 1, 2}
    equal = np.ones((60, 8), np.float32)
    assert np.isfinite(jit_kmeans(equal, 60, 8, jax.random.key(0)).centres).all()


def test_medoids_break_ties_by_the_lowest_index_and_keep_duplicates():
    points = np.asarray([[0], [1], [1], [3]], np.float32)
    np.testing.assert_array_equal(
        jit_medoids(points, 4, np.asarray([[1], [0.5], [1.1], [9]], np.float32)), [1, 0, 1, 3]
    )
