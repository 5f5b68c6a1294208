"""The host loop: runs compiled blocks of steps with callbacks between them.

Distillation, sweeps and evaluation all run in ``host_loop``. A callback gets each block and may end the loop.
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
from distill_jax.check_own import check_source
from distill_jax.check_spec import check, require_type
from distill_jax.data import Dataset, feed
from distill_jax.distill import LONGEST_BLOCK, Problem, State, init_state, run_block
from distill_jax.distilled import DistilledSet
from distill_jax.platform import target
from distill_jax.spec import Spec, as_arrays
from distill_jax.teachers import with_teacher_labels
from distill_jax.types import Array, Feed, MemberStore, RealData, RequestError, Shape, Tick

GROWTH = 8
"""maximum ratio of the lengths of two consecutive blocks, because steps of CAFE's dynamic loop differ in duration"""

PIXELS_AT_ONCE = {"gpu": 2**19, "tpu": 2**16}
"""Number of pixels of real and synthetic images that an accelerator matches at once. On a GPU it is enough to fill the
device, and its activations (two to eight kilobytes per pixel at width 128) fit in a few gigabytes. On a TPU each
activation (half a kilobyte per pixel) fits in the fast memory of a chip."""


class Block(NamedTuple):
    """A block of consecutive steps, as callbacks see it."""

    state: Any
    """state after the block; the next block donates its buffers, so copy what you want to keep"""
    first: int
    """number of the first step"""
    end: int
    """number of the last step, plus one"""
    losses: np.ndarray
    """float32 [..., steps]: mean matching loss of the outer iteration so far, after each step; empty in other loops"""
    seconds: float
    """duration of the block, including compilation"""


Callback: TypeAlias = Callable[[Block], object]
"""Called after each block, in order. The loop ends if a callback returns True."""

Advance: TypeAlias = Callable[[Any, int, int], tuple[Any, np.ndarray]]
"""(state, first step, number of steps) -> (state, losses [..., steps]): one call of a compiled program"""


@dataclass(frozen=True)
class BlockSize:
    """The rule that splits a loop into blocks. It must not affect the results of the loop."""

    seconds: float = 2.0
    """target duration of a block"""
    longest: int = LONGEST_BLOCK
    """maximum number of steps in a block"""
    every: int = 0
    """if above 0, no block crosses a multiple of this number of steps"""


DEFAULT_SIZE = BlockSize()


def host_loop(
    advance: Advance,
    state: Any,
    start: int,
    stop: int,
    callbacks: Sequence[Callback] = (),
    size: BlockSize = DEFAULT_SIZE,
) -> Any:
    """Advance ``state`` from step ``start`` to ``stop`` in blocks and return the last state.

    Each block is sized by the duration of the previous one. The first two blocks have one step each, because the first
    also compiles and its duration says nothing about speed.
    """
    first, wanted = start, 1
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
        if block.first > start:
            wanted = hosts.maximum(max(1, min(int(size.seconds * count / max(took, 1e-6)), GROWTH * count)))
    return state


# ------------------------------------------------------------------ distillation


class Keys(NamedTuple):
    """The random keys of a run, all derived from one seed."""

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
    """Ignore progress."""


def with_chunks(spec: Spec, shape: Shape, classes: int, platform: str) -> Spec:
    """Return ``spec`` with its automatic chunk sizes resolved for ``classes`` classes of images of ``shape``.

    On a CPU both are 1, which is fastest and needs the least memory. On other platforms the model chunk is all live
    models, and the class chunk is PIXELS_AT_ONCE / ((B + D) H W), clamped to 1..C, for B real and D synthetic images of
    each class. It is rounded to the nearest divisor of C within a factor of 1.5, if there is one, because a remainder
    would compile a second program.
    """
    if platform == "cpu":
        return replace(spec, class_chunk=spec.class_chunk or 1, model_chunk=spec.model_chunk or 1)
    ideal = pixels_at_once(platform) / (images_of_class(spec) * shape[0] * shape[1])
    ratios = {n: max(n / ideal, ideal / n) for n in range(1, classes + 1) if classes % n == 0}
    near = [n for n in ratios if ratios[n] <= 1.5]
    chunk = min(near, key=ratios.__getitem__, default=max(1, min(int(ideal), classes)))
    return replace(spec, class_chunk=spec.class_chunk or chunk, model_chunk=spec.model_chunk or spec.live)


def pixels_at_once(platform: str) -> int:
    """Return the entry of PIXELS_AT_ONCE for an accelerator; an unknown one counts as a GPU."""
    return PIXELS_AT_ONCE.get(platform, PIXELS_AT_ONCE["gpu"])


def images_of_class(spec: Spec) -> int:
    """Return B + D, the number of real and synthetic images that a step matches in each class."""
    decoded = spec.parameterisation.decoded(spec.ipc)
    return spec.selector.batch + min(decoded, spec.syn_batch or decoded)


def prepare(
    spec: Spec,
    data: Dataset,
    seed: int = 0,
    tick: Tick = no_tick,
    members: MemberStore | None = None,
    real: Feed | None = None,
) -> Problem:
    """Check the spec, choose its chunk sizes, build its network, pretrain its pool, and return the problem.

    ``tick(done, total)`` is called between epochs of pretraining. ``real`` is the source of real images if they come in
    portions; the problem holds the first portion. Raise RequestError if the spec is invalid or does not fit the data.
    """
    real = data.real_data(spec.mean, spec.std) if real is None else real
    check(spec, data.shape, real.at(0).counts.tolist(), data.class_names)
    spec = with_chunks(spec, data.shape, data.classes, target())
    net, keys = spec.net.build(data.shape, data.classes), Keys.of(seed)
    spec = as_arrays(spec)
    pool = spec.models.pretrain(net, real, keys.pool, tick, members)
    check_source(spec, net, pool)
    return Problem(spec, net, real.at(0), pool, keys.run)


def steps_per_portion(spec: Spec, portion: RealData) -> int:
    """Return the number of inner steps for which a ``portion`` of the real images stays on the device.

    It is about one pass over the portion: a model that trains on the same few images for longer overfits them, and its
    gradients become uninformative. The number divides the steps of an outer iteration, or is a multiple of them, and
    steps that share a selection see one portion. If steps use no real images, or always the same, the first portion
    stays for the whole run.
    """
    inner, every = spec.inner_steps, spec.selector.every
    images_per_step = spec.update.images + spec.selector.batch * (len(spec.classes) or portion.classes)
    if spec.selector.paired or not images_per_step:
        return max(1, spec.steps)
    wanted = max(1, portion.images.shape[0] // images_per_step)
    if wanted >= inner:
        return inner * (wanted // inner)
    divisors = [n for n in range(1, inner + 1) if inner % n == 0 and (n % every == 0 or n == inner)]
    return max((n for n in divisors if n <= wanted), default=divisors[0])


def run(
    problem: Problem,
    state: State,
    callbacks: Sequence[Callback] = (),
    size: BlockSize = DEFAULT_SIZE,
    start: int | None = None,
    real: Feed | None = None,
) -> State:
    """Advance ``state`` to the end of the run, or until a callback ends it.

    ``start`` is the step of ``state``, if the caller knows it. ``real`` is the source of real images if they come in
    portions. The number of a step alone determines the portion that it sees.
    """
    if state.synthetic.images.shape[1] != problem.spec.ipc:
        raise RequestError(
            f"init gives {state.synthetic.images.shape[1]} images per class: it must give ipc = {problem.spec.ipc}"
        )
    start = int(state.step) if start is None else start
    source = problem.data if real is None else real
    every = steps_per_portion(problem.spec, problem.data) if source.portions > 1 else max(1, problem.spec.steps)
    resident = mesh.replicated(replace(problem, data=source.at(start // every)))
    images: Feed = source if source.portions > 1 else resident.data

    def advance(state: State, first: int, count: int) -> tuple[State, np.ndarray]:
        end, losses = first + count, []
        while first < end:
            steps = min(every - first % every, end - first)
            state, block_losses = run_block(replace(resident, data=images.at(first // every)), state, steps)
            losses.append(np.asarray(block_losses)[:steps])  # waits for the block, whose portion is replaced next
            first += steps
        return state, np.concatenate(losses)

    state = mesh.shard_state(mesh.replicated(state))
    return host_loop(advance, state, start, problem.spec.steps, callbacks, size)


def distil(
    spec: Spec, data: Dataset, seed: int = 0, callbacks: Sequence[Callback] = (), resident: int = 0
) -> DistilledSet:
    """Distil ``data`` and return the set, the same as ``experiments.distill --seed SEED`` makes with this spec. It has
    the same bits on the same devices and with the same XLA_FLAGS, which the command sets itself.

    Each of ``callbacks`` gets every Block of steps, and ends the run by returning True. ``resident`` is the number of
    real images per class on the device (``data.Buffer``); 0: all. Raise RequestError if the spec does not fit the data,
    and FloatingPointError if the images diverge.
    """
    require_type(Spec, "resolve(METHOD, DATASET).spec", spec=spec)
    require_type(Dataset, "load(DATASET)", data=data)
    real = feed(data, resident, seed, spec.mean, spec.std)
    problem = prepare(spec, data, seed, real=real)
    state = run(problem, init_state(problem), callbacks, real=real)
    if not np.isfinite(np.asarray(hosts.gather(state.synthetic.images))).all():
        raise FloatingPointError("the images are no longer finite: try a smaller learning rate, or check the objective")
    return distilled_set(problem, data, state, {"seed": int(seed)})  # the card is JSON


def distilled_set(problem: Problem, data: Dataset, state: State, about: dict[str, Any]) -> DistilledSet:
    """Return the distilled set of ``state``, with the kind of labels that the spec names and ``about`` in its card."""
    spec, synthetic = problem.spec, hosts.gather(state.synthetic)
    images = stored(spec.parameterisation, synthetic.images)
    names = tuple(data.class_names[c] for c in spec.classes) or data.class_names
    given = bool(spec.mean) and data.whitening is None
    about = about | {"normalisation": "given" if given else "of the training images"}
    # The names do not identify the classes, because several may have one name.
    about |= {"part_of": list(data.class_names), "class_numbers": list(spec.classes)} if spec.classes else {}
    rate = spec.objective.learned_rate(synthetic.learnable)
    about |= {"rate": None if rate is None else float(rate)}
    made = DistilledSet.of(spec.parameterisation, images, names, problem.data.normaliser, about)
    if data.whitening is not None:
        made = made.with_zca(data.whitening.matrix)
    if spec.labels.learned:
        logits = np.asarray(synthetic.labels, np.float32).reshape(made.decoded_count, made.classes)
        return made.with_soft(np.asarray(jax.nn.softmax(logits)))
    teachers = spec.models.teachers(problem.pool) if spec.labels.from_teachers else None
    return made if teachers is None else with_teacher_labels(made, problem.net, teachers)
