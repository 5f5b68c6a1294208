"""Rules that choose images of a class by their embeddings: k-means medoids, herding, k-center."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from distill_jax import mesh, tree
from distill_jax.axes.selector.kmeans import centroid, kmeans, medoids, squared_distances
from distill_jax.micro_batches import forward_batch
from distill_jax.platform import on_cpu
from distill_jax.types import Array, Model, Net, Normaliser, RealData

Rule: TypeAlias = Callable[[Array, Array, int, Array], Array]
"""(points [N, E], number of real points, k, key) -> int32 [k]: indices of the chosen points"""


NUMBERS_AT_ONCE = 2**28
"""maximum number of numbers in the embeddings of the classes that an accelerator visits at once: a gigabyte, enough for
all classes of CIFAR-10 or Tiny-ImageNet"""
MOST_NUMBERS = 2**31
"""maximum number of numbers in the embeddings of all images. If they have more (ImageNet-1K), an accelerator embeds one
class at a time"""


class Outputs(NamedTuple):
    """The outputs of a network for N images."""

    logits: Array
    """float32 [N, C]"""
    embedding: Array
    """float32 [N, E]"""


def choose(
    rule: Rule, net: Net, model: Model, data: RealData, k: int, key: Array, normalise: bool, chunk: int = 0
) -> Array:
    """Return int32 [C, k] rows of ``data.index`` that ``rule`` chooses in each class; no class may be smaller than
    ``k``.

    Each device visits ``chunk`` classes at once (0: one on CPU, elsewhere as many as NUMBERS_AT_ONCE allows). The
    choice does not depend on it.
    """
    classes, at_once = (data.index, data.counts, jax.random.split(key, data.classes)), 1
    if not on_cpu():
        width = _embedding_width(net, model, data)
        if data.images.shape[0] * width > MOST_NUMBERS:

            def own_choice(args: tuple[Array, Array, Array], model: Model, data: RealData) -> Array:
                index, count, key = args
                own = data._replace(images=data.images[index])
                return rule(embed(net, model, own, normalise), count, k, key)

            return mesh.map_chunks(own_choice, classes, 1, model, data)
        at_once = NUMBERS_AT_ONCE // (data.index.shape[1] * width)
    embeddings = embed(net, model, data, normalise)

    def class_choice(args: tuple[Array, Array, Array], embeddings: Array) -> Array:
        index, count, key = args
        return rule(embeddings[index], count, k, key)

    return mesh.map_chunks(class_choice, classes, chunk or tree.chunk_within(data.classes, at_once), embeddings)


def _embedding_width(net: Net, model: Model, data: RealData) -> int:
    image = jax.ShapeDtypeStruct((1, *data.images.shape[1:]), jnp.float32)
    return jax.eval_shape(lambda model, x: net.apply(model, x, train=False)[0].embedding, model, image).shape[1]


def embed(net: Net, model: Model, data: RealData, normalise: bool, batch: int = 0) -> Array:
    """Return the embeddings of all real images, float32 [N, E], in batches of ``batch``, in evaluation mode.

    DREAM embeds images in [0, 1], although the network is trained on normalised ones.
    """
    normaliser = data.normaliser
    if not normalise:
        normaliser = Normaliser(jnp.zeros_like(normaliser.mean), jnp.ones_like(normaliser.std))
    return network_outputs(net, model, data._replace(normaliser=normaliser), batch).embedding


def network_outputs(net: Net, model: Model, data: RealData, batch: int = 0) -> Outputs:
    """Return the outputs for all real images, in batches of ``batch`` (0: ``forward_batch``), in evaluation mode."""
    n = data.images.shape[0]
    batch = min(batch, n) or forward_batch(data.images)
    rows = jnp.arange(-(-n // batch) * batch) % n

    def batch_outputs(rows: Array, model: Model, images: Array, normaliser: Normaliser) -> Outputs:
        out, _ = net.apply(model, normaliser.to_network(images[rows]), train=False)
        return Outputs(out.logits, out.embedding)

    batches = mesh.map_chunks(batch_outputs, rows.reshape(-1, batch), 1, model, data.images, data.normaliser)
    return jax.tree.map(lambda a: a.reshape(-1, a.shape[-1])[:n], batches)


# ------------------------------------------------------------------ the rules


def representatives(
    points: Array, count: Array, k: int, key: Array, iterations: int = 100, start: str = "plus-plus"
) -> Array:
    """Choose the point nearest to each of ``k`` k-means centres; centres may share a point (DREAM section 3.2)."""
    return medoids(points, count, kmeans(points, count, k, key, iterations, start).centres)


def herding(points: Array, count: Array, k: int, key: Array) -> Array:
    """Choose greedily the point that brings the mean of the choice nearest to the mean (Welling 2009; iCaRL)."""
    mean, real, squares = centroid(points, count), jnp.arange(points.shape[0]) < count, jnp.sum(points**2, axis=1)

    def add(i: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        rows, free, missing = carry
        # |mean - (sum + x) / (i + 1)| is least for the x nearest to (i + 1) mean - sum.
        missing = missing + mean
        row = jnp.argmin(jnp.where(free, squared_distances(missing[None, :], points, squares)[0], jnp.inf))
        return rows.at[i].set(row.astype(jnp.int32)), free.at[row].set(False), missing - points[row]

    return jax.lax.fori_loop(0, k, add, (jnp.zeros(k, jnp.int32), real, jnp.zeros_like(mean)))[0]


def k_center(points: Array, count: Array, k: int, key: Array) -> Array:
    """Choose the point nearest to the mean, then always the one farthest from the choice (Sener and Savarese 2018)."""
    real, squares = jnp.arange(points.shape[0]) < count, jnp.sum(points**2, axis=1)

    def distances(point: Array) -> Array:
        return jnp.where(real, squared_distances(point[None, :], points, squares)[0], -1)

    first = medoids(points, count, centroid(points, count)[None, :])

    def add(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        rows, nearest = carry
        row = jnp.argmax(nearest).astype(jnp.int32)
        return rows.at[i].set(row), jnp.minimum(nearest, distances(points[row]))

    rows = jnp.broadcast_to(first, (k,))
    return jax.lax.fori_loop(1, k, add, (rows, distances(points[first[0]])))[0]
