"""The evidence that the papers of DREAM and Acc-DD argue with, measured on any data and any method.

DREAM's: images far from the centre of their class have larger gradients, and random batches show the class unevenly
(figure 1, section 3.2). Acc-DD's: early-stage models, and perturbed copies of them, still teach the images different
things (sections 3.2 and 3.3). Nothing here looks at test images.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from distill_jax import mesh, tree
from distill_jax.axes.objective import class_gradient
from distill_jax.axes.parameterisation import decoded_set
from distill_jax.axes.selector import draw_distinct, embed, squared_distances
from distill_jax.contracts import Selector
from distill_jax.distill import Problem, init_state, matching
from distill_jax.types import Array, Model, Net, PyTree, RealData, Synthetic, TrainSet

TRIES = 8
"""draws from a source for each distinct model that is wanted: a pool of few is soon exhausted"""


def part(data: RealData, most: int, key: Array) -> RealData:
    """At most ``most`` random images of each class, normalised as before: they stand for the class."""
    drawn = draw_distinct(key, data, most)
    rows = [np.asarray(data.index[c, drawn[c, : min(most, count)]]) for c, count in enumerate(data.counts.tolist())]
    kept = np.sort(np.concatenate(rows))
    return RealData.from_arrays(data.images[kept], data.labels[kept], *data.normaliser)


# ------------------------------------------------------------------ gradients of images (DREAM figure 1)


@partial(jax.jit, static_argnums=0)
def gradient_norms(net: Net, model: Model, data: RealData) -> Array:
    """float32 [N]: norm over all parameters of the gradient of each image's own cross-entropy, without augmentation."""

    def one(each: tuple[Array, Array], model: Model, data: RealData) -> Array:
        image, c = each
        gradient = class_gradient(net, model, data.normaliser.to_network(image[None]), c)
        return jnp.sqrt(sum((jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient)), jnp.zeros(())))

    return mesh.map_chunks(one, (data.images, data.labels), 1, model, data)


@partial(jax.jit, static_argnums=0)
def centre_distances(net: Net, model: Model, data: RealData) -> Array:
    """float32 [N]: distance of each image's embedding from the mean of its class, over the class's spread (the root of
    the mean square of that distance)."""
    points = embed(net, model, data, normalise=True)
    members = jax.nn.one_hot(data.labels, data.classes, dtype=points.dtype)
    counts = data.counts.astype(points.dtype)
    centres = jnp.einsum("nc,ne->ce", members, points, precision="highest") / counts[:, None]
    away = jnp.sum((points - centres[data.labels]) ** 2, axis=1)
    spread = jnp.einsum("nc,n->c", members, away, precision="highest") / counts
    return jnp.sqrt(away / _above_zero(spread)[data.labels])


# ------------------------------------------------------------------ selections over inner steps (DREAM section 3.2)


class Distances(NamedTuple):
    """How well a selection stands for its class, in units of the class's spread (root mean square distance of its
    embeddings from their mean)."""

    mean: Array
    """float32 [..., C]: from the mean embedding of the selected images to that of the class (the maximum mean
    discrepancy with a linear kernel)"""
    cover: Array
    """float32 [..., C]: from an image of the class to the nearest one selected, on average"""


def distances(net: Net, model: Model, data: RealData, rows: Array) -> Distances:
    """Those of the selection ``rows`` [C, B] of ``data.index``; both are 0 where it is the whole class."""
    points = embed(net, model, data, normalise=True)

    def of_class(each: tuple[Array, Array, Array], points: Array) -> Distances:
        index, count, rows = each
        real = (jnp.arange(index.shape[0]) < count)[:, None]
        number = count.astype(points.dtype)
        mean = jnp.sum(jnp.where(real, points[index], 0), axis=0, keepdims=True) / number
        centred = jnp.where(real, points[index] - mean, 0)
        squares = jnp.sum(centred**2, axis=1)
        spread = jnp.sqrt(_above_zero(jnp.sum(squares) / number))
        nearest = jnp.min(squared_distances(centred[rows], centred, squares), axis=0)
        # A selected image is at distance 0 from itself, which inner products miss by their rounding.
        nearest = jnp.where(real[:, 0], nearest.at[rows].set(0), 0)
        away = jnp.sqrt(jnp.sum(jnp.mean(centred[rows], axis=0) ** 2))
        return Distances(away / spread, jnp.sum(jnp.sqrt(nearest)) / number / spread)

    return mesh.map_chunks(of_class, (data.index, data.counts, rows), 1, points)


class Walk(NamedTuple):
    """One live model on its way through an outer iteration, and what was selected for it."""

    model: Model
    update: PyTree
    shown: TrainSet
    """the synthetic set as it begins, and as it stays"""
    memories: tuple[PyTree, ...]
    """of each of the S selectors"""
    rows: tuple[Array, ...]
    """int32 [C, B] each: the last selections"""
    seen: Distances
    """[S, T, C]: of each selector at each of T steps; 0 at those to come"""


@partial(jax.jit, static_argnames="steps")
def begin_walk(problem: Problem, selectors: tuple[Selector, ...], steps: int) -> Walk:
    """Before the first of ``steps`` T inner steps, with the first model that the method begins a run with."""
    state, data = init_state(problem), problem.data
    model, update = tree.take((state.models, state.update), 0)
    rows = tuple(jnp.zeros((data.classes, selector.batch), jnp.int32) for selector in selectors)
    none = jnp.zeros((len(selectors), steps, data.classes))
    shown = decoded_set(problem.spec.parameterisation, state.synthetic, data)
    teachers = problem.spec.models.teachers(problem.pool)
    memories = tuple(selector.init(problem.net, teachers, data) for selector in selectors)
    return mesh.shard_leading(Walk(model, update, shown, memories, rows, Distances(none, none)), 0)


@partial(jax.jit, donate_argnames="walk")
def walk_on(problem: Problem, selectors: tuple[Selector, ...], walk: Walk, first: Array | int, steps: Array | int):
    """The walk after ``steps`` inner steps from step ``first``. At each, every selector selects for the same model,
    which then takes the method's own update."""
    net, data = problem.net, problem.data

    def step(t: Array, walk: Walk) -> Walk:
        key, update_key = jax.random.split(jax.random.fold_in(problem.root, t))
        looks = [
            selector.select(net, walk.model, data, memory, t, key)
            for selector, memory in zip(selectors, walk.memories, strict=True)
        ]
        rows, memories = tuple(rows for rows, _ in looks), tuple(memory for _, memory in looks)
        now = tree.stack([distances(net, walk.model, data, selected) for selected in rows])
        seen = jax.tree.map(lambda all, new: all.at[:, t].set(new), walk.seen, now)
        model, update = problem.spec.update.update(net, walk.model, walk.update, data, walk.shown, update_key)
        return mesh.shard_leading(Walk(model, update, walk.shown, memories, rows, seen), 0)

    return mesh.shard_leading(jax.lax.fori_loop(first, first + steps, step, mesh.shard_leading(walk, 0)), 0)


# ------------------------------------------------------------------ what models teach (Acc-DD sections 3.2 and 3.3)


def distinct_models(problem: Problem, count: int, key: Array) -> Model:
    """Model[K], K at most ``count``: draws of the method's source, unperturbed, no two of them equal."""
    found: list[Model] = []
    for i in range(TRIES * count):
        model = _drawn(problem, jax.random.fold_in(key, i))
        if not any(jax.tree.all(jax.tree.map(jnp.array_equal, model, other)) for other in found):
            found.append(model)
        if len(found) == count:
            break
    return tree.stack(found)


@jax.jit
def _drawn(problem: Problem, key: Array) -> Model:
    return tree.take(problem.spec.models.sample(problem.net, problem.pool, 1, problem.spec.outer_steps, key), 0)


@partial(jax.jit, static_argnames="count")
def perturbed_copies(problem: Problem, model: Model, count: int, key: Array) -> Model:
    """Model[K], K = ``count``: copies of one model, each perturbed as the method does it."""
    copies = jax.tree.map(lambda a: jnp.broadcast_to(a, (count, *a.shape)), model)
    return problem.spec.perturb.perturb(copies, key)


@jax.jit
def matching_gradient(problem: Problem, model: Model, synthetic: Synthetic, selection: Array, key: Array) -> Array:
    """float32 [C, I*H*W*c]: what ``model`` would move the images of each class along: the gradient of the method's
    objective, whether it sees one class or all, by the synthetic images. ``selection``: int32 [C, B].

    By the images and not by the parameters, because the parameters of two networks are no two points of one space.
    """
    one = jax.tree.map(lambda a: a[None], model)
    gradient = matching(problem, one, synthetic, selection, key)[1].images
    return gradient.reshape(gradient.shape[0], -1)


def cosines(gradients: Array) -> Array:
    """float32 [K, K]: the cosine of the gradients [K, C, E] of each two models, the mean over classes."""
    length = jnp.sqrt(jnp.sum(gradients**2, axis=2, keepdims=True))
    unit = gradients / _above_zero(length)
    return jnp.einsum("ace,bce->ab", unit, unit, precision="highest") / gradients.shape[1]


def pseudo_values(pairs: np.ndarray) -> list[float]:
    """K numbers whose mean is the mean over all pairs of different models in ``pairs`` [K, K], and whose standard error
    is that of it: pairs that share a model are not independent, models are (the jackknife; Efron and Stein 1981).

    One number, the mean, for two models.
    """
    k = len(pairs)
    of_each = (pairs.sum(axis=1) - np.diag(pairs)).astype(float)
    mean = of_each.sum() / (k * (k - 1))
    if k < 3:
        return [float(mean)]
    without = (of_each.sum() - 2 * of_each) / ((k - 1) * (k - 2))
    return (k * mean - (k - 1) * without).tolist()


def _above_zero(a: Array) -> Array:
    return jnp.maximum(a, jnp.finfo(a.dtype).tiny)
