"""The long part of ``distill``: blocks of steps, with progress, metrics, checkpoints and the checks between them."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from distill_jax.distill import BLOCK, Problem, State, init_state, run_block
from distill_jax.distilled import DistilledSet
from distill_jax.pace import blocks
from distill_jax.spec import described
from distill_jax.store import Checkpoints
from distill_jax.synthetic import stored
from distill_jax.types import PyTree, RealData
from experiments.entry import Broken, Interrupts
from experiments.job import Job
from experiments.measure import Clock
from experiments.score import Judge, distilled_sets
from experiments.show import Bar
from experiments.workdir import CHECKPOINTS, Workdir

SAVE_SECONDS = 60.0
"""between two checkpoints, where ``--save-every`` is 0"""


class Session(NamedTuple):
    """What the phases of one run share."""

    job: Job
    data: RealData
    workdir: Workdir
    clock: Clock
    interrupts: Interrupts


@dataclass(frozen=True)
class Rhythm:
    """How often things happen, in outer steps."""

    save_every: int = 0
    """0: about every SAVE_SECONDS"""
    eval_every: int = 0
    """0: never"""


def optimise(session: Session, pool: PyTree, rhythm: Rhythm, judge: Judge | None) -> DistilledSet:
    """Distil, from the last checkpoint in the workdir if there is one; ``judge`` reports on the set along the way.

    What is saved does not depend on where the run was interrupted. Raises Interrupted, with everything saved, after a
    signal, and Broken where the loss is no longer finite.
    """
    job, workdir, clock = session.job, session.workdir, session.clock
    spec, hyper = job.spec, jax.tree.map(jnp.float32, job.experiment.hyper)
    problem = Problem(spec, job.net, hyper, session.data, pool, job.keys.run)
    checkpoints = Checkpoints(workdir.path / CHECKPOINTS)

    def save(step: int, state: State) -> None:
        clock.spent("distill")
        checkpoints.save(step, state, {"seconds": clock.seconds})

    restored = checkpoints.restore(jax.eval_shape(init_state, problem))
    if restored is None:
        step, state = 0, init_state(problem)
        save(step, state)
    else:
        step, state = restored.step, restored.state
        clock.add(restored.about["seconds"])
        for damaged in restored.skipped:
            print(f"the checkpoint of step {damaged} is damaged: going on from step {step}", file=sys.stderr)
    workdir.cut_log(step)

    shown, saved, saved_at = _images_per_step(job), step, time.monotonic()
    with Bar("distilling", spec.steps, start=step, unit="steps") as bar:
        for block in _blocks(problem, state, step, math.gcd(rhythm.save_every, rhythm.eval_every) * spec.inner_steps):
            if not _finite(block):
                raise Broken(_not_finite(job, block, saved, workdir))
            step, state = block.first + len(block.losses), block.state
            _log(session, block, judge, rhythm)
            if period := rhythm.save_every * spec.inner_steps:
                due = step // period > saved // period
            else:
                due = time.monotonic() - saved_at > SAVE_SECONDS
            if due or step == spec.steps or session.interrupts.signum is not None:
                save(step, state)
                saved, saved_at = step, time.monotonic()
            outer, rate = step // spec.inner_steps, shown * len(block.losses) / block.seconds
            outer_of = f"{outer}/{spec.outer_steps}"
            bar.update(step, {"outer": outer_of, "loss": f"{block.losses[-1]:.4g}", "images/s": f"{rate:.0f}"})
            session.interrupts.check()
    clock.spent("distill")
    return distilled_set(session, state)


def distilled_set(session: Session, state: State) -> DistilledSet:
    """The set as it stands, not scored yet."""
    job, rate = session.job, state.synthetic.rate
    about = {
        "method": job.method,
        "dataset": job.dataset,
        "data": job.source.fingerprint,
        "recipe": job.recipe,
        "seed": job.seed,
        "steps": int(state.step),
        "rate": None if rate is None else float(rate),
        "protocol": described(job.experiment.protocol),
        "net": job.spec.describe()["net"],
        "score": None,
    }
    images = stored(job.spec.parameterisation, state.synthetic.images)
    data = session.data
    made = DistilledSet.of(job.spec.parameterisation, images, job.data.class_names, data.mean, data.std, about)
    return made if job.data.whitening is None else made.with_zca(job.data.whitening.matrix)


class _Block(NamedTuple):
    state: State
    first: int
    """the step it started at"""
    losses: np.ndarray
    """float32 [steps]"""
    seconds: float


def _blocks(problem: Problem, state: State, start: int, every: int) -> Iterator[_Block]:
    """The rest of the run in blocks of about two seconds, none of which crosses a multiple of ``every`` steps."""
    for first, count in blocks(start, problem.spec.steps, BLOCK):
        end = first + count
        while first < end:
            stop = min(end, (first // every + 1) * every) if every else end
            began = time.perf_counter()
            state, losses = run_block(problem, state, stop - first)
            losses = np.asarray(losses)[: stop - first]
            yield _Block(state, first, losses, time.perf_counter() - began)
            first = stop


def _log(session: Session, block: _Block, judge: Judge | None, rhythm: Rhythm) -> None:
    """A line for each outer iteration that ended in ``block``: the loss is the mean over its steps."""
    inner, clock = session.job.spec.inner_steps, session.clock
    clock.spent("distill")
    for i, loss in enumerate(block.losses):
        step = block.first + i + 1
        if step % inner:
            continue
        outer = step // inner
        line: dict[str, Any] = {"outer": outer, "step": step, "loss": float(loss)}
        if judge is not None and rhythm.eval_every and outer % rhythm.eval_every == 0:
            sets = distilled_sets(distilled_set(session, block.state), 1)
            line["held_out_accuracy"] = judge.score("held-out accuracy", sets)["mean"]
            clock.spent("evaluate")
        session.workdir.log({**line, "seconds": round(clock.seconds["distill"], 3)})


def _finite(block: _Block) -> bool:
    return bool(np.isfinite(block.losses).all()) and bool(jnp.isfinite(block.state.synthetic.images).all())


def _not_finite(job: Job, block: _Block, saved: int, workdir: Workdir) -> str:
    bad = np.flatnonzero(~np.isfinite(block.losses))
    step = block.first + (int(bad[0]) if len(bad) else len(block.losses) - 1) + 1
    hyper = job.experiment.hyper
    return (
        f"the images or their matching loss are no longer finite at step {step}: "
        f"try a smaller --hyper.syn-lr (now {hyper.syn_lr:g}) or --hyper.model-lr (now {hyper.model_lr:g}) in another "
        f"workdir; the last good checkpoint, of step {saved}, is kept in {workdir.path / CHECKPOINTS}"
    )


def _images_per_step(job: Job) -> int:
    """Real and decoded images that one inner step matches."""
    spec = job.spec
    decoded = spec.parameterisation.decoded(spec.ipc)
    if spec.syn_batch:
        decoded = min(decoded, spec.syn_batch)
    return job.data.classes * (spec.selector.batch + decoded) * spec.models.live
