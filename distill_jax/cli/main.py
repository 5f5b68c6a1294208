"""The console command ``distill-jax COMMAND ...``, which imports the module of a command only when it runs."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

COMMANDS = {
    "distill": "learn a synthetic training set, score it and write a report",
    "pretrain": "train a pool of networks that several runs can share",
    "evaluate": "score a distilled set with networks trained from scratch",
    "explain": "show shapes, arithmetic and bytes of a method, and its memory and time on an accelerator",
    "ablate": "sweep one or two settings over several seeds",
    "tune": "choose numbers for a data set on held-out training images",
    "analyse": "measure the papers' evidence on your data: gradients, batches and models",
    "reproduce": "reproduce a published table cell by cell, or compare methods under one budget",
    "report": "write report.html of a run again",
    "join": "join sets of different classes into one set",
    "export": "write a set in the format of another codebase",
    "import_set": "read a set from another codebase",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that ``argv`` begins with, and return the exit code of the process."""
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
    if argv is None:  # the console script: find users' modules in the current folder, as python -m does
        sys.path.insert(0, "")
    with stoppable():
        return importlib.import_module(f"distill_jax.cli.{name}").main(words[1:])


@contextmanager
def stoppable() -> Iterator[None]:
    """Let Ctrl-C end the process immediately, with code 130, until a run handles signals itself
    (``process.Interrupts``).

    A KeyboardInterrupt would be raised inside imports or compilation, which may swallow it or crash.
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
    """Run one command with the arguments of this process, ``python -m experiments.NAME``, and end the process."""
    sys.exit(main([name, *sys.argv[1:]]))
