"""The measurements that the papers of DREAM and Acc-DD argue with, for any data and any method.

DREAM: images far from the centre of their class have larger gradients, and random batches cover the class unevenly
(figure 1, section 3.2). Acc-DD: early-stage models, and perturbed copies of them, still give the images different
gradients (sections 3.2 and 3.3). No function here uses test images.
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
from distill_jax.distill import Problem, begin_outer, init_state, matching
from distill_jax.types import Array, Model, Net, PyTree, RealData, Synthetic, TrainSet

TRIES = 8
"""number of draws from a model source for each distinct model: a small pool is soon exhausted"""


def part(data: RealData, most: int, key: Array) -> RealData:
    """Return at most ``most`` random images of each class, which represent the class, normalised as before."""
    positions = draw_distinct(key, data, most)
    rows = [np.asarray(data.index[c, positions[c, : min(most, count)]]) for c, count in enumerate(data.counts.tolist())]
    selected = np.sort(np.concatenate(rows))
    return RealData.from_arrays(data.images[selected], data.labels[selected], *data.normaliser)


# ------------------------------------------------------------------ gradients of images (DREAM figure 1)


@partial(jax.jit, static_argnums=0)
def gradient_norms(net: Net, model: Model, data: RealData) -> Array:
    """Return float32 [N] gradient norms, over all parameters, of each image's cross-entropy without augmentation."""

    def image_norm(args: tuple[Array, Array], model: Model, data: RealData) -> Array:
        image, c = args
        gradient = class_gradient(net, model, data.normaliser.to_network(image[None]), c)
        return jnp.sqrt(sum((jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient)), jnp.zeros(())))

    return mesh.map_chunks(image_norm, (data.images, data.labels), 1, model, data)


@partial(jax.jit, static_argnums=0)
def centre_distances(net: Net, model: Model, data: RealData) -> Array:
    """Return float32 [N] distances of the embedding of each image from its class mean, relative to the spread of the
    class (the root mean square of these distances)."""
    points = embed(net, model, data, normalise=True)
    members = jax.nn.one_hot(data.labels, data.classes, dtype=points.dtype)
    counts = data.counts.astype(points.dtype)
    centres = jnp.einsum("nc,ne->ce", members, points, precision="highest") / counts[:, None]
    squared = jnp.sum((points - centres[data.labels]) ** 2, axis=1)
    spread = jnp.einsum("nc,n->c", members, squared, precision="highest") / counts
    return jnp.sqrt(squared / _at_least_tiny(spread)[data.labels])


# ------------------------------------------------------------------ selections over inner steps (DREAM section 3.2)


class Distances(NamedTuple):
    """Distances between a selection and its class, in units of the spread of the class (the root mean square distance
    of its embeddings from their mean)."""

    mean: Array
    """float32 [..., C]: distance from the mean embedding of the selected images to that of the class (the maximum mean
    discrepancy with a linear kernel)"""
    cover: Array
    """float32 [..., C]: mean distance from an image of the class to the nearest selected image"""


def distances(net: Net, model: Model, data: RealData, rows: Array) -> Distances:
    """Return the distances of the selection ``rows`` [C, B] of ``data.index``; both are 0 if it is the whole class."""
    points = embed(net, model, data, normalise=True)

    def class_distances(args: tuple[Array, Array, Array], points: Array) -> Distances:
        index, count, rows = args
        real = (jnp.arange(index.shape[0]) < count)[:, None]
        number = count.astype(points.dtype)
        mean = jnp.sum(jnp.where(real, points[index], 0), axis=0, keepdims=True) / number
        centred = jnp.where(real, points[index] - mean, 0)
        squares = jnp.sum(centred**2, axis=1)
        spread = jnp.sqrt(_at_least_tiny(jnp.sum(squares) / number))
        nearest = jnp.min(squared_distances(centred[rows], centred, squares), axis=0)
        # The distance of a selected image from itself is 0, but inner products give a rounding error.
        nearest = jnp.where(real[:, 0], nearest.at[rows].set(0), 0)
        mean_distance = jnp.sqrt(jnp.sum(jnp.mean(centred[rows], axis=0) ** 2))
        return Distances(mean_distance / spread, jnp.sum(jnp.sqrt(nearest)) / number / spread)

    return mesh.map_chunks(class_distances, (data.index, data.counts, rows), 1, points)


class Walk(NamedTuple):
    """A live model during an outer iteration, and the selections made for it."""

    model: Model
    update: PyTree
    shown: TrainSet
    """the initial synthetic set, which does not change"""
    memories: tuple[PyTree, ...]
    """memory of each of the S selectors"""
    rows: tuple[Array, ...]
    """latest selection of each selector, int32 [C, B]"""
    seen: Distances
    """[S, T, C]: distances of each selector at each of T steps; 0 at later steps"""


@partial(jax.jit, static_argnames="steps")
def begin_walk(problem: Problem, selectors: tuple[Selector, ...], steps: int) -> Walk:
    """Return the walk before the first of ``steps`` (T) inner steps, with the first model of a run of the method."""
    outer_key, _ = jax.random.split(jax.random.fold_in(problem.root, 0))
    state, data = begin_outer(problem, init_state(problem), outer_key), problem.data
    model, update = tree.take((state.models, state.update), 0)
    rows = tuple(jnp.zeros((data.classes, selector.batch), jnp.int32) for selector in selectors)
    none = jnp.zeros((len(selectors), steps, data.classes))
    shown = decoded_set(problem.spec.parameterisation, state.synthetic, data)
    teachers = problem.spec.models.teachers(problem.pool)
    memories = tuple(selector.init(problem.net, teachers, data) for selector in selectors)
    return mesh.replicated(Walk(model, update, shown, memories, rows, Distances(none, none)))


@partial(jax.jit, donate_argnames="walk")
def walk_on(problem: Problem, selectors: tuple[Selector, ...], walk: Walk, first: Array | int, steps: Array | int):
    """Return the walk after ``steps`` inner steps from step ``first``.

    In each step every selector selects for the same model, which then takes the method's own update.
    """
    net, data = problem.net, problem.data

    def step(t: Array, walk: Walk) -> Walk:
        key, update_key = jax.random.split(jax.random.fold_in(problem.root, t))
        selections = [
            selector.select(net, walk.model, data, memory, t, key)
            for selector, memory in zip(selectors, walk.memories, strict=True)
        ]
        rows, memories = tuple(rows for rows, _ in selections), tuple(memory for _, memory in selections)
        current = tree.stack([distances(net, walk.model, data, selected) for selected in rows])
        seen = jax.tree.map(lambda all, new: all.at[:, t].set(new), walk.seen, current)
        model, update = problem.spec.update.update(net, walk.model, walk.update, data, walk.shown, update_key)
        return mesh.replicated(Walk(model, update, walk.shown, memories, rows, seen))

    return mesh.replicated(jax.lax.fori_loop(first, first + steps, step, mesh.replicated(walk)))


# ------------------------------------------------------------------ gradients of models (Acc-DD sections 3.2 and 3.3)


def distinct_models(problem: Problem, count: int, key: Array) -> Model:
    """Return Model[K], K at most ``count``: unperturbed draws from the method's model source, all different."""
    distinct: list[Model] = []
    for i in range(TRIES * count):
        model = _draw_model(problem, jax.random.fold_in(key, i))
        if not any(jax.tree.all(jax.tree.map(jnp.array_equal, model, other)) for other in distinct):
            distinct.append(model)
        if len(distinct) == count:
            break
    return tree.stack(distinct)


@jax.jit
def _draw_model(problem: Problem, key: Array) -> Model:
    return tree.take(problem.spec.models.sample(problem.net, problem.pool, 1, problem.spec.outer_steps, key), 0)


@partial(jax.jit, static_argnames="count")
def perturbed_copies(problem: Problem, model: Model, count: int, key: Array) -> Model:
    """Return Model[K], K = ``count``: copies of one model, each with the method's own perturbation."""
    copies = jax.tree.map(lambda a: jnp.broadcast_to(a, (count, *a.shape)), model)
    return problem.spec.perturb.perturb(copies, key)


@jax.jit
def matching_gradient(problem: Problem, model: Model, synthetic: Synthetic, selection: Array, key: Array) -> Array:
    """Return the gradient of the method's objective for ``model`` by the synthetic images, float32 [C, I*H*W*c].

    ``selection`` is int32 [C, B]. The objective may see one class or all. The gradient is by the images and not by the
    parameters, because the parameters of two networks are not points of one space.
    """
    single = jax.tree.map(lambda a: a[None], model)
    gradient = matching(problem, single, synthetic, selection, key)[1].images
    return gradient.reshape(gradient.shape[0], -1)


def cosines(gradients: Array) -> Array:
    """Return the cosine of each pair of the gradients [K, C, E] of K models, averaged over classes: float32 [K, K]."""
    length = jnp.sqrt(jnp.sum(gradients**2, axis=2, keepdims=True))
    unit = gradients / _at_least_tiny(length)
    return jnp.einsum("ace,bce->ab", unit, unit, precision="highest") / gradients.shape[1]


def pseudo_values(pairs: np.ndarray) -> list[float]:
    """Return K numbers whose mean is the mean over all pairs of different models in ``pairs`` [K, K].

    The standard error of these numbers is that of the pair mean: pairs that share a model are not independent, models
    are (the jackknife; Efron and Stein 1981). For two models the result is one number, the mean.
    """
    k = len(pairs)
    row_sums = (pairs.sum(axis=1) - np.diag(pairs)).astype(float)
    mean = row_sums.sum() / (k * (k - 1))
    if k < 3:
        return [float(mean)]
    without = (row_sums.sum() - 2 * row_sums) / ((k - 1) * (k - 2))
    return (k * mean - (k - 1) * without).tolist()


def _at_least_tiny(a: Array) -> Array:
    return jnp.maximum(a, jnp.finfo(a.dtype).tiny)
