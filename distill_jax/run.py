"""The host's side of everything that takes long: compiled blocks of steps, with callbacks between them.

``host_loop`` is the one loop; distillation, sweeps and evaluation run on it. A callback sees each block and may end
the loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

from distill_jax import hosts, mesh
from distill_jax.axes.parameterisation import stored
from distill_jax.chunks import with_chunks
from distill_jax.data import Dataset, feed
from distill_jax.distill import LONGEST_BLOCK, Problem, State, init_state, run_block
from distill_jax.distilled import DistilledSet
from distill_jax.platform import target
from distill_jax.spec import Spec, as_arrays, check
from distill_jax.teachers import with_teacher_labels
from distill_jax.types import Array, Feed, MemberStore, RealData, Tick

GROWTH = 8
"""a block has at most so many times the steps of the one before: steps of a dynamic loop (CAFE) differ much"""


class Block(NamedTuple):
    """A stretch of a loop, as callbacks see it."""

    state: Any
    """after the block; the next block consumes it, so copy what must outlive it"""
    first: int
    """the step the block started at"""
    end: int
    """the step after its last one"""
    losses: np.ndarray
    """float32 [..., steps]: after each step, the mean matching loss of its outer iteration so far; empty elsewhere"""
    seconds: float
    """that the block took, compilation included where it compiled"""


Callback: TypeAlias = Callable[[Block], object]
"""Called after each block, in order; one that returns True ends the loop after this block."""

Advance: TypeAlias = Callable[[Any, int, int], tuple[Any, np.ndarray]]
"""(state, first step, steps) -> (state, losses [..., steps]): one call of a compiled program"""


@dataclass(frozen=True)
class BlockSize:
    """How a loop is cut into blocks. It must not change what the loop computes."""

    seconds: float = 2.0
    """what a block should take"""
    longest: int = LONGEST_BLOCK
    """steps in a block at most"""
    every: int = 0
    """above 0: no block crosses a multiple of so many steps"""


DEFAULT_SIZE = BlockSize()


def host_loop(
    advance: Advance,
    state: Any,
    start: int,
    stop: int,
    callbacks: Sequence[Callback] = (),
    size: BlockSize = DEFAULT_SIZE,
) -> Any:
    """Take ``state`` from step ``start`` to ``stop`` in blocks, each sized by how long the one before it took.

    Returns the last state. The first two blocks have length 1: the very first also compiles, and tells nothing about
    speed.
    """
    first, wanted, compiled = start, 1, False
    while first < stop:
        count = min(wanted, size.longest, stop - first)
        if size.every:
            count = min(count, size.every - first % size.every)
        began = time.perf_counter()
        state, losses = advance(state, first, count)
        took = time.perf_counter() - began
        block = Block(state, first, first + count, losses, took)
        first += count
        if any([callback(block) is True for callback in callbacks]):  # every callback sees every block
            break
        if compiled:
            wanted = hosts.maximum(max(1, min(int(size.seconds * count / max(took, 1e-6)), GROWTH * count)))
        compiled = True
    return state


# ------------------------------------------------------------------ distillation


class Keys(NamedTuple):
    """The random keys of a run, all from one seed."""

    pool: Array
    """pretraining"""
    run: Array
    """distillation"""
    score: Array
    """evaluation"""
    draw: Array
    """the real images of the random baseline"""

    @staticmethod
    def of(seed: int) -> Keys:
        return Keys(*jax.random.split(jax.random.key(seed), 4))


def no_tick(done: int, total: int) -> None:
    """Progress that nobody watches."""


def prepare(
    spec: Spec,
    data: Dataset,
    seed: int = 0,
    tick: Tick = no_tick,
    members: MemberStore | None = None,
    real: Feed | None = None,
) -> Problem:
    """Everything that a run needs: the spec checked, its chunks chosen, its network built, its pool pretrained.

    ``tick(done, total)`` is called between epochs of pretraining. ``real``: the real images where they come in
    portions, of which the problem has the first. Raises RequestError where the spec makes no sense or does not fit the
    data.
    """
    real = data.real_data(spec.mean, spec.std) if real is None else real
    check(spec, data.shape, real.at(0).counts.tolist())
    spec = with_chunks(spec, data.shape, data.classes, target())
    net, keys = spec.net.build(data.shape, data.classes), Keys.of(seed)
    spec = as_arrays(spec)
    pool = spec.models.pretrain(net, real, keys.pool, tick, members)
    return Problem(spec, net, real.at(0), pool, keys.run)


def steps_per_portion(spec: Spec, portion: RealData) -> int:
    """Inner steps that each ``portion`` of the real images stays on the device: about as many as show its images once.
    A model that is updated on the same few images over and over learns them by heart, and its gradients tell nothing.

    A turn divides an outer iteration or is several, and a selection that steps share is never of two portions. The
    first portion stays where no step shows an image, or each shows the same ones.
    """
    inner, every = spec.inner_steps, spec.selector.every
    shown = spec.update.images + spec.selector.batch * (len(spec.classes) or portion.classes)
    if spec.selector.paired or not shown:
        return max(1, spec.steps)
    wanted = max(1, portion.images.shape[0] // shown)
    if wanted >= inner:
        return inner * (wanted // inner)
    shares = [n for n in range(1, inner + 1) if inner % n == 0 and (n % every == 0 or n == inner)]
    return max((n for n in shares if n <= wanted), default=shares[0])


def run(
    problem: Problem,
    state: State,
    callbacks: Sequence[Callback] = (),
    size: BlockSize = DEFAULT_SIZE,
    start: int | None = None,
    real: Feed | None = None,
) -> State:
    """Take ``state`` to the end of the run, or until a callback ends it. ``start``: its step, where it is known.

    ``real``: where the real images come in portions, which then take turns: which one a step sees follows from its
    number alone.
    """
    start = int(state.step) if start is None else start
    source = problem.data if real is None else real
    every = steps_per_portion(problem.spec, problem.data) if source.portions > 1 else max(1, problem.spec.steps)
    fixed = mesh.replicated(replace(problem, data=source.at(start // every)))
    shown: Feed = source if source.portions > 1 else fixed.data

    def advance(state: State, first: int, count: int) -> tuple[State, np.ndarray]:
        end, losses = first + count, []
        while first < end:
            steps = min(every - first % every, end - first)
            state, made = run_block(replace(fixed, data=shown.at(first // every)), state, steps)
            losses.append(np.asarray(made)[:steps])  # waits for the turn to end: the next portion takes its place
            first += steps
        return state, np.concatenate(losses)

    state = mesh.shard_state(mesh.replicated(state))
    return host_loop(advance, state, start, problem.spec.steps, callbacks, size)


def distil(
    spec: Spec, data: Dataset, seed: int = 0, callbacks: Sequence[Callback] = (), resident: int = 0
) -> DistilledSet:
    """The distilled set of ``data``: what ``experiments.distill --seed SEED`` makes of the same spec.

    ``resident``: real images of each class that the device holds at a time (``data.Buffer``); 0: all.
    """
    real = feed(data, resident, seed, spec.mean, spec.std)
    problem = prepare(spec, data, seed, real=real)
    state = run(problem, init_state(problem), callbacks, real=real)
    return distilled_set(problem, data, state, {"seed": seed})


def distilled_set(problem: Problem, data: Dataset, state: State, about: dict[str, Any]) -> DistilledSet:
    """The set as it stands in ``state``, its card saying ``about``, with the labels that the spec asks for."""
    spec, synthetic = problem.spec, hosts.gather(state.synthetic)
    images = stored(spec.parameterisation, synthetic.images)
    names = tuple(data.class_names[c] for c in spec.classes) or data.class_names
    given = bool(spec.mean) and data.whitening is None
    about = about | {"normalisation": "given" if given else "of the training images"}
    about |= {"part_of": list(data.class_names)} if spec.classes else {}
    made = DistilledSet.of(spec.parameterisation, images, names, problem.data.normaliser, about)
    if data.whitening is not None:
        made = made.with_zca(data.whitening.matrix)
    if spec.labels.learned:
        logits = np.asarray(synthetic.labels, np.float32).reshape(made.decoded_count, made.classes)
        return made.with_soft(np.asarray(jax.nn.softmax(logits)))
    teachers = spec.models.teachers(problem.pool) if spec.labels.from_teachers else None
    return made if teachers is None else with_teacher_labels(made, problem.net, teachers)
