"""Tests the selectors and initialisation by k-means: the selected images, the intervals of clustering, and refusals."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax import mesh
from distill_jax.axes.init import KMeansInit, tile
from distill_jax.axes.selector import (
    NoReal,
    RandomBatch,
    Representative,
    choose,
    embed,
    kmeans,
    representative,
    representatives,
    rules,
)
from distill_jax.contracts import Initialisation, Selector
from distill_jax.nets import ConvNet
from distill_jax.platform import compiled_for
from distill_jax.types import Model, NetOutput, RealData, RequestError

COUNTS = (12, 20, 9)


@dataclass(frozen=True)
class Looks:
    """A net whose embedding is the image times its only parameter."""

    def init(self, key):
        return Model(params={"scale": jnp.ones(())}, stats={})

    def apply(self, model, x, train):
        assert not train, "images are embedded in evaluation mode"
        embedding = x.reshape(x.shape[0], -1) * model.params["scale"]
        return NetOutput(embedding[:, :3], (), embedding), {}


NET = Looks()
MODEL = NET.init(jax.random.key(0))
KEY = jax.random.key(1)
FEW = Representative(batch=4, every=3, start="plus-plus")
NONE = jnp.full((3, 4), 7, jnp.int32)
"""a previous selection that no clustering would return"""

jit_kmeans = jax.jit(kmeans, static_argnums=2)
jit_embed = jax.jit(embed, static_argnums=(0, 3, 4))


@pytest.fixture(scope="module")
def data() -> RealData:
    """Return three classes of different sizes, with their images mixed."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(3), COUNTS)).astype(np.int32)
    images = rng.integers(0, 256, (len(labels), 4, 4, 1), np.uint8)
    return RealData.from_arrays(images, labels, [0.5], [0.5])


@partial(jax.jit, static_argnums=0)
def select(selector, model, data, inner, memory, key):
    return selector.select(NET, model, data, memory, inner, key)


@partial(jax.jit, static_argnums=2)
def four_medoids(data, key, chunk=0):
    return choose(representatives, NET, MODEL, data, 4, key, False, chunk)


# ------------------------------------------------------------------ embeddings


def test_embeddings_are_of_plain_or_normalised_images(data):
    pixels = np.asarray(data.images).reshape(len(data.images), -1) / np.float32(255)
    np.testing.assert_allclose(jit_embed(NET, MODEL, data, False), pixels, rtol=1e-6)
    np.testing.assert_allclose(jit_embed(NET, MODEL, data, True), (pixels - 0.5) / 0.5, rtol=1e-6, atol=1e-6)


def test_embeddings_do_not_depend_on_the_batch(data):
    net = ConvNet(depth=1, width=4).build((4, 4, 1), 3)
    model = jax.jit(net.init)(KEY)
    whole = jit_embed(net, model, data, False)
    for batch in (1, 7, 41):
        np.testing.assert_allclose(jit_embed(net, model, data, False, batch), whole, rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------ representative matching


def test_the_images_nearest_to_the_centres_are_selected(data):
    selection, memory = map(np.asarray, select(FEW, MODEL, data, jnp.asarray(0), NONE, KEY))
    np.testing.assert_array_equal(memory, selection)
    assert selection.shape == (3, 4) and selection.dtype == np.int32
    embeddings = np.asarray(jit_embed(NET, MODEL, data, False))
    for c, key in enumerate(jax.random.split(KEY, 3)):
        points = embeddings[data.index[c]]
        centres = np.asarray(jit_kmeans(jnp.asarray(points), COUNTS[c], 4, key).centres, np.float64)
        gaps = np.linalg.norm(points[None, : COUNTS[c]] - centres[:, None], axis=2)
        # Rounded, because the two points of a cluster of two are a tie.
        np.testing.assert_array_equal(selection[c], gaps.round(4).argmin(1))


def test_the_padding_of_a_small_class_is_never_selected(data):
    for seed in range(5):
        assert (np.asarray(four_medoids(data, jax.random.key(seed))) < np.asarray(COUNTS)[:, None]).all()


def test_clustering_repeats_every_few_steps_with_the_current_model(data):
    shown = [np.asarray(select(FEW, MODEL, data, jnp.asarray(i), NONE, jax.random.key(i))[0]) for i in range(7)]
    for i in (1, 2, 4, 5):
        np.testing.assert_array_equal(shown[i], NONE)
    for i in (0, 3, 6):
        assert (shown[i] != NONE).any()
    # If the model makes all images alike, the first image is nearest to every centre.
    blind = MODEL._replace(params={"scale": jnp.zeros(())})
    np.testing.assert_array_equal(select(FEW, blind, data, jnp.asarray(3), NONE, KEY)[0], 0)


@pytest.mark.parametrize("selector", [Representative(4), Representative(5, 1, 7, "plus-plus", True, 2)])
def test_clustering_follows_the_options(selector, data, monkeypatch):
    clusterings = []

    def choose(rule, net, model, data, k, key, normalise, chunk):
        clusterings.append((rule.keywords, k, normalise, chunk))
        return jnp.zeros((3, k), jnp.int32)

    monkeypatch.setattr(representative, "choose", choose)
    jax.eval_shape(lambda: selector.select(NET, MODEL, data, selector.init(NET, None, data), jnp.asarray(0), KEY))
    options = {"iterations": selector.iterations, "start": selector.start}
    assert clusterings[0] == (options, selector.batch, selector.normalise, selector.chunk)
    assert (selector.start, selector.iterations) in (("random", 100), ("plus-plus", 7))


def test_the_selection_does_not_depend_on_how_many_classes_are_visited_at_once(data):
    automatic = four_medoids(data, KEY)
    for chunk in (1, 2, 3):
        np.testing.assert_array_equal(four_medoids(data, KEY, chunk), automatic)


def drawn(points, count, k, key):
    """A rule that compiles fast: draws lots with the smallest sums of a pixel and a random number."""
    lots = points[:, 0] + jax.random.uniform(key, (len(points),))
    return jnp.argsort(jnp.where(jnp.arange(len(points)) < count, lots, jnp.inf))[:k].astype(jnp.int32)


def test_an_accelerator_visits_as_many_classes_at_once_as_fit(data, monkeypatch):
    chunks = []

    def chosen():
        return np.asarray(jax.jit(lambda data, key: choose(drawn, NET, MODEL, data, 4, key, False))(data, KEY))

    def recorded(f, xs, chunk, *shared):
        chunks.append(chunk)
        return mesh.map_chunks(f, xs, chunk, *shared)

    expected = chosen()
    monkeypatch.setattr(rules, "mesh", SimpleNamespace(map_chunks=recorded))
    numbers = data.index.shape[1] * jit_embed(NET, MODEL, data, False).shape[1]
    for most, chunk in ((rules.NUMBERS_AT_ONCE, data.classes), (numbers, 1)):
        monkeypatch.setattr(rules, "NUMBERS_AT_ONCE", most)
        with compiled_for("gpu"):
            np.testing.assert_array_equal(chosen(), expected)
        assert chunks[-1] == chunk
    monkeypatch.setattr(rules, "MOST_NUMBERS", 0)  # embeds one class at a time
    with compiled_for("gpu"):
        np.testing.assert_array_equal(chosen(), expected)


def test_invalid_requests_are_refused():
    assert isinstance(Representative(), Selector)
    for field, value in (("batch", 0), ("every", 0), ("iterations", 0), ("chunk", -1)):
        with pytest.raises(RequestError, match=f"selector.{field} is {value}"):
            replace(Representative(), **{field: value}).validate()
    Representative(batch=9).check(COUNTS, 1, 1)
    with pytest.raises(RequestError, match=r"selector.batch sets 10 clusters, but class 2 has only 9 images") as error:
        Representative(batch=10).check(COUNTS, 1, 1)
    assert "\n" not in str(error.value) and "--selector random" in str(error.value)


# ------------------------------------------------------------------ the start


def test_images_start_as_medoids_in_cells(data):
    images = jax.jit(KMeansInit().images, static_argnums=(0, 3, 4))(NET, MODEL, data, 1, 2, KEY)
    assert images.shape == (3, 1, 4, 4, 1) and images.dtype == jnp.float32
    positions = np.asarray(four_medoids(data, KEY))
    for c in range(3):
        chosen = np.asarray(data.images)[np.asarray(data.index)[c, positions[c]]] / np.float32(255)
        np.testing.assert_allclose(images[c], tile(jnp.asarray(chosen), 1, 2), rtol=1e-6)


def test_more_medoids_than_images_are_refused():
    assert isinstance(KMeansInit(), Initialisation)
    KMeansInit().check(COUNTS, 2, 2)
    with pytest.raises(
        RequestError, match="ipc 3 and factor 2 need 12 different images for --init, but class 2 has only 9"
    ):
        KMeansInit().check(COUNTS, 3, 2)


# ------------------------------------------------------------------ the others


def test_random_batches_are_of_the_class_and_distinct_while_they_last(data):
    selector = RandomBatch(12, cycle=False)
    rows, memory = select(selector, MODEL, data, 0, selector.init(NET, None, data), KEY)
    rows = np.asarray(rows)
    assert rows.dtype == np.int32 and memory == ()
    for c, count in enumerate(COUNTS):
        assert rows[c].max() < count
        assert len(set(rows[c].tolist())) == min(12, count)
    with pytest.raises(RequestError, match="selector.batch"):
        RandomBatch(0).validate()


def test_all_images_of_a_class_are_used_before_one_repeats(data):
    """As in IDC's loader, each class has a permutation, and a new one starts when the rest is smaller than a batch."""
    selector, batch = RandomBatch(3), 3
    memory, shown = selector.init(NET, None, data), []
    for step in range(8):
        rows, memory = select(selector, MODEL, data, step, memory, jax.random.key(step))
        shown.append(np.asarray(rows))
    for c, count in enumerate(COUNTS):
        whole = count // batch
        for first in range(0, 8 - whole + 1, whole):
            together = np.concatenate([rows[c] for rows in shown[first : first + whole]])
            assert len(set(together.tolist())) == whole * batch and together.max() < count
    assert len({tuple(rows[0].tolist()) for rows in shown}) > 4


def test_a_class_smaller_than_a_batch_repeats(data):
    rows, _ = select(RandomBatch(32), MODEL, data, 0, RandomBatch(32).init(NET, None, data), KEY)
    for c, count in enumerate(COUNTS):
        assert set(np.asarray(rows[c]).tolist()) == set(range(min(count, 32)))


def test_no_real_selects_no_images(data):
    rows, _ = select(NoReal(), MODEL, data, 0, NoReal().init(NET, None, data), KEY)
    assert rows.shape == (3, 0)
