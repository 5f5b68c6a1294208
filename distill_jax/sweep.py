"""Many runs as one program: points that differ in numbers of the spec and in the root key, stacked on a leading axis S.

The points share network, data, pool and the structure of the spec. Any number of any choice, even a plug-in, can vary.
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

from distill_jax import distill, mesh, tree
from distill_jax.axes.parameterisation import final_set
from distill_jax.contracts import ClassObjective
from distill_jax.distill import Problem, State
from distill_jax.platform import on_cpu, target
from distill_jax.run import DEFAULT_SIZE, BlockSize, Callback, host_loop, images_of_class, pixels_at_once
from distill_jax.spec import CHOICES, Spec, as_arrays
from distill_jax.teachers import with_labels
from distill_jax.train_many import Sets
from distill_jax.types import Array, Choice, RequestError, Synthetic, TrainSet, near_miss


def is_traced(spec: Spec, path: str) -> bool:
    """Return whether the field at ``path`` (e.g. ``perturb.max``) is a number that the points of one program can vary.

    The training options of the pool and the number of outer steps are not, because the points share the pool and end
    together. Raise RequestError for an unknown path.
    """
    if isinstance(field_at(spec, path), Choice) or path.startswith("models.") or path == "outer_steps":
        return False
    marked = replaced(spec, path, MARK)
    return any(leaf is MARK for leaf in jax.tree.leaves(marked, is_leaf=lambda leaf: leaf is MARK))


MARK = float("nan")


def field_at(spec: Spec, path: str) -> Any:
    """Return the value at ``path``. Raise RequestError with the nearest known name if the path does not exist."""
    node: Any = spec
    prefix = ""
    for name in path.split("."):
        known = [f.name for f in fields(node)] if isinstance(node, Choice) else []
        if name not in known:
            raise RequestError(
                f"{path} is unknown: {_option_for(path) or near_miss(path, [prefix + k for k in known])}"
            )
        node, prefix = getattr(node, name), f"{prefix}{name}."
    return node


def _option_for(path: str) -> str | None:
    """Return the option that selects a choice with this field, or None if no choice on the axis has it."""
    axis, _, name = path.partition(".")
    for label, make in CHOICES.get(axis, {}).items():
        if name in {f.name for f in fields(make())}:
            return f"add --{axis} {label}"
    return None


def replaced(spec: Spec, path: str, value: Any) -> Spec:
    """Return ``spec`` with ``value`` at ``path``."""

    def within(node: Any, names: list[str]) -> Any:
        head, *rest = names
        return replace(node, **{head: within(getattr(node, head), rest) if rest else value})

    return within(spec, path.split("."))


def at(spec: Spec, point: Mapping[str, Any]) -> Spec:
    """Return ``spec`` with the values of ``point`` at its paths."""
    for path, value in point.items():
        spec = replaced(spec, path, value)
    return spec


def combinations(swept: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return every combination of the values, the last name changing fastest. Raise RequestError for a duplicate."""
    for name, values in swept.items():
        if len(set(values)) < len(values):
            raise RequestError(f"{name} has a repeated value in {' '.join(map(str, values))}: give each value once")
    return [dict(zip(swept, point, strict=True)) for point in itertools.product(*swept.values())]


def specs_of(spec: Spec, swept: Mapping[str, Sequence[float]]) -> list[Spec]:
    """Return ``spec`` at every combination of the values of the ``swept`` paths."""
    return [at(spec, point) for point in combinations(swept)]


def stacked(problem: Problem, specs: Sequence[Spec], roots: Sequence[Array]) -> Problem:
    """Return ``problem`` at S = len(specs) * len(roots) points: each spec with each root key, keys changing fastest.

    Leaves of ``spec`` are [S] and ``root`` is keys [S]; nothing else changes.
    """
    repeated = [as_arrays(spec) for spec in specs for _ in roots]
    spec = jax.tree.map(lambda *values: jnp.asarray(np.stack(values)), *repeated)
    return replace(problem, spec=spec, root=jnp.stack([root for _ in specs for root in roots]))


def run(
    problems: Problem,
    states: State,
    callbacks: Sequence[Callback] = (),
    size: BlockSize = DEFAULT_SIZE,
    chunk: int = 0,
    stop: int | None = None,
) -> State:
    """Run all points to the end of the run, or to step ``stop``, and return the states [S, ...].

    Callbacks see losses [S, steps]. ``chunk`` points advance at once on each device (0: ``automatic_chunk``); the
    result does not depend on it.
    """
    chunk = chunk or automatic_chunk(problems)

    def advance(states: State, first: int, count: int) -> tuple[State, np.ndarray]:
        states, losses = run_block(problems, states, count, chunk)
        return states, np.asarray(losses)[:, :count]

    states = mesh.shard_leading(states, problems.root.shape[0])
    stop = problems.spec.steps if stop is None else stop
    return host_loop(advance, states, int(states.step[0]), stop, callbacks, size)


MOST_AT_ONCE = 8
"""maximum number of points that advance at once. More would hardly be faster, because networks with different weights
run their convolutions one by one, and objectives that differentiate through training store parameters of every step"""


def automatic_chunk(problems: Problem) -> int:
    """Return how many points advance at once on each device.

    On a CPU it is one. On an accelerator it is as many as together match at most PIXELS_AT_ONCE pixels, because a point
    that fills the device gains little from company, and at most MOST_AT_ONCE.
    """
    if on_cpu():
        return 1
    spec, data = problems.spec, problems.data
    height, width = data.images.shape[1:3]
    classes = spec.class_chunk if isinstance(spec.objective, ClassObjective) else len(spec.classes) or data.classes
    pixels = max(1, classes * spec.model_chunk * images_of_class(spec) * height * width)
    points = -(-problems.root.shape[0] // mesh.size())
    return tree.chunk_within(points, min(MOST_AT_ONCE, pixels_at_once(target()) // pixels))


@partial(jax.jit, static_argnames="chunk")
def init_states(problems: Problem, chunk: int = 1) -> State:
    """Return the states [S, ...] before the first step."""

    def init_point(point: tuple[Spec, Array], problems: Problem) -> State:
        return distill.init_state(replace(problems, spec=point[0], root=point[1]))

    return mesh.map_chunks(init_point, (problems.spec, problems.root), chunk, problems)


@partial(jax.jit, static_argnames="chunk", donate_argnames="states")
def run_block(problems: Problem, states: State, steps: Array | int, chunk: int) -> tuple[State, Array]:
    """Run ``distill.block`` at every point; return states [S, ...] and losses [S, LONGEST_BLOCK]."""
    # All points are at the same step. One shared number keeps "does an outer iteration begin?" a branch under vmap. If
    # the condition differed between points, both sides would run in every step.
    now = states.step[0]

    def run_point(point: tuple[Spec, Array, State], problems: Problem, now: Array, steps: Array) -> tuple[State, Array]:
        spec, root, state = point
        return distill.block(replace(problems, spec=spec, root=root), state._replace(step=now), steps)

    points = (problems.spec, problems.root, states)
    advanced = mesh.map_chunks(run_point, points, chunk, problems, now, jnp.asarray(steps))
    return mesh.shard_leading(advanced, problems.root.shape[0])


def training_sets(problems: Problem, states: State, repeats: int) -> Sets:
    """Return the synthetic sets of the points as S * ``repeats`` training sets, those of the first point first, with
    the kind of labels that the spec names."""

    def of_point(spec: Spec, synthetic: Synthetic) -> tuple[TrainSet, Array | None]:
        rate = spec.objective.learned_rate(synthetic.learnable)
        return final_set(spec.parameterisation, synthetic, problems.data), rate

    sets, rates = jax.vmap(of_point)(problems.spec, states.synthetic)
    count, size = sets.targets.shape[:2]
    rows = jnp.arange(count * size, dtype=jnp.int32).reshape(count, size)
    store = TrainSet(*(a.reshape(-1, *a.shape[2:]) for a in sets))
    store = with_labels(store, problems.spec, problems.net, problems.pool)
    return Sets(store, jnp.repeat(rows, repeats, axis=0), None if rates is None else jnp.repeat(rates, repeats))
