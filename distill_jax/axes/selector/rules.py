"""Rules that choose some of a class's images by where their embeddings lie: k-means medoids, herding, k-center."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from distill_jax import mesh
from distill_jax.axes.selector.kmeans import centroid, kmeans, medoids, squared_distances
from distill_jax.micro_batches import forward_batch
from distill_jax.platform import on_cpu
from distill_jax.types import Array, Model, Net, Normaliser, RealData

Rule: TypeAlias = Callable[[Array, Array, int, Array], Array]
"""(points [N, E], how many of them are real, k, key) -> int32 [k]: the points chosen"""


class Seen(NamedTuple):
    """What a network makes of N images."""

    logits: Array
    """float32 [N, C]"""
    embedding: Array
    """float32 [N, E]"""


def choose(
    rule: Rule, net: Net, model: Model, data: RealData, k: int, key: Array, normalise: bool, chunk: int = 0
) -> Array:
    """int32 [C, k] rows of ``data.index``: those that ``rule`` chooses of each class, no class smaller than ``k``.

    ``chunk`` classes are visited at once on each device (0: one on CPU, all elsewhere); the choice does not depend on
    it.
    """
    embeddings = embed(net, model, data, normalise)

    def of_class(each: tuple[Array, Array, Array], embeddings: Array) -> Array:
        index, count, key = each
        return rule(embeddings[index], count, k, key)

    chunk = chunk or (1 if on_cpu() else data.classes)
    each = (data.index, data.counts, jax.random.split(key, data.classes))
    return mesh.map_chunks(of_class, each, chunk, embeddings)


def embed(net: Net, model: Model, data: RealData, normalise: bool, batch: int = 0) -> Array:
    """float32 [N, E]: embeddings of all real images, ``batch`` at a time, in evaluation mode.

    DREAM shows the network images in [0, 1], although it is trained on normalised ones.
    """
    normaliser = data.normaliser
    if not normalise:
        normaliser = Normaliser(jnp.zeros_like(normaliser.mean), jnp.ones_like(normaliser.std))
    return seen(net, model, data._replace(normaliser=normaliser), batch).embedding


def seen(net: Net, model: Model, data: RealData, batch: int = 0) -> Seen:
    """What a network makes of all real images, ``batch`` (0: ``forward_batch``) at a time, in evaluation mode."""
    n = data.images.shape[0]
    batch = min(batch, n) or forward_batch(data.images)
    rows = jnp.arange(-(-n // batch) * batch) % n

    def of_batch(rows: Array, model: Model, images: Array, normaliser: Normaliser) -> Seen:
        out, _ = net.apply(model, normaliser.to_network(images[rows]), train=False)
        return Seen(out.logits, out.embedding)

    batches = mesh.map_chunks(of_batch, rows.reshape(-1, batch), 1, model, data.images, data.normaliser)
    return jax.tree.map(lambda a: a.reshape(-1, a.shape[-1])[:n], batches)


# ------------------------------------------------------------------ the rules


def representatives(
    points: Array, count: Array, k: int, key: Array, iterations: int = 100, start: str = "plus-plus"
) -> Array:
    """The point nearest to each of ``k`` k-means centres; centres may share one (DREAM section 3.2)."""
    return medoids(points, count, kmeans(points, count, k, key, iterations, start).centres)


def herding(points: Array, count: Array, k: int, key: Array) -> Array:
    """Greedily, the point that brings the mean of those chosen nearest to the mean of all (Welling 2009; iCaRL)."""
    mean, real, squares = centroid(points, count), jnp.arange(points.shape[0]) < count, jnp.sum(points**2, axis=1)

    def add(i: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        rows, free, missing = carry
        # |mean - (sum + x) / (i + 1)| is least for the x nearest to (i + 1) mean - sum.
        missing = missing + mean
        row = jnp.argmin(jnp.where(free, squared_distances(missing[None, :], points, squares)[0], jnp.inf))
        return rows.at[i].set(row.astype(jnp.int32)), free.at[row].set(False), missing - points[row]

    return jax.lax.fori_loop(0, k, add, (jnp.zeros(k, jnp.int32), real, jnp.zeros_like(mean)))[0]


def k_center(points: Array, count: Array, k: int, key: Array) -> Array:
    """The point nearest to the mean, then always the one farthest from those chosen (Sener and Savarese 2018)."""
    real, squares = jnp.arange(points.shape[0]) < count, jnp.sum(points**2, axis=1)

    def away(point: Array) -> Array:
        return jnp.where(real, squared_distances(point[None, :], points, squares)[0], -1)

    first = medoids(points, count, centroid(points, count)[None, :])

    def add(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        rows, nearest = carry
        row = jnp.argmax(nearest).astype(jnp.int32)
        return rows.at[i].set(row), jnp.minimum(nearest, away(points[row]))

    rows = jnp.broadcast_to(first, (k,))
    return jax.lax.fori_loop(1, k, add, (rows, away(points[first[0]])))[0]
