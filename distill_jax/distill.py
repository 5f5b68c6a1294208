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

from distill_jax import tree
from distill_jax.axes.parameterisation import as_network, decoded_set, stored
from distill_jax.contracts import ClassObjective, SetObjective
from distill_jax.spec import Spec
from distill_jax.types import Array, Model, Net, PyTree, RealData, Synthetic

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
    spec, data = problem.spec, problem.data.of(problem.spec.classes)
    model_key, image_key = jax.random.split(jax.random.fold_in(problem.root, BEFORE_FIRST))
    fresh = _fresh(problem, model_key)
    one = tree.take(fresh["models"], 0)
    images = spec.init.images(problem.net, one, data, spec.ipc, spec.parameterisation.factor, image_key)
    if spec.parameterisation.space == "normalised":
        images = data.normaliser.to_network(images)
    labels = spec.labels.init(data.classes, spec.parameterisation.decoded(spec.ipc))
    synthetic = Synthetic(images, labels, spec.objective.learnable())
    optimiser = Synthetic(
        spec.optimiser.init(images),
        spec.labels.optimiser().init(labels),
        spec.objective.learnable_optimiser().init(synthetic.learnable),
    )
    return State(jnp.zeros((), jnp.int32), synthetic, optimiser, selector=spec.selector.init(data), **fresh)


def begin_outer(problem: Problem, state: State, key: Array) -> State:
    """Clamp pixels, draw and perturb fresh models. The images' momentum is kept, as in the released code."""
    images = stored(problem.spec.parameterisation, state.synthetic.images)
    return state._replace(synthetic=state.synthetic._replace(images=images), **_fresh(problem, key))


def _fresh(problem: Problem, key: Array) -> dict[str, Any]:
    """What an outer iteration starts anew."""
    spec, net = problem.spec, problem.net
    sample_key, perturb_key, begin_key = jax.random.split(key, 3)
    models = spec.perturb.perturb(spec.models.sample(net, problem.pool, spec.live, sample_key), perturb_key)
    keys = jax.random.split(begin_key, spec.live)
    models, memory = jax.vmap(lambda model, key: spec.update.begin(net, model, problem.data, key))(models, keys)
    return {"models": models, "update": memory, "loss": jnp.zeros(())}


def inner_step(problem: Problem, state: State, key: Array) -> State:
    """Pick real images, match, step the images, update the models."""
    spec, net, data = problem.spec, problem.net, problem.data
    select_key, match_key, update_key = jax.random.split(key, 3)
    outer, inner = state.step // spec.inner_steps, state.step % spec.inner_steps
    one, shown = tree.take(state.models, 0), data.of(spec.classes)
    selection, selector = spec.selector.select(net, one, shown, state.selector, inner, select_key)

    scale = spec.optimiser.schedule(outer, spec.outer_steps)
    images, moving = spec.optimiser.before(state.synthetic.images, state.optimiser.images, scale)
    synthetic = state.synthetic._replace(images=images)
    loss, grads = matching(problem, state.models, synthetic, selection, match_key)
    images, moving = spec.optimiser.after(grads.images, images, moving, scale)
    labels, of_labels = _stepped(spec.labels.optimiser(), grads.labels, state.optimiser.labels, synthetic.labels)
    learnable, of_learnable = _stepped(
        spec.objective.learnable_optimiser(), grads.learnable, state.optimiser.learnable, synthetic.learnable
    )
    synthetic = Synthetic(images, labels, learnable)

    syn = decoded_set(spec.parameterisation, synthetic, data)

    def update(live: tuple[Model, PyTree, Array]) -> tuple[Model, PyTree]:
        model, memory, key = live
        return spec.update.update(net, model, memory, data, syn, key)

    keys = jax.random.split(update_key, spec.live)
    models, memory = tree.map_chunks(update, (state.models, state.update, keys), spec.model_chunk)
    return state._replace(
        synthetic=synthetic,
        optimiser=Synthetic(moving, of_labels, of_learnable),
        models=models,
        update=memory,
        selector=selector,
        loss=state.loss + (loss - state.loss) / (inner + 1).astype(loss.dtype),
    )


def _stepped(optimiser: optax.GradientTransformation, grads: PyTree, state: PyTree, leaves: PyTree):
    """(leaves, state) after one step of an optax transformation."""
    steps, state = optimiser.update(grads, state, leaves)
    return optax.apply_updates(leaves, steps), state


def matching(problem: Problem, models: Model, synthetic: Synthetic, selection: Array, key: Array):
    """(loss, gradient): summed over classes, mean over models; the gradient is a Synthetic, by each of its parts.

    An objective on one class is differentiated inside its chunk of classes and models: that is what keeps memory flat.
    """
    spec, net, data = problem.spec, problem.net, problem.data
    objective, classes = spec.objective, jnp.asarray(spec.classes or range(data.classes))
    keys = jax.random.split(key, data.classes)[classes]

    def shown(images: Array, rows: Array, c: Array, key: Array) -> tuple[Array, Array]:
        """One class as the network sees it, real [B, ...] and synthetic [D, ...]: one augmentation draw for both."""
        subset_key, augment_key = jax.random.split(key)
        real = data.normaliser.to_network(data.images[data.index[c, rows]])
        syn = as_network(spec.parameterisation, spec.parameterisation.decode(images), data)
        if 0 < spec.syn_batch < syn.shape[0]:
            syn = syn[jax.random.permutation(subset_key, syn.shape[0])[: spec.syn_batch]]
        both = spec.augment(augment_key, jnp.concatenate([real, syn]))
        return both[: real.shape[0]], both[real.shape[0] :]

    def over_models(loss, variable: PyTree) -> tuple[Array, PyTree]:
        of_each = tree.map_chunks(partial(jax.value_and_grad(loss), variable), models, spec.model_chunk)
        return jax.tree.map(lambda a: jnp.mean(a, axis=0), of_each)

    if isinstance(objective, ClassObjective):

        def of_class(each: tuple[Array, Array, Array, Array]) -> tuple[Array, Array]:
            images, rows, c, key = each

            def loss(images: Array, model: Model) -> Array:
                return objective.class_loss(net, model, *shown(images, rows, c, key), c, key)

            return over_models(loss, images)

        losses, grads = tree.map_chunks(of_class, (synthetic.images, selection, classes, keys), spec.class_chunk)
        return jnp.sum(losses), jax.tree.map(jnp.zeros_like, synthetic)._replace(images=grads)

    assert isinstance(objective, SetObjective)

    def set_loss(synthetic: Synthetic, model: Model) -> Array:
        real, syn = jax.vmap(shown)(synthetic.images, selection, classes, keys)
        return objective.set_loss(net, model, real, synthetic._replace(images=syn), key)

    return over_models(set_loss, synthetic)


def block(problem: Problem, state: State, steps: Array | int) -> tuple[State, Array]:
    """``steps`` inner steps (at most LONGEST_BLOCK), crossing outer iterations as they come.

    Returns the state and [LONGEST_BLOCK] mean losses of the outer iteration so far, one after each step taken.
    """

    def step(i: Array, carry: tuple[State, Array]) -> tuple[State, Array]:
        state, losses = carry
        outer_key, inner_key = jax.random.split(jax.random.fold_in(problem.root, state.step))
        begins = state.step % problem.spec.inner_steps == 0
        state = jax.lax.cond(begins, lambda s: begin_outer(problem, s, outer_key), lambda s: s, state)
        if problem.spec.update.leaves_early:
            left = jnp.all(jax.vmap(problem.spec.update.leave)(state.update))
            state = jax.lax.cond(left, lambda s: s, lambda s: inner_step(problem, s, inner_key), state)
        else:
            state = inner_step(problem, state, inner_key)
        return state._replace(step=state.step + 1), losses.at[i].set(state.loss)

    return jax.lax.fori_loop(0, steps, step, (state, jnp.zeros(LONGEST_BLOCK)))


run_block = jax.jit(block, donate_argnames="state")
"""``block``, compiled once for any number of steps; the state passed in is consumed."""
