"""k-means on the device: random or greedy k-means++ start, Lloyd's iterations with early stopping, medoids.

Every function takes one set of points [N, E] of any floating dtype. The first ``count`` points, which may be a traced
number, are real; the rest are finite padding that is never chosen and has no influence. Map it over classes.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from distill_jax.types import Array


class Clusters(NamedTuple):
    """A clustering of N points into k clusters."""

    centres: Array  # [k, E]
    labels: Array  # int32 [N]: the nearest centre, ties to the lowest index; k for padding
    inertia: Array  # []: sum of the squared distances of the points to their centres
    rounds: Array  # int32 []: number of Lloyd's iterations


STARTS = ("random", "plus-plus")


def kmeans(
    points: Array,
    count: Array | int,
    k: int,
    key: Array,
    iterations: int = 100,
    start: str = "plus-plus",
    tolerance: float = 1e-4,
) -> Clusters:
    """Cluster ``points``, starting from points chosen by k-means++ or at random; ``count`` >= ``k``."""
    # Distances come from inner products, whose rounding error grows with the distance from the origin.
    mean = centroid(points, count)[None, :]
    points = points - mean
    first = plus_plus(points, count, k, key) if start == "plus-plus" else jax.random.randint(key, (k,), 0, count)
    clusters = lloyd(points, count, points[first], iterations, tolerance)
    return clusters._replace(centres=clusters.centres + mean)


def plus_plus(points: Array, count: Array | int, k: int, key: Array) -> Array:
    """Return the indices of the initial points, int32 [k] (Arthur and Vassilvitskii 2007).

    Each point is drawn with probability proportional to the squared distance to the nearest point before it. This is
    the greedy form: of 2 + log k draws, it keeps the one that lowers the inertia most.
    """
    squares = jnp.sum(points**2, axis=1)
    real = jnp.arange(points.shape[0]) < count
    last = jnp.asarray(count, jnp.int32) - 1
    first_key, draws_key = jax.random.split(key)
    first = jax.random.randint(first_key, (1,), 0, count)
    draws = jax.random.uniform(draws_key, (k, 2 + int(math.log(k))), points.dtype)

    def distances(rows: Array) -> Array:
        return jnp.where(real, squared_distances(points[rows], points, squares), 0)

    def add(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        rows, nearest = carry
        mass = jnp.cumsum(nearest)
        tries = jnp.searchsorted(mass, draws[i] * mass[-1], side="right").astype(jnp.int32)
        # Padding has no mass but lies at the end, where rounding or identical points could lead.
        tries = jnp.minimum(tries, last)
        reduced = jnp.minimum(nearest[None, :], distances(tries))
        best = jnp.argmin(jnp.sum(reduced, axis=1))
        return rows.at[i].set(tries[best]), reduced[best]

    rows = jnp.broadcast_to(first.astype(jnp.int32), (k,))
    return jax.lax.fori_loop(1, k, add, (rows, distances(first)[0]))[0]


def lloyd(
    points: Array, count: Array | int, centres: Array, iterations: int = 100, tolerance: float = 1e-4
) -> Clusters:
    """Alternate between assigning points to the nearest centre and moving centres to the mean of their points.

    The loop ends when the squared movement of all centres is at most ``tolerance`` times the mean squared distance of a
    point to its centre (0: when no label changes), or after ``iterations``. As in scikit-learn, a cluster that has lost
    all its points takes over the point that is farthest from its own centre.
    """
    k = centres.shape[0]
    squares = jnp.sum(points**2, axis=1)
    real = jnp.arange(points.shape[0]) < count

    def assign(centres: Array) -> tuple[Array, Array]:
        distances = squared_distances(centres, points, squares)
        labels = jnp.argmin(distances, axis=0).astype(jnp.int32)
        return jnp.where(real, labels, k), jnp.where(real, jnp.min(distances, axis=0), 0)

    def move(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        centres, _, rounds = carry
        labels, nearest = assign(centres)
        moved = _means(points, _fill_empty(labels, nearest, k), centres)
        limit = tolerance * jnp.sum(nearest) / jnp.asarray(count, nearest.dtype)
        return moved, jnp.sum((moved - centres) ** 2) <= limit, rounds + 1

    def should_continue(carry: tuple[Array, Array, Array]) -> Array:
        _, converged, rounds = carry
        return ~converged & (rounds < iterations)

    start = (centres, jnp.zeros((), bool), jnp.zeros((), jnp.int32))
    centres, _, rounds = jax.lax.while_loop(should_continue, move, start)
    labels, nearest = assign(centres)
    return Clusters(centres, labels, jnp.sum(nearest), rounds)


def medoids(points: Array, count: Array | int, centres: Array) -> Array:
    """Return the point nearest to each centre, ties to the lowest index: int32 [k]. Centres may share a point."""
    squares = jnp.sum(points**2, axis=1)
    real = (jnp.arange(points.shape[0]) < count)[None, :]
    distances = jnp.where(real, squared_distances(centres, points, squares), jnp.inf)
    # Both points of a cluster of two are equally near to its mean, so rounding must not decide between them.
    rounding = 64 * jnp.finfo(points.dtype).eps * (jnp.sum(centres**2, axis=1)[:, None] + squares[None, :])
    nearest = distances <= jnp.min(distances, axis=1, keepdims=True) + rounding
    return jnp.argmax(nearest, axis=1).astype(jnp.int32)


def centroid(points: Array, count: Array | int) -> Array:
    """Return the mean of the real points, [E]."""
    real = (jnp.arange(points.shape[0]) < count)[:, None]
    return jnp.sum(jnp.where(real, points, 0), axis=0) / jnp.asarray(count, points.dtype)


def squared_distances(centres: Array, points: Array, squares: Array) -> Array:
    """Return squared distances [k, N] of ``centres`` [k, E] and ``points`` [N, E], with |points|^2 = ``squares``
    [N]."""
    # This one matrix product never runs in TensorFloat-32: two large numbers are subtracted from each other.
    products = jnp.einsum("ke,ne->kn", centres, points, precision="highest")
    return jnp.maximum(jnp.sum(centres**2, axis=1)[:, None] + squares[None, :] - 2 * products, 0)


def _fill_empty(labels: Array, distances: Array, k: int) -> Array:
    """Return ``labels`` with one of the points farthest from their centres (``distances``) in each empty cluster."""
    empty = _sizes(labels, k) == 0
    order = jnp.cumsum(empty) - 1
    farthest, rows = jax.lax.top_k(distances, k)
    targets = jnp.where(empty & (farthest[order] > 0), rows[order], labels.shape[0])
    return labels.at[targets].set(jnp.arange(k, dtype=labels.dtype), mode="drop")


def _means(points: Array, labels: Array, centres: Array) -> Array:
    """Return the mean of each cluster, [k, E], or its old centre if it has no points."""
    k = centres.shape[0]
    # On a CPU, adding up rows takes a tenth of the time of the product; elsewhere its result depends on thread order.
    sums = jax.lax.platform_dependent(
        points,
        labels,
        cpu=lambda points, labels: jax.ops.segment_sum(points, labels, k),
        default=lambda points, labels: jnp.einsum(
            "nk,ne->ke", jax.nn.one_hot(labels, k, dtype=points.dtype), points, precision="highest"
        ),
    )
    sizes = _sizes(labels, k)[:, None]
    return jnp.where(sizes > 0, sums / jnp.maximum(sizes, 1).astype(points.dtype), centres)


def _sizes(labels: Array, k: int) -> Array:
    """Return the number of points in each cluster, int32 [k]."""
    return jax.ops.segment_sum(jnp.ones_like(labels), labels, k)
