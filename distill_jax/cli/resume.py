"""What every runner has that writes a folder and can go on with it: its options, when long
loops save, and what an interrupted one says."""

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

from tyro.conf import FlagCreatePairsOff, arg

from distill_jax import hosts
from distill_jax.checkpoint import Checkpoints
from distill_jax.cli.process import Interrupted, Interrupts
from distill_jax.cli.workdir import new_folder, refuse_empty, refuse_used
from distill_jax.run import Block, Callback
from distill_jax.types import RequestError

AGAIN = ("--resume", "--overwrite")
SAVE_SECONDS = 60.0
"""between two checkpoints, where nobody says otherwise"""


@dataclass(frozen=True, kw_only=True)
class Resumable:
    """The options of a runner that writes WORKDIR."""

    workdir: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """where everything goes; default: a new folder under runs/"""
    resume: FlagCreatePairsOff[bool] = False
    """go on with what is in WORKDIR: what is finished is kept"""
    overwrite: FlagCreatePairsOff[bool] = False
    """delete what an earlier run left in WORKDIR, and begin again"""

    def check_folder(self) -> None:
        """Raise RequestError where these options do not go together."""
        refuse_empty(self.workdir)
        if self.resume and self.overwrite:
            raise RequestError("--resume goes on with a run and --overwrite deletes it: give one of them")
        if self.resume and self.workdir is None:
            raise RequestError("--resume needs the --workdir of the run to go on with")

    def folder(self, name: str) -> Path:
        """WORKDIR, by default a new folder called ``name`` under runs/. Raises RequestError where it holds a run, and
        no option says what becomes of that."""
        path = self.workdir or hosts.broadcast(lambda: new_folder(name))
        if not self.resume and not self.overwrite:
            hosts.broadcast(partial(refuse_used, path))
        return path


def command_line(runner: str, argv: Sequence[str]) -> str:
    """The command line, as one that begins anew."""
    return shlex.join(["python", "-m", f"experiments.{runner}", *(word for word in argv if word not in AGAIN)])


@contextmanager
def resumable(runner: str, argv: Sequence[str], path: Path) -> Iterator[None]:
    """Say, where the block is interrupted, with which command it goes on in ``path``."""
    try:
        yield
    except Interrupted:
        if not hosts.is_first():
            raise
        words = [word for word in argv if word not in AGAIN]
        if not any(word.partition("=")[0] == "--workdir" for word in words):
            end = words.index("--") if "--" in words else len(words)
            words[end:end] = ["--workdir", str(path)]
        end = words.index("--") if "--" in words else len(words)
        words[end:end] = ["--resume"]
        print(f"to go on: {shlex.join(['python', '-m', f'experiments.{runner}', *words])}", file=sys.stderr)
        raise


def saving(checkpoints: Checkpoints, end: int, interrupts: Interrupts) -> Callback:
    """A callback that saves the state SAVE_SECONDS after it did so last, after step ``end``, and where a signal came,
    which then ends the loop."""
    saved = time.monotonic()

    def save(block: Block) -> None:
        nonlocal saved
        if time.monotonic() - saved > SAVE_SECONDS or block.end == end or interrupts.signum is not None:
            checkpoints.save(block.end, block.state)
            saved = time.monotonic()
        interrupts.check()

    return save
