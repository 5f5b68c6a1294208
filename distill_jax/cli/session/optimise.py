"""The optimisation phase of ``distill``: the host loop with callbacks that check, log, save and show progress."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from distill_jax import hosts
from distill_jax.checkpoint import Checkpoints
from distill_jax.cli.output.display import Bar
from distill_jax.cli.output.tensorboard import event_writer
from distill_jax.cli.process.clock import Clock
from distill_jax.cli.process.interrupts import Interrupted, Interrupts
from distill_jax.cli.process.run_command import Broken
from distill_jax.cli.session import resume
from distill_jax.cli.session.score import Scorer
from distill_jax.cli.session.setup import Setup
from distill_jax.cli.session.workdir import CHECKPOINTS, EVENTS, Workdir
from distill_jax.distill import Problem, State, init_state
from distill_jax.distilled import DistilledSet
from distill_jax.evaluation import at_learned_rate, repeated
from distill_jax.run import Block, BlockSize, distilled_set, run
from distill_jax.spec import to_json
from distill_jax.types import Feed, PyTree


class Session(NamedTuple):
    """The objects that the phases of one run share."""

    setup: Setup
    data: Feed
    workdir: Workdir
    clock: Clock
    interrupts: Interrupts


def optimise(
    session: Session, pool: PyTree, save_every: int, eval_every: int, scorer: Scorer | None, tensorboard: bool = False
) -> DistilledSet:
    """Distil from the last checkpoint in the workdir, or from the start, and return the set.

    Every ``save_every`` outer steps (0: about every minute) the state is saved. Every ``eval_every`` outer steps (0:
    never) ``scorer`` scores the current set. The metrics go to ``metrics.jsonl``, and to TensorBoard if
    ``tensorboard``. The saved results do not depend on interruptions. Raise Interrupted after a signal, when the state
    is saved, and Broken if the loss is no longer finite.
    """
    setup, workdir, clock = session.setup, session.workdir, session.clock
    spec = setup.spec
    problem = setup.problem(session.data.at(0), pool)
    checkpoints = Checkpoints(workdir.path / CHECKPOINTS)

    def write(step: int, state: State, **about: Any) -> None:
        clock.spent("distill")
        checkpoints.save(step, state, {"seconds": clock.seconds, **about})

    restored = checkpoints.restore(jax.eval_shape(init_state, problem))
    if restored is None:
        step, state = 0, init_state(problem)
        write(step, state)
    else:
        step, state = restored.step, restored.state
        clock.add(restored.about["seconds"])
        for damaged in restored.skipped if hosts.is_first() else ():
            print(f"the checkpoint of step {damaged} is damaged: continuing from step {step}", file=sys.stderr)
    # The line of a set whose score a signal interrupted: it is scored, and logged, again.
    unscored = None if restored is None else restored.about.get("unscored")
    logged = step - (unscored is not None)
    workdir.truncate_log(logged)
    write_event = event_writer(workdir.path / EVENTS, logged) if tensorboard and hosts.is_first() else None
    saved, saved_at = step, time.monotonic()
    held_out: dict[str, str] = {}
    images_per_step = _images_per_step(setup)
    initial = np.array(state.synthetic.images) if step == 0 and not hosts.is_multihost() else None

    def check(block: Block) -> None:
        nonlocal initial
        if initial is not None and np.array_equal(initial, block.state.synthetic.images):
            print(f"the images did not change in {block.end} steps: their gradient is zero", file=sys.stderr)
        initial = None
        if not (np.isfinite(block.losses).all() and jnp.isfinite(block.state.synthetic.images).all()):
            raise Broken(_not_finite(setup, block, saved, workdir))

    def log(block: Block) -> None:
        """Log a line for each finished outer iteration, with the mean loss of its steps."""
        clock.spent("distill")
        for step, loss in enumerate(block.losses, block.first + 1):
            outer, rest = divmod(step, spec.inner_steps)
            if not rest:
                record({"outer": outer, "step": step, "loss": float(loss)}, block.state)

    def record(line: dict[str, Any], state: State) -> None:
        """Log ``line``, with the held-out accuracy of ``state`` if it is due."""
        if scorer is not None and eval_every and line["outer"] % eval_every == 0:
            current = as_set(session, problem, state)
            protocol = at_learned_rate(scorer.protocol, current)
            try:
                accuracy = scorer.score("held-out accuracy", repeated(current, 1), protocol)["mean"]
            except Interrupted:
                clock.spent("evaluate")
                write(line["step"], state, unscored=line)
                raise
            line = {**line, "held_out_accuracy": accuracy}
            held_out["held-out"] = f"{accuracy:.1f} %"
            clock.spent("evaluate")
        line = {**line, "seconds": round(clock.seconds["distill"], 3)}
        workdir.log(line)
        if write_event is not None:
            write_event(line)

    def save(block: Block) -> None:
        nonlocal saved, saved_at
        period = save_every * spec.inner_steps
        due = block.end // period > saved // period if period else time.monotonic() - saved_at > resume.SAVE_SECONDS
        if hosts.maximum(due) or block.end == spec.steps or session.interrupts.pending():
            write(block.end, block.state)
            saved, saved_at = block.end, time.monotonic()

    if unscored is not None:
        record(unscored, state)

    with Bar("distilling", spec.steps, start=step, unit="steps") as bar:

        def show(block: Block) -> None:
            rate = images_per_step * len(block.losses) / block.seconds
            outer = f"{block.end // spec.inner_steps}/{spec.outer_steps}"
            facts = {"outer": outer, "loss": f"{block.losses[-1]:.4g}", "images/s": f"{rate:.0f}", **held_out}
            bar.update(block.end, facts)

        size = BlockSize(every=math.gcd(save_every, eval_every) * spec.inner_steps)
        callbacks = [check, log, save, show, lambda block: session.interrupts.check()]
        state = run(problem, state, callbacks, size, step, session.data)
    clock.spent("distill")
    return as_set(session, problem, state)


def as_set(session: Session, problem: Problem, state: State) -> DistilledSet:
    """Return the set of ``state``, without a score."""
    setup = session.setup
    about = {
        "method": setup.method,
        "dataset": setup.dataset,
        **setup.part,
        "data": setup.source.fingerprint,
        **({"origin": dict(setup.source.origin)} if setup.source.origin else {}),
        "recipe": setup.recipe,
        "seed": setup.seed,
        "steps": int(state.step),
        "protocol": to_json(setup.experiment.protocol),
        "net": to_json(setup.spec.net),
        "score": None,
    }
    return distilled_set(problem, setup.data, state, about)


def rounded(distilled: DistilledSet) -> DistilledSet:
    """Round the pixels, which are in [0, 1], to multiples of 1/255, and record that in the card."""
    images = np.rint(distilled.images * np.float32(255)) / np.float32(255)
    return replace(distilled, images=images).with_soft(distilled.soft).with_card(bits=8)


def _not_finite(setup: Setup, block: Block, saved: int, workdir: Workdir) -> str:
    bad = np.flatnonzero(~np.isfinite(block.losses))
    step = block.first + (int(bad[0]) if len(bad) else len(block.losses) - 1) + 1
    if step == 1 and len(bad):
        return "the matching loss is not finite in the first step: check the objective and the images"
    rate = to_json(setup.spec.optimiser).get("lr")
    now = "" if rate is None else f" (now {rate:g})"
    return (
        f"the images or their matching loss are no longer finite at step {step}: "
        f"try a smaller --optimiser.lr{now} in another workdir; "
        f"the last good checkpoint, of step {saved}, is kept in {workdir.path / CHECKPOINTS}"
    )


def _images_per_step(setup: Setup) -> int:
    """Return the number of real and decoded images in one inner step."""
    spec = setup.spec
    decoded = spec.parameterisation.decoded(spec.ipc)
    if spec.syn_batch:
        decoded = min(decoded, spec.syn_batch)
    return (len(spec.classes) or setup.data.classes) * (spec.selector.batch + decoded) * spec.live
