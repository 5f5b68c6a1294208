"""Many runs as one program: points that differ in Hyper and in the root key, stacked on a leading axis S.

Spec, network, data and pool are shared. This works because Hyper changes no shapes, and State holds nothing else.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from distill_jax import distill, tree
from distill_jax.distill import BLOCK, Problem, State
from distill_jax.evaluate import Sets
from distill_jax.loop import Block
from distill_jax.pace import blocks
from distill_jax.spec import Hyper
from distill_jax.synthetic import decoded_set, stored
from distill_jax.types import Array, RequestError, TrainSet


def grid(hyper: Hyper, swept: Mapping[str, Sequence[float]]) -> list[Hyper]:
    """``hyper`` with every combination of the values of the ``swept`` fields, those of the last field changing fastest.

    Raises RequestError for a name that is no field of Hyper, and for a value given twice.
    """
    known = [f.name for f in fields(Hyper)]
    for name, values in swept.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
            raise RequestError(f"hyper.{name} is unknown: " + (f"did you mean {near[0]}?" if near else " ".join(known)))
        if len(set(values)) < len(values):
            raise RequestError(f"hyper.{name} is swept over a value given twice: {' '.join(map(str, values))}")
    return [replace(hyper, **dict(zip(swept, point, strict=True))) for point in itertools.product(*swept.values())]


def points(problem: Problem, hypers: Sequence[Hyper], roots: Sequence[Array]) -> Problem:
    """``problem`` at S = len(hypers) * len(roots) points: each Hyper with each root key, the keys changing fastest.

    Leaves of ``hyper`` are float32 [S], ``root`` is keys [S]; all else is as it was.
    """
    each = [hyper for hyper in hypers for _ in roots]
    hyper = jax.tree.map(lambda *values: jnp.asarray(values, jnp.float32), *each)
    return replace(problem, hyper=hyper, root=jnp.stack([root for _ in hypers for root in roots]))


def run(problems: Problem, chunk: int = 0, seconds: float = 2.0) -> Iterator[Block]:
    """All points from start to end, in blocks of about ``seconds``: states [S, ...] and losses [S, steps].

    ``chunk`` points advance at once (0: one on CPU, all elsewhere); the result does not depend on it.
    """
    chunk = chunk or (1 if jax.default_backend() == "cpu" else problems.root.shape[0])
    states = init_states(problems, chunk)
    for first, count in blocks(0, problems.spec.steps, BLOCK, seconds):
        states, losses = run_block(problems, states, count, chunk)
        yield Block(states, first, np.asarray(losses)[:, :count])


@partial(jax.jit, static_argnames="chunk")
def init_states(problems: Problem, chunk: int) -> State:
    """States [S, ...] before the first step."""

    def one(point: tuple[Hyper, Array]) -> State:
        return distill.init_state(replace(problems, hyper=point[0], root=point[1]))

    return tree.map_chunks(one, (problems.hyper, problems.root), chunk)


@partial(jax.jit, static_argnames="chunk", donate_argnames="states")
def run_block(problems: Problem, states: State, steps: Array | int, chunk: int) -> tuple[State, Array]:
    """``distill.block`` at every point; returns states [S, ...] and losses [S, BLOCK]."""
    # All points are at the same step. Knowing it as one number keeps "does an outer iteration begin?" a branch under
    # vmap, where a condition that differs between points would run both of its sides at every step.
    now = states.step[0]

    def one(point: tuple[Hyper, Array, State]) -> tuple[State, Array]:
        hyper, root, state = point
        return distill.block(replace(problems, hyper=hyper, root=root), state._replace(step=now), steps)

    return tree.map_chunks(one, (problems.hyper, problems.root, states), chunk)


def training_sets(problems: Problem, states: State, repeats: int) -> Sets:
    """What the points learned, as S * ``repeats`` training sets: the repeats of the first point come first."""
    parameterisation = problems.spec.parameterisation
    images = stored(parameterisation, states.synthetic.images)
    sets = jax.vmap(lambda images: decoded_set(parameterisation, images, problems.data))(images)
    count, size = sets.targets.shape[:2]
    rows = jnp.arange(count * size, dtype=jnp.int32).reshape(count, size)
    return Sets(TrainSet(*(a.reshape(-1, *a.shape[2:]) for a in sets)), jnp.repeat(rows, repeats, axis=0))
