"""Dataset distillation on one page: the state, an inner step, the matching gradient, a block of steps.

A run is ``outer_steps`` outer iterations of ``inner_steps`` inner steps each:

    outer iteration:  clamp the images, draw fresh models (and perturb them)
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
from distill_jax.spec import Hyper, Spec
from distill_jax.synthetic import ImageOptimiser, as_network, class_turns, decoded_set, stored, to_network
from distill_jax.types import Array, ClassObjective, Model, Net, PyTree, RealData, SetObjective, Synthetic, Updated

BEFORE_FIRST = 2**32 - 1  # no step has this number
BLOCK = 1024  # inner steps in one call at most


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Problem:
    """What a run never changes. Spec and net are static under ``jit``, the rest is traced."""

    spec: Spec = field(metadata={"static": True})
    net: Net = field(metadata={"static": True})
    hyper: Hyper
    data: RealData
    pool: PyTree  # what ``spec.models.pretrain`` returned
    root: Array  # key: every draw of the run follows from it and the step


class State(NamedTuple):
    """Everything that changes. With the problem, all that a checkpoint needs."""

    step: Array  # int32 []: inner steps taken since the start of the run
    synthetic: Synthetic
    optimisers: tuple[PyTree, PyTree]  # of the images and of the learnable rate
    models: Model  # [K, ...]: the live models
    model_optimisers: PyTree  # [K, ...]
    watch: PyTree  # [K, ...]: the model update's own memory
    selection: Array  # int32 [C, B]: the real images shown last, as rows of ``data.index``
    loss: Array  # float32 []: mean matching loss of the steps taken in this outer iteration
    taken: Array  # int32 []: steps taken in this outer iteration
    left: Array  # bool []: this outer iteration has ended early


@jax.jit
def init_state(problem: Problem) -> State:
    """The state before the first step."""
    spec, data = problem.spec, problem.data
    model_key, image_key = jax.random.split(jax.random.fold_in(problem.root, BEFORE_FIRST))
    fresh = _fresh(problem, model_key)
    one = tree.take(fresh["models"], 0)
    images = spec.init.images(problem.net, one, data, spec.ipc, spec.parameterisation.factor, image_key)
    if spec.parameterisation.space == "normalised":
        images = to_network(images, data.mean, data.std)
    learns_rate = isinstance(spec.objective, SetObjective) and spec.objective.learns_rate
    rate: PyTree = jnp.asarray(problem.hyper.rate, jnp.float32) if learns_rate else None
    turns, rate_sgd = _optimisers(problem, jnp.zeros((), jnp.int32))
    return State(
        step=jnp.zeros((), jnp.int32),
        synthetic=Synthetic(images, rate),
        optimisers=(turns.init(images), rate_sgd.init(rate)),
        selection=jnp.zeros((data.classes, spec.selector.batch), jnp.int32),
        **fresh,
    )


def begin_outer(problem: Problem, state: State, key: Array) -> State:
    """Clamp pixels, draw and perturb fresh models. The images' momentum is kept, as in the released code."""
    images = stored(problem.spec.parameterisation, state.synthetic.images)
    return state._replace(synthetic=state.synthetic._replace(images=images), **_fresh(problem, key))


def _fresh(problem: Problem, key: Array) -> dict[str, Any]:
    """What an outer iteration starts anew."""
    models = problem.spec.models.sample(problem.net, problem.pool, problem.hyper, key)
    model_optimisers, watch = jax.vmap(lambda model: problem.spec.update.start(model, problem.hyper))(models)
    counters = {"loss": jnp.zeros(()), "taken": jnp.zeros((), jnp.int32), "left": jnp.zeros((), bool)}
    return {"models": models, "model_optimisers": model_optimisers, "watch": watch, **counters}


def inner_step(problem: Problem, state: State, key: Array) -> State:
    """Pick real images, match, step the images, update the models."""
    spec, net, hyper, data = problem.spec, problem.net, problem.hyper, problem.data
    select_key, match_key, update_key = jax.random.split(key, 3)
    inner = state.step % spec.inner_steps
    selection = spec.selector.select(net, tree.take(state.models, 0), data, inner, state.selection, select_key)

    turns, rate_sgd = _optimisers(problem, state.step)
    images, turns_state = turns.before(state.synthetic.images, state.optimisers[0])
    synthetic = state.synthetic._replace(images=images)
    loss, grads = matching(problem, state.models, synthetic, selection, match_key)
    images, turns_state = turns.after(grads.images, images, turns_state)
    rate_step, rate_state = rate_sgd.update(grads.rate, state.optimisers[1])
    synthetic = Synthetic(images, optax.apply_updates(synthetic.rate, rate_step))

    syn = decoded_set(spec.parameterisation, synthetic.images, data)

    def update(live: tuple[Model, PyTree, PyTree, Array]) -> Updated:
        model, optimiser, watch, key = live
        return spec.update.update(net, model, optimiser, watch, data, syn, hyper, key)

    keys = jax.random.split(update_key, spec.models.live)
    live = (state.models, state.model_optimisers, state.watch, keys)
    models, model_optimisers, watch, leave = tree.map_chunks(update, live, spec.model_chunk)
    return state._replace(
        synthetic=synthetic,
        optimisers=(turns_state, rate_state),
        models=models,
        model_optimisers=model_optimisers,
        watch=watch,
        selection=selection,
        loss=state.loss + (loss - state.loss) / (state.taken + 1).astype(loss.dtype),
        taken=state.taken + 1,
        left=jnp.all(leave),
    )


def matching(
    problem: Problem, models: Model, synthetic: Synthetic, selection: Array, key: Array
) -> tuple[Array, Synthetic]:
    """The matching loss (sum over classes, mean over models) and its gradient with respect to the synthetic part.

    An objective on one class is differentiated inside its chunk of classes and models: that is what keeps memory flat.
    """
    spec, net, hyper, data = problem.spec, problem.net, problem.hyper, problem.data
    objective: Any = spec.objective
    classes = jnp.arange(data.classes)
    keys = jax.random.split(key, data.classes)

    def shown(images: Array, rows: Array, c: Array, key: Array) -> tuple[Array, Array]:
        """One class as the network sees it, real [B, ...] and synthetic [D, ...]: one augmentation draw for both."""
        subset_key, augment_key = jax.random.split(key)
        real = to_network(data.images[data.index[c, rows]], data.mean, data.std)
        syn = as_network(spec.parameterisation, spec.parameterisation.decode(images), data)
        if 0 < spec.syn_batch < syn.shape[0]:
            syn = syn[jax.random.permutation(subset_key, syn.shape[0])[: spec.syn_batch]]
        both = spec.augment(augment_key, jnp.concatenate([real, syn]))
        return both[: real.shape[0]], both[real.shape[0] :]

    def over_models(loss, variable: PyTree) -> tuple[Array, PyTree]:
        of_each = tree.map_chunks(partial(jax.value_and_grad(loss), variable), models, spec.model_chunk)
        return jax.tree.map(lambda a: jnp.mean(a, axis=0), of_each)

    def of_class(each: tuple[Array, Array, Array, Array]) -> tuple[Array, Array]:
        images, rows, c, key = each

        def loss(images: Array, model: Model) -> Array:
            return objective.class_loss(net, model, *shown(images, rows, c, key), c, hyper, key)

        return over_models(loss, images)

    def set_loss(synthetic: Synthetic, model: Model) -> Array:
        real, syn = jax.vmap(shown)(synthetic.images, selection, classes, keys)
        return objective.set_loss(net, model, real, synthetic._replace(images=syn), hyper, key)

    if isinstance(objective, ClassObjective):
        losses, grads = tree.map_chunks(of_class, (synthetic.images, selection, classes, keys), spec.class_chunk)
        return jnp.sum(losses), jax.tree.map(jnp.zeros_like, synthetic)._replace(images=grads)
    return over_models(set_loss, synthetic)


def block(problem: Problem, state: State, steps: Array | int) -> tuple[State, Array]:
    """``steps`` inner steps (at most BLOCK), crossing outer iterations as they come.

    Returns the state and [BLOCK] mean losses of the outer iteration so far, one after each step taken.
    """

    def step(i: Array, carry: tuple[State, Array]) -> tuple[State, Array]:
        state, losses = carry
        outer_key, inner_key = jax.random.split(jax.random.fold_in(problem.root, state.step))
        begins = state.step % problem.spec.inner_steps == 0
        state = jax.lax.cond(begins, lambda s: begin_outer(problem, s, outer_key), lambda s: s, state)
        state = jax.lax.cond(state.left, lambda s: s, lambda s: inner_step(problem, s, inner_key), state)
        return state._replace(step=state.step + 1), losses.at[i].set(state.loss)

    return jax.lax.fori_loop(0, steps, step, (state, jnp.zeros(BLOCK)))


run_block = jax.jit(block, donate_argnames="state")
"""``block``, compiled once for any number of steps; the state passed in is consumed."""


def _optimisers(problem: Problem, step: Array) -> tuple[ImageOptimiser, optax.GradientTransformation]:
    hyper = problem.hyper
    turns = class_turns(problem.spec.syn_rate(hyper.syn_lr, step), hyper.syn_momentum, problem.spec.turns)
    return turns, optax.sgd(hyper.rate_lr, hyper.rate_momentum)
