"""Many runs as one program: points that differ in numbers of the spec and in the root key, stacked on a leading axis S.

Network, data, pool and the structure of the spec are shared. Any number of any choice can differ, a plug-in's included.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from distill_jax import distill, mesh
from distill_jax.axes.parameterisation import decoded_set, stored
from distill_jax.distill import Problem, State
from distill_jax.evaluation import Sets
from distill_jax.platform import on_cpu
from distill_jax.run import DEFAULT_SIZE, BlockSize, Callback, host_loop
from distill_jax.spec import CHOICES, Spec
from distill_jax.types import Array, Choice, RequestError, TrainSet, near_miss


def is_traced(spec: Spec, path: str) -> bool:
    """Whether the field at ``path`` (as ``perturb.max``) is a number that all points of one program may differ in.

    What the pool is trained with is not, because the points share the pool. Raises RequestError for an unknown path.
    """
    if isinstance(field_at(spec, path), Choice) or path.startswith("models."):
        return False
    marked = replaced(spec, path, MARK)
    return any(leaf is MARK for leaf in jax.tree.leaves(marked, is_leaf=lambda leaf: leaf is MARK))


MARK = float("nan")


def field_at(spec: Spec, path: str) -> Any:
    """The value at ``path``. Raises RequestError, with the nearest name, where there is none."""
    node: Any = spec
    done = ""
    for name in path.split("."):
        known = [f.name for f in fields(node)] if isinstance(node, Choice) else []
        if name not in known:
            raise RequestError(f"{path} is unknown: {_elsewhere(path) or near_miss(path, [done + k for k in known])}")
        node, done = getattr(node, name), f"{done}{name}."
    return node


def _elsewhere(path: str) -> str | None:
    """With which choice on its axis the field exists, where there is one."""
    axis, _, name = path.partition(".")
    for label, make in CHOICES.get(axis, {}).items():
        if name in {f.name for f in fields(make())}:
            return f"add --{axis} {label}"
    return None


def replaced(spec: Spec, path: str, value: Any) -> Spec:
    """``spec`` with ``value`` at ``path``."""

    def at(node: Any, names: list[str]) -> Any:
        head, *rest = names
        return replace(node, **{head: at(getattr(node, head), rest) if rest else value})

    return at(spec, path.split("."))


def combinations(swept: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every combination of the values, those of the last name changing fastest. RequestError for a value given
    twice."""
    for name, values in swept.items():
        if len(set(values)) < len(values):
            raise RequestError(f"{name} is swept over a value given twice: {' '.join(map(str, values))}")
    return [dict(zip(swept, point, strict=True)) for point in itertools.product(*swept.values())]


def specs_of(spec: Spec, swept: Mapping[str, Sequence[float]]) -> list[Spec]:
    """``spec`` at every combination of the values of the ``swept`` paths."""
    points = []
    for point in combinations(swept):
        one = spec
        for path, value in point.items():
            one = replaced(one, path, value)
        points.append(one)
    return points


def stacked(problem: Problem, specs: Sequence[Spec], roots: Sequence[Array]) -> Problem:
    """``problem`` at S = len(specs) * len(roots) points: each spec with each root key, the keys changing fastest.

    Leaves of ``spec`` are float32 [S], ``root`` is keys [S]; all else is as it was.
    """
    each = [spec for spec in specs for _ in roots]
    spec = jax.tree.map(lambda *values: jnp.asarray(values, jnp.float32), *each)
    return replace(problem, spec=spec, root=jnp.stack([root for _ in specs for root in roots]))


def run(
    problems: Problem,
    states: State,
    callbacks: Sequence[Callback] = (),
    size: BlockSize = DEFAULT_SIZE,
    chunk: int = 0,
    stop: int | None = None,
) -> State:
    """All points to the end of the run, or to step ``stop``: states [S, ...]; callbacks see losses [S, steps].

    ``chunk`` points advance at once on each device (0: one on CPU, all elsewhere); the result does not depend on it.
    """
    chunk = chunk or automatic_chunk(problems)

    def advance(states: State, first: int, count: int) -> tuple[State, np.ndarray]:
        states, losses = run_block(problems, states, count, chunk)
        return states, np.asarray(losses)[:, :count]

    states = mesh.shard_leading(states, problems.root.shape[0])
    stop = problems.spec.steps if stop is None else stop
    return host_loop(advance, states, int(states.step[0]), stop, callbacks, size)


def automatic_chunk(problems: Problem) -> int:
    """One point at a time on CPU, all elsewhere."""
    return 1 if on_cpu() else problems.root.shape[0]


@partial(jax.jit, static_argnames="chunk")
def init_states(problems: Problem, chunk: int = 1) -> State:
    """States [S, ...] before the first step."""

    def one(point: tuple[Spec, Array], problems: Problem) -> State:
        return distill.init_state(replace(problems, spec=point[0], root=point[1]))

    return mesh.map_chunks(one, (problems.spec, problems.root), chunk, problems)


@partial(jax.jit, static_argnames="chunk", donate_argnames="states")
def run_block(problems: Problem, states: State, steps: Array | int, chunk: int) -> tuple[State, Array]:
    """``distill.block`` at every point; returns states [S, ...] and losses [S, LONGEST_BLOCK]."""
    # All points are at the same step. Knowing it as one number keeps "does an outer iteration begin?" a branch under
    # vmap, where a condition that differs between points would run both of its sides at every step.
    now = states.step[0]

    def one(point: tuple[Spec, Array, State], problems: Problem, now: Array, steps: Array) -> tuple[State, Array]:
        spec, root, state = point
        return distill.block(replace(problems, spec=spec, root=root), state._replace(step=now), steps)

    points = (problems.spec, problems.root, states)
    advanced = mesh.map_chunks(one, points, chunk, problems, now, jnp.asarray(steps))
    return mesh.shard_leading(advanced, problems.root.shape[0])


def training_sets(problems: Problem, states: State, repeats: int) -> Sets:
    """What the points learned, as S * ``repeats`` training sets: the repeats of the first point come first."""
    parameterisation = problems.spec.parameterisation
    synthetic = states.synthetic._replace(images=stored(parameterisation, states.synthetic.images))
    sets = jax.vmap(lambda synthetic: decoded_set(parameterisation, synthetic, problems.data))(synthetic)
    count, size = sets.targets.shape[:2]
    rows = jnp.arange(count * size, dtype=jnp.int32).reshape(count, size)
    return Sets(TrainSet(*(a.reshape(-1, *a.shape[2:]) for a in sets)), jnp.repeat(rows, repeats, axis=0))
