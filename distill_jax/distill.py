"""Dataset distillation on one page: the state, an inner step, the matching gradient, a block of steps.

A run consists of ``outer_steps`` outer iterations, each of ``inner_steps`` inner steps:

    outer iteration:  clamp the images, sample new models and perturb them
    inner step:       select real images, match real and synthetic, step the images, update the models

The state holds no random key. Every key is folded from the root key and the step, so a resumed run computes the same
bits as an uninterrupted one.
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
from distill_jax.draws import permutations, split
from distill_jax.spec import Spec
from distill_jax.types import Array, Model, Net, PyTree, RealData, Synthetic, TrainSet

BEFORE_FIRST = 2**32 - 1  # folded into the key of the initial state; no step has this number
LONGEST_BLOCK = 1024  # maximum number of inner steps in one call


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Problem:
    """The constants of a run. The net and the structure of the spec are static under ``jit``; the rest is traced."""

    spec: Spec
    net: Net = field(metadata={"static": True})
    data: RealData
    pool: PyTree  # the pretrained models, from ``spec.models.pretrain``
    root: Array  # the root key, from which every key of the run is folded


class State(NamedTuple):
    """The variables of a run, which is also the content of a checkpoint."""

    step: Array  # int32 []: number of inner steps taken
    synthetic: Synthetic
    optimiser: Synthetic  # the optimiser state of each part of ``synthetic``
    models: Model  # [K, ...]: the live models
    update: PyTree  # [K, ...]: the state of the model update
    selector: PyTree  # the state of the selector
    loss: Array  # float32 []: mean matching loss of this outer iteration so far


@jax.jit
def init_state(problem: Problem) -> State:
    """Return the state before the first step, which begins an outer iteration and so replaces the zeros in it."""
    spec, data = problem.spec, problem.data.of_classes(problem.spec.classes)
    model_key, image_key = jax.random.split(jax.random.fold_in(problem.root, BEFORE_FIRST))
    step = jnp.zeros((), jnp.int32)
    outer, teachers = _outer_state(problem, step, model_key), spec.models.teachers(problem.pool)
    model = tree.take(teachers if spec.init.uses_teacher else outer["models"], 0)
    images = spec.init.images(problem.net, model, data, spec.ipc, spec.parameterisation.factor, image_key)
    if spec.parameterisation.space == "normalised":
        images = data.normaliser.to_network(images)
    labels = spec.labels.init(problem.net, teachers, decoded_set(spec.parameterisation, Synthetic(images), data))
    synthetic = Synthetic(images, labels, spec.objective.learnable())
    optimisers: Any = (spec.optimiser, spec.labels.optimiser(), spec.objective.learnable_optimiser())
    optimiser = Synthetic(*(opt.init(part) for opt, part in zip(optimisers, synthetic, strict=True)))
    selector = spec.selector.init(problem.net, teachers, data)
    return State(step, synthetic, optimiser, selector=selector, **jax.tree.map(jnp.zeros_like, outer))


def begin_outer(problem: Problem, state: State, key: Array) -> State:
    """Clamp the pixels, and sample and perturb new models. The images keep their momentum, as in the released code."""
    images = stored(problem.spec.parameterisation, state.synthetic.images)
    return state._replace(synthetic=state.synthetic._replace(images=images), **_outer_state(problem, state.step, key))


def _outer_state(problem: Problem, step: Array, key: Array) -> dict[str, Any]:
    """Return the fields of State that every outer iteration resets."""
    spec, net, outer = problem.spec, problem.net, step // problem.spec.inner_steps
    sample_key, perturb_key, begin_key = jax.random.split(key, 3)
    sampled = spec.models.sample(net, problem.pool, spec.live, outer, sample_key)
    models = (spec.perturb.perturb(sampled, perturb_key), split(begin_key, spec.live))
    models, update = tree.map_chunks(lambda x: spec.update.begin(net, x[0], problem.data, x[1]), models, spec.live)
    return {"models": models, "update": update, "loss": jnp.zeros(())}


def inner_step(problem: Problem, state: State, key: Array) -> State:
    """Select real images, match, step the images, update the models."""
    spec, data = problem.spec, problem.data
    select_key, match_key, update_key = jax.random.split(key, 3)
    outer, inner = state.step // spec.inner_steps, state.step % spec.inner_steps
    args = (problem.net, tree.take(state.models, 0), data.of_classes(spec.classes), state.selector, inner, select_key)
    # Every device computes the whole selection, because sending it would cost more.
    selection, selector = mesh.replicated(jax.named_scope("select")(spec.selector.select)(*args))
    (images, *leaves), (images_state, *states) = state.synthetic, state.optimiser
    scale = spec.optimiser.schedule(outer, spec.outer_steps)
    images, images_state = spec.optimiser.before(images, images_state, scale)
    loss, grads = matching(problem, state.models, Synthetic(images, *leaves), selection, match_key)
    images, images_state = spec.optimiser.after(grads.images, images, images_state, scale)
    optimisers = (spec.labels.optimiser(), spec.objective.learnable_optimiser())
    steps = [_optax_step(*args) for args in zip(optimisers, grads[1:], states, leaves, strict=True)]
    synthetic, optimiser = (Synthetic(*parts) for parts in zip((images, images_state), *steps, strict=True))
    if (skipped := spec.objective.skip(loss)) is not None:
        keep = partial(jnp.where, skipped)
        synthetic, optimiser = jax.tree.map(keep, (state.synthetic, state.optimiser), (synthetic, optimiser))

    def update(live: tuple[Model, PyTree, Array], problem: Problem, syn: TrainSet) -> tuple[Model, PyTree]:
        model, memory, key = live
        return problem.spec.update.update(problem.net, model, memory, problem.data, syn, key)

    syn = mesh.replicated(decoded_set(spec.parameterisation, synthetic, data))
    live = (state.models, state.update, split(update_key, spec.live))
    models, memory = mesh.map_chunks(update, live, spec.model_chunk, problem, syn)
    loss = state.loss + (loss - state.loss) / (inner + 1).astype(loss.dtype)
    return State(state.step, synthetic, optimiser, models, memory, selector, loss)


def _optax_step(optimiser: optax.GradientTransformation, grads: PyTree, state: PyTree, leaves: PyTree):
    """Return (leaves, state) after one step of an optax transformation."""
    steps, state = optimiser.update(grads, state, leaves)
    return optax.apply_updates(leaves, steps), state


def matching(problem: Problem, models: Model, synthetic: Synthetic, selection: Array, key: Array):
    """Return the matching loss and its gradient (a Synthetic), summed over classes and averaged over models."""
    spec = problem.spec
    classes = jnp.asarray(spec.classes or range(problem.data.classes))
    batches = (selection, classes, jax.random.split(key, problem.data.classes)[classes])
    # Devices share the classes, or the models if the objective needs all classes at once.
    if isinstance(spec.objective, ClassObjective):
        xs = (synthetic.images, *batches)
        losses, grads = mesh.map_chunks(_class_matching, xs, spec.class_chunk, problem, models)
        return jnp.sum(losses), jax.tree.map(jnp.zeros_like, synthetic)._replace(images=grads)
    return tree.mean(mesh.map_chunks(_set_matching, models, spec.model_chunk, problem, synthetic, batches, key))


def _class_matching(x: tuple[Array, ...], problem: Problem, models: Model) -> tuple[Array, Array]:
    """Return the loss and gradient of one class. Differentiating inside the chunk of classes and models bounds the
    memory by one chunk."""
    images, rows, c, key = x
    objective: Any = problem.spec.objective

    def loss(images: Array, model: Model) -> Array:
        return objective.class_loss(problem.net, model, *_batches(problem, images, rows, c, key), c, key)

    return tree.mean(tree.map_chunks(partial(jax.value_and_grad(loss), images), models, problem.spec.model_chunk))


def _set_matching(model: Model, problem: Problem, synthetic: Synthetic, batches: tuple[Array, ...], key: Array):
    """Return the loss and gradient of one model on all classes at once."""
    objective: Any = problem.spec.objective

    def loss(synthetic: Synthetic) -> Array:
        real, syn = jax.vmap(partial(_batches, problem))(synthetic.images, *batches)
        return objective.set_loss(problem.net, model, real, synthetic._replace(images=syn), key)

    return jax.value_and_grad(loss)(synthetic)


def _batches(problem: Problem, images: Array, rows: Array, c: Array, key: Array) -> tuple[Array, Array]:
    """Return the real [B, ...] and synthetic [D, ...] batch of one class, both under the same augmentation draw."""
    spec, data = problem.spec, problem.data
    subset_key, augment_key = jax.random.split(key)
    real = data.normaliser.to_network(data.images[data.index[c, rows]])
    syn = as_network(spec.parameterisation, spec.parameterisation.decode(images), data)
    if 0 < spec.syn_batch < syn.shape[0]:
        syn = syn[permutations(subset_key, 1, syn.shape[0])[0, : spec.syn_batch]]
    both = spec.augment(augment_key, jnp.concatenate([real, syn]))
    return both[: real.shape[0]], both[real.shape[0] :]


def block(problem: Problem, state: State, steps: Array | int) -> tuple[State, Array]:
    """Take ``steps`` inner steps (at most LONGEST_BLOCK), beginning outer iterations on the way. Return the state and,
    for each step, the mean loss of its outer iteration so far [LONGEST_BLOCK]."""
    spec = problem.spec

    def step(i: Array, carry: tuple[State, Array]) -> tuple[State, Array]:
        state, losses = carry
        outer_key, inner_key = jax.random.split(jax.random.fold_in(problem.root, state.step))
        begins = state.step % spec.inner_steps == 0
        with jax.named_scope("begin_outer"):  # in a compiled program, cost.fit recognises parts by such names
            state = jax.lax.cond(begins, lambda s: begin_outer(problem, s, outer_key), lambda s: s, state)
        if spec.update.leaves_early:
            done = jnp.all(jax.vmap(spec.update.leave)(state.update))
            state = jax.lax.cond(done, lambda s: s, lambda s: inner_step(problem, s, inner_key), state)
        else:
            state = inner_step(problem, state, inner_key)
        return state._replace(step=state.step + 1), losses.at[i].set(state.loss)

    state, losses = jax.lax.fori_loop(0, steps, step, (mesh.shard_state(state), jnp.zeros(LONGEST_BLOCK)))
    return mesh.shard_state(state), losses


run_block = jax.jit(block, donate_argnames="state")
"""``block`` compiled once for any number of steps. It donates the buffers of the state that it is given."""
