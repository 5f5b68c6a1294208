"""Dataset distillation on one page: the state, an inner step, the matching gradient, a block of steps.

A run is ``outer_steps`` outer iterations of ``inner_steps`` inner steps each:

    outer iteration:  clamp the images, draw fresh models and perturb them
    inner step:       pick real images, match real and synthetic, step the images, update the models

No random key is stored: keys are folded from the root key and the step, so a run that resumes at a step takes the very
same path as one that never stopped.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from distill_jax import mesh, tree
from distill_jax.axes.parameterisation import as_network, decoded_set, stored
from distill_jax.contracts import ClassObjective
from distill_jax.draws import permutations
from distill_jax.spec import Spec
from distill_jax.types import Array, Model, Net, PyTree, RealData, Synthetic, TrainSet

BEFORE_FIRST = 2**32 - 1  # no step has this number
LONGEST_BLOCK = 1024  # inner steps in one call at most


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Problem:
    """What a run never changes. The net and the structure of the spec are static under ``jit``, the rest is traced."""

    spec: Spec
    net: Net = field(metadata={"static": True})
    data: RealData
    pool: PyTree  # what ``spec.models.pretrain`` returned
    root: Array  # key: every draw of the run follows from it and the step


class State(NamedTuple):
    """Everything that changes. With the problem, all that a checkpoint needs."""

    step: Array  # int32 []: inner steps taken since the start of the run
    synthetic: Synthetic
    optimiser: Synthetic  # the optimiser's state of each part
    models: Model  # [K, ...]: the live models
    update: PyTree  # [K, ...]: the model update's own state
    selector: PyTree  # the selector's own memory
    loss: Array  # float32 []: mean matching loss of the steps taken in this outer iteration


@jax.jit
def init_state(problem: Problem) -> State:
    """The state before the first step."""
    spec, data = problem.spec, problem.data.of_classes(problem.spec.classes)
    model_key, image_key = jax.random.split(jax.random.fold_in(problem.root, BEFORE_FIRST))
    step = jnp.zeros((), jnp.int32)
    fresh, teachers = _fresh(problem, step, model_key), spec.models.teachers(problem.pool)
    one = tree.take(teachers if spec.init.uses_teacher else fresh["models"], 0)
    images = spec.init.images(problem.net, one, data, spec.ipc, spec.parameterisation.factor, image_key)
    if spec.parameterisation.space == "normalised":
        images = data.normaliser.to_network(images)
    labels = spec.labels.init(problem.net, teachers, decoded_set(spec.parameterisation, Synthetic(images), data))
    synthetic = Synthetic(images, labels, spec.objective.learnable())
    moves: Any = (spec.optimiser, spec.labels.optimiser(), spec.objective.learnable_optimiser())
    optimiser = Synthetic(*(move.init(part) for move, part in zip(moves, synthetic, strict=True)))
    selector = spec.selector.init(problem.net, teachers, data)
    return State(step, synthetic, optimiser, selector=selector, **fresh)


def begin_outer(problem: Problem, state: State, key: Array) -> State:
    """Clamp pixels, draw and perturb fresh models. The images' momentum is kept, as in the released code."""
    images = stored(problem.spec.parameterisation, state.synthetic.images)
    return state._replace(synthetic=state.synthetic._replace(images=images), **_fresh(problem, state.step, key))


def _fresh(problem: Problem, step: Array, key: Array) -> dict[str, Any]:
    """What an outer iteration starts anew."""
    spec, net, outer = problem.spec, problem.net, step // problem.spec.inner_steps
    sample_key, perturb_key, begin_key = jax.random.split(key, 3)
    drawn = spec.models.sample(net, problem.pool, spec.live, outer, sample_key)
    each = (spec.perturb.perturb(drawn, perturb_key), jax.random.split(begin_key, spec.live))
    models, memory = tree.map_chunks(lambda x: spec.update.begin(net, x[0], problem.data, x[1]), each, spec.live)
    return {"models": models, "update": memory, "loss": jnp.zeros(())}


def inner_step(problem: Problem, state: State, key: Array) -> State:
    """Pick real images, match, step the images, update the models."""
    spec, data = problem.spec, problem.data
    select_key, match_key, update_key = jax.random.split(key, 3)
    outer, inner = state.step // spec.inner_steps, state.step % spec.inner_steps
    looking = (problem.net, tree.take(state.models, 0), data.of_classes(spec.classes), state.selector, inner)
    # Every device selects for itself: sending the selection would cost more.
    selection, selector = mesh.shard_leading(spec.selector.select(*looking, select_key), 0)
    (images, *leaves), (moving, *states) = state.synthetic, state.optimiser
    scale = spec.optimiser.schedule(outer, spec.outer_steps)
    images, moving = spec.optimiser.before(images, moving, scale)
    loss, grads = matching(problem, state.models, Synthetic(images, *leaves), selection, match_key)
    images, moving = spec.optimiser.after(grads.images, images, moving, scale)
    moves = (spec.labels.optimiser(), spec.objective.learnable_optimiser())
    others = [_stepped(*each) for each in zip(moves, grads[1:], states, leaves, strict=True)]
    synthetic, optimiser = (Synthetic(*each) for each in zip((images, moving), *others, strict=True))
    if spec.objective.skips:
        stay = partial(jnp.where, spec.objective.skip(loss))
        synthetic, optimiser = jax.tree.map(stay, (state.synthetic, state.optimiser), (synthetic, optimiser))

    def update(live: tuple[Model, PyTree, Array], problem: Problem, syn: TrainSet) -> tuple[Model, PyTree]:
        model, memory, key = live
        return problem.spec.update.update(problem.net, model, memory, problem.data, syn, key)

    syn = mesh.shard_leading(decoded_set(spec.parameterisation, synthetic, data), 0)
    live = (state.models, state.update, jax.random.split(update_key, spec.live))
    models, memory = mesh.map_chunks(update, live, spec.model_chunk, problem, syn)
    loss = state.loss + (loss - state.loss) / (inner + 1).astype(loss.dtype)
    return State(state.step, synthetic, optimiser, models, memory, selector, loss)


def _stepped(optimiser: optax.GradientTransformation, grads: PyTree, state: PyTree, leaves: PyTree):
    """(leaves, state) after one step of an optax transformation."""
    steps, state = optimiser.update(grads, state, leaves)
    return optax.apply_updates(leaves, steps), state


def matching(problem: Problem, models: Model, synthetic: Synthetic, selection: Array, key: Array):
    """(loss, gradient): summed over classes, mean over models; the gradient is a Synthetic, by each of its parts."""
    spec = problem.spec
    classes = jnp.asarray(spec.classes or range(problem.data.classes))
    shown = (selection, classes, jax.random.split(key, problem.data.classes)[classes])
    # Devices share the classes, or the models where an objective needs all classes at once.
    if isinstance(spec.objective, ClassObjective):
        each = (synthetic.images, *shown)
        losses, grads = mesh.map_chunks(_class_matching, each, spec.class_chunk, problem, models)
        return jnp.sum(losses), jax.tree.map(jnp.zeros_like, synthetic)._replace(images=grads)
    of_each = mesh.map_chunks(_set_matching, models, spec.model_chunk, problem, synthetic, shown, key)
    return tree.mean(of_each)


def _class_matching(each: tuple[Array, ...], problem: Problem, models: Model) -> tuple[Array, Array]:
    """Of one class. Differentiated here, inside its chunk of classes and models: that is what keeps memory flat."""
    images, rows, c, key = each
    objective: Any = problem.spec.objective

    def loss(images: Array, model: Model) -> Array:
        return objective.class_loss(problem.net, model, *_shown(problem, images, rows, c, key), c, key)

    of_each = tree.map_chunks(partial(jax.value_and_grad(loss), images), models, problem.spec.model_chunk)
    return tree.mean(of_each)


def _set_matching(model: Model, problem: Problem, synthetic: Synthetic, shown: tuple[Array, ...], key: Array):
    """Of one model, on all classes at once."""
    objective: Any = problem.spec.objective

    def loss(synthetic: Synthetic) -> Array:
        real, syn = jax.vmap(partial(_shown, problem))(synthetic.images, *shown)
        return objective.set_loss(problem.net, model, real, synthetic._replace(images=syn), key)

    return jax.value_and_grad(loss)(synthetic)


def _shown(problem: Problem, images: Array, rows: Array, c: Array, key: Array) -> tuple[Array, Array]:
    """One class as the network sees it, real [B, ...] and synthetic [D, ...]: one augmentation draw for both."""
    spec, data = problem.spec, problem.data
    subset_key, augment_key = jax.random.split(key)
    real = data.normaliser.to_network(data.images[data.index[c, rows]])
    syn = as_network(spec.parameterisation, spec.parameterisation.decode(images), data)
    if 0 < spec.syn_batch < syn.shape[0]:
        syn = syn[permutations(subset_key, 1, syn.shape[0])[0, : spec.syn_batch]]
    both = spec.augment(augment_key, jnp.concatenate([real, syn]))
    return both[: real.shape[0]], both[real.shape[0] :]


def block(problem: Problem, state: State, steps: Array | int) -> tuple[State, Array]:
    """``steps`` inner steps (at most LONGEST_BLOCK), crossing outer iterations as they come: the state, and after each
    step the mean loss of its outer iteration so far [LONGEST_BLOCK]."""
    spec = problem.spec

    def step(i: Array, carry: tuple[State, Array]) -> tuple[State, Array]:
        state, losses = carry
        outer_key, inner_key = jax.random.split(jax.random.fold_in(problem.root, state.step))
        begins = state.step % spec.inner_steps == 0
        state = jax.lax.cond(begins, lambda s: begin_outer(problem, s, outer_key), lambda s: s, state)
        if spec.update.leaves_early:
            left = jnp.all(jax.vmap(spec.update.leave)(state.update))
            state = jax.lax.cond(left, lambda s: s, lambda s: inner_step(problem, s, inner_key), state)
        else:
            state = inner_step(problem, state, inner_key)
        return state._replace(step=state.step + 1), losses.at[i].set(state.loss)

    state, losses = jax.lax.fori_loop(0, steps, step, (mesh.shard_state(state), jnp.zeros(LONGEST_BLOCK)))
    return mesh.shard_state(state), losses


run_block = jax.jit(block, donate_argnames="state")
"""``block``, compiled once for any number of steps; the state passed in is consumed."""
