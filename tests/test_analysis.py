"""Tests the figures of an analysis against plain loops, and against their exact values if these are known."""

from typing import Any

import jax
import numpy as np
import pytest

from distill_jax import analysis, tree
from distill_jax.axes.models import RandomInit
from distill_jax.axes.objective import class_gradient
from distill_jax.axes.perturb import Directions
from distill_jax.axes.selector import RandomBatch, Representative, embed
from distill_jax.distill import Problem
from distill_jax.types import Array, Model, Synthetic
from tests import toy

KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def problem() -> Problem:
    return toy.problem("acc_dd")


@pytest.fixture(scope="module")
def model(problem: Problem) -> Model:
    return tree.take(problem.pool, 0)


@pytest.fixture(scope="module")
def embedded(problem: Problem, model: Model) -> list[np.ndarray]:
    """Return the embeddings of each class, in data-set order."""
    points = jax.jit(lambda model, data: embed(problem.net, model, data, normalise=True))(model, problem.data)
    return [np.asarray(points, np.float64)[np.asarray(problem.data.labels) == c] for c in range(2)]


distances = jax.jit(analysis.distances, static_argnums=0)


def test_part_limits_the_images_of_each_class() -> None:
    whole, part = toy.data(), analysis.part(toy.data(), 8, KEY)
    assert part.counts.tolist() == [8, 7] and whole.counts.tolist() == [9, 7]
    assert part.normaliser == whole.normaliser
    of_class = {
        (image.tobytes(), int(c)) for image, c in zip(*map(np.asarray, (whole.images, whole.labels)), strict=True)
    }
    kept = {(image.tobytes(), int(c)) for image, c in zip(*map(np.asarray, (part.images, part.labels)), strict=True)}
    assert len(kept) == 15 and kept < of_class
    other = analysis.part(toy.data(), 8, jax.random.key(0))
    assert other.images.tobytes() != part.images.tobytes(), "random images"


def test_gradient_norms_equal_those_of_a_loop(problem: Problem, model: Model) -> None:
    data = problem.data
    norms = np.asarray(analysis.gradient_norms(problem.net, model, data))
    images, labels = map(np.asarray, (data.images, data.labels))

    @jax.jit
    def by_one(image: Array, c: Array):
        return class_gradient(problem.net, model, data.normaliser.to_network(image[None]), c)

    for i in (0, 8, 15):
        leaves = jax.tree.leaves(by_one(images[i], labels[i]))
        by_hand = np.sqrt(sum(np.sum(np.asarray(leaf, np.float64) ** 2) for leaf in leaves))
        np.testing.assert_allclose(norms[i], by_hand, rtol=1e-4)  # two compiled programs of float32 convolutions


def test_distances_from_the_centre_are_in_spreads(problem: Problem, model: Model, embedded: list[np.ndarray]) -> None:
    found = analysis.centre_distances(problem.net, model, problem.data)
    for c, points in enumerate(embedded):
        away = np.linalg.norm(points - points.mean(axis=0), axis=1)
        mine = np.asarray(found)[np.asarray(problem.data.labels) == c]
        np.testing.assert_allclose(mine, away / np.sqrt(np.mean(away**2)), rtol=1e-4)
        np.testing.assert_allclose(np.mean(mine**2), 1, rtol=1e-5)


def test_distances_of_a_selection(problem: Problem, model: Model, embedded: list[np.ndarray]) -> None:
    rows = np.asarray([[0, 4, 8], [6, 1, 1]], np.int32)
    found = distances(problem.net, model, problem.data, rows)
    for c, points in enumerate(embedded):
        selected = points[rows[c]]
        spread = np.sqrt(np.mean(np.sum((points - points.mean(axis=0)) ** 2, axis=1)))
        nearest = np.linalg.norm(points[:, None] - selected[None], axis=2).min(axis=1)
        between = np.linalg.norm(selected.mean(axis=0) - points.mean(axis=0))
        # Squared distances are computed from inner products in float32.
        np.testing.assert_allclose(found.mean[c], between / spread, rtol=1e-4)
        np.testing.assert_allclose(found.cover[c], nearest.mean() / spread, rtol=1e-3)


def test_the_whole_class_has_distance_zero_from_itself(problem: Problem, model: Model) -> None:
    # 63 = 7 x 9, so each image occurs equally often.
    rows = np.stack([np.arange(63, dtype=np.int32) % count for count in toy.COUNTS])
    found = distances(problem.net, model, problem.data, rows)
    np.testing.assert_allclose(found.mean, 0, atol=1e-5)  # rounding error of a mean
    np.testing.assert_array_equal(found.cover, 0)


def test_a_walk_in_blocks_is_the_walk_at_once(problem: Problem) -> None:
    selectors = (RandomBatch(4), Representative(4, every=2))
    whole, part = (analysis.begin_walk(problem, selectors, 5) for _ in range(2))
    start = jax.device_get(whole.model.params)
    whole = analysis.walk_on(problem, selectors, whole, 0, 5)
    part = analysis.walk_on(problem, selectors, part, 0, 2)
    assert np.all(np.asarray(part.seen.mean)[:, :2] > 0) and not np.any(np.asarray(part.seen.mean)[:, 2:])
    part = analysis.walk_on(problem, selectors, part, 2, 3)
    assert jax.tree.all(jax.tree.map(np.array_equal, whole, part))
    assert whole.seen.cover.shape == (2, 5, 2) and [rows.shape for rows in whole.rows] == [(2, 4), (2, 4)]
    moved = jax.tree.map(lambda a, b: np.any(a != np.asarray(b)), start, whole.model.params)
    assert any(jax.tree.leaves(moved)), "the network takes the method's updates"


def test_a_walk_measures_its_selections_for_the_model_that_they_were_made_for(problem: Problem) -> None:
    selectors = (RandomBatch(4), Representative(4, every=2))
    walk = analysis.walk_on(problem, selectors, analysis.begin_walk(problem, selectors, 5), 0, 1)
    model, kept = jax.tree.map(np.array, (walk.model, walk.rows[1]))
    walk = analysis.walk_on(problem, selectors, walk, 1, 1)
    np.testing.assert_array_equal(walk.rows[1], kept)  # two steps share a clustering
    for s, rows in enumerate(walk.rows):
        found = distances(problem.net, model, problem.data, rows)
        mean, cover = (np.asarray(seen)[s, 1] for seen in walk.seen)
        np.testing.assert_allclose(mean, found.mean, rtol=1e-4)
        np.testing.assert_allclose(cover, found.cover, rtol=1e-3)


def gradients(problem: Problem, models: Model) -> np.ndarray:
    pixels: Any = np.random.default_rng(0).uniform(size=(2, 2, *toy.SHAPE)).astype(np.float32)
    synthetic = Synthetic(pixels, learnable=problem.spec.objective.learnable())
    rows: Any = np.asarray([[0, 1, 2, 3], [3, 2, 1, 0]], np.int32)
    models = jax.device_get(models)
    members = [jax.tree.map(lambda a, k=k: a[k], models) for k in range(len(jax.tree.leaves(models.params)[0]))]
    return np.stack([analysis.matching_gradient(problem, member, synthetic, rows, KEY) for member in members])


def cosines(of: np.ndarray) -> np.ndarray:
    found: Any = jax.jit(analysis.cosines)(of.astype(np.float32))
    return np.asarray(found)


def test_the_cosine_of_equal_models_is_one(problem: Problem, model: Model) -> None:
    still = toy.problem("acc_dd", perturb=Directions(max=0.0))
    copies = analysis.perturbed_copies(still, model, 3, KEY)
    np.testing.assert_allclose(cosines(gradients(still, copies)), 1, rtol=1e-5)
    moved = analysis.perturbed_copies(problem, model, 3, KEY)
    pairs = cosines(gradients(problem, moved))
    np.testing.assert_allclose(np.diag(pairs), 1, rtol=1e-5)
    np.testing.assert_allclose(pairs, pairs.T, rtol=1e-5)
    assert np.all(pairs[~np.eye(3, dtype=bool)] < 1 - 1e-4)


def test_cosines_equal_those_of_a_loop() -> None:
    rng = np.random.default_rng(0)
    of = rng.normal(size=(3, 2, 5))
    of[2, 1] = 0  # a zero gradient has no direction
    by_hand = np.zeros((3, 3))
    for a in range(3):
        for b in range(3):
            for c in range(2):
                length = np.linalg.norm(of[a, c]) * np.linalg.norm(of[b, c])
                by_hand[a, b] += of[a, c] @ of[b, c] / length / 2 if length else 0
    np.testing.assert_allclose(cosines(of), by_hand, rtol=1e-5, atol=1e-6)


def test_an_objective_of_the_whole_set_gives_gradients() -> None:
    problem = toy.problem("cafe")
    found = gradients(problem, RandomInit().sample(problem.net, None, 2, 0, KEY))
    assert found.shape == (2, 2, 2 * 8 * 8) and np.all(np.linalg.norm(found, axis=2) > 0)


def test_no_two_models_are_equal(problem: Problem) -> None:
    found = analysis.distinct_models(problem, 4, KEY)
    leaf = np.asarray(jax.tree.leaves(found.params)[0])
    assert len(leaf) == 2, "the pool has no more"
    assert len(np.unique(leaf.reshape(2, -1), axis=0)) == 2


def test_pseudo_values() -> None:
    points = np.random.default_rng(1).normal(size=(5, 5))
    pairs = points @ points.T
    off = pairs[~np.eye(5, dtype=bool)]
    values = analysis.pseudo_values(pairs)
    np.testing.assert_allclose(np.mean(values), off.mean())
    for i in range(5):
        without = np.delete(np.delete(pairs, i, 0), i, 1)[~np.eye(4, dtype=bool)].mean()
        np.testing.assert_allclose(values[i], 5 * off.mean() - 4 * without)
    assert analysis.pseudo_values(pairs[:2, :2]) == [pytest.approx(pairs[0, 1])]
