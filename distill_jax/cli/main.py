"""``distill-jax COMMAND ...``, the one console command; a command's module is imported only when it is asked for."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

COMMANDS = {
    "distill": "learn a synthetic training set, score it and report on it",
    "pretrain": "train a pool of early-stage models to share between runs",
    "evaluate": "score a distilled set with networks trained from scratch",
    "explain": "shapes, arithmetic and bytes of a method; whether it fits an accelerator, and how long it takes",
    "ablate": "one or two settings swept over seeds",
    "tune": "choose numbers for a data set on held-out training images",
    "analyse": "what the papers argue with, measured on your data: gradients, batches and models",
    "reproduce": "a published table cell by cell, or methods side by side under one budget",
    "report": "write report.html about a run anew",
    "join": "one set from parts of its classes made apart",
    "export": "write a set in the format of another codebase",
    "import_set": "read a set that another codebase distilled",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that ``argv`` begins with; returns the exit code of the process."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["--version"]:
        from distill_jax import __version__

        print(f"distill_jax {__version__}")
        return 0
    if words[:1] in ([], ["-h"], ["--help"]):
        width = max(map(len, COMMANDS))
        print("usage: distill-jax COMMAND ...   (each command answers --help)\n")
        print("\n".join(f"  {name.ljust(width)}  {about}" for name, about in COMMANDS.items()))
        return 0
    name = words[0].replace("-", "_")
    if name not in COMMANDS:
        from distill_jax.types import near_miss

        print(f"error: unknown command {words[0]!r}: {near_miss(name, COMMANDS)}", file=sys.stderr)
        return 2
    with stoppable():
        return importlib.import_module(f"distill_jax.cli.{name}").main(words[1:])


@contextmanager
def stoppable() -> Iterator[None]:
    """Ctrl-C ends the process at once, with code 130, where a run has nothing to save yet (``process.Interrupts``).

    An exception would come out of whatever is being imported or compiled, which may swallow it, or crash.
    """

    def leave(signum: int, _: object) -> None:
        os.write(2, b"interrupted\n")
        os._exit(128 + signum)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def command(name: str) -> None:
    """Run one command with the arguments of this process, and end the process: ``python -m experiments.NAME``."""
    sys.exit(main([name, *sys.argv[1:]]))
