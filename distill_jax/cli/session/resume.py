"""Resuming: the options of runners that write a workdir, the callback that saves, and the hint after an
interruption."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from tyro.conf import FlagCreatePairsOff, arg

from distill_jax import hosts
from distill_jax.checkpoint import Checkpoints
from distill_jax.cli.process.interrupts import Interrupted, Interrupts
from distill_jax.cli.request.parser import invocation
from distill_jax.cli.session.workdir import new_folder, refuse_empty, refuse_used
from distill_jax.run import Block, Callback
from distill_jax.spec import Spec
from distill_jax.types import RequestError

AGAIN = ("--resume", "--overwrite")
SAVE_SECONDS = 60.0
"""default time between two checkpoints"""


@dataclass(frozen=True, kw_only=True)
class Resumable:
    """The options of a runner that writes WORKDIR."""

    workdir: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """folder for all output; default: a new folder under runs/"""
    resume: FlagCreatePairsOff[bool] = False
    """continue the run in WORKDIR and keep its finished work"""
    overwrite: FlagCreatePairsOff[bool] = False
    """delete the earlier run in WORKDIR and start again"""

    def validate_options(self) -> None:
        """Raise RequestError for option values that are invalid on any data set."""
        refuse_empty(self.workdir)
        if self.resume and self.overwrite:
            raise RequestError("--resume continues a run and --overwrite deletes it: give one of them")
        if self.resume and self.workdir is None:
            raise RequestError("--resume needs the --workdir of the run to continue")

    def folder(self, name: str) -> Path:
        """Return WORKDIR, by default a new folder ``name`` under runs/. Raise RequestError if it holds a run and
        neither --resume nor --overwrite is given."""
        path = self.workdir or hosts.broadcast(lambda: new_folder(name))
        if not self.resume and not self.overwrite:
            hosts.broadcast(partial(refuse_used, path))
        return path


def command_line(runner: str, argv: Sequence[str]) -> str:
    """Return the command line without --resume and --overwrite."""
    return shlex.join([*invocation(runner), *(word for word in argv if word not in AGAIN)])


@contextmanager
def resumable(runner: str, argv: Sequence[str], path: Path | None = None) -> Iterator[None]:
    """If the block is interrupted, print the command that resumes it. ``path``: its workdir, if the runner has one."""
    try:
        yield
    except Interrupted:
        if not hosts.is_first():
            raise
        words = [word for word in argv if word not in AGAIN]
        end = words.index("--") if "--" in words else len(words)
        given = any(word.partition("=")[0] == "--workdir" for word in words)
        words[end:end] = ["--resume"] if path is None or given else ["--workdir", str(path), "--resume"]
        print(f"to resume: {shlex.join([*invocation(runner), *words])}", file=sys.stderr)
        raise


def warn_other_rates(spec: Spec, before: int, taken: int) -> None:
    """Print a warning if the learning rates of the ``taken`` inner steps, which followed a schedule over ``before``
    outer steps, are not those of ``spec``."""
    if before == spec.outer_steps:
        return
    outer = jnp.arange(-(-taken // spec.inner_steps))
    then, now = (
        jax.vmap(lambda outer, all=all: jnp.asarray(spec.optimiser.schedule(outer, all), jnp.float32))(outer)
        for all in (before, spec.outer_steps)
    )
    if not np.array_equal(then, now):
        print(
            f"the steps so far had the learning rates of a run of {before} outer steps: the images will not be those "
            f"of a run of {spec.outer_steps} from the start",
            file=sys.stderr,
        )


def saving(checkpoints: Checkpoints, end: int, interrupts: Interrupts) -> Callback:
    """Return a callback that saves the state every SAVE_SECONDS, after step ``end``, and after a signal, which also
    ends the loop."""
    saved = time.monotonic()

    def save(block: Block) -> None:
        nonlocal saved
        if time.monotonic() - saved > SAVE_SECONDS or block.end == end or interrupts.signum is not None:
            checkpoints.save(block.end, block.state)
            saved = time.monotonic()
        interrupts.check()

    return save
