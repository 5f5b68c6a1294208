"""How a command runs: XLA and Python are configured, and errors become one line and an exit code."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable, Sequence

import jax

from distill_jax import __version__, hosts
from distill_jax.cli.process import launch
from distill_jax.cli.process.backend import (
    collect_garbage_rarely,
    compile_faster,
    keep_compiled_programs,
    share_processors,
)
from distill_jax.cli.process.interrupts import Interrupted
from distill_jax.types import RequestError

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_SUCH_PATH = (errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.EPERM, errno.EROFS)
HELP = {"-h", "--help", "--help-all"}
LESS_MEMORY = "--class-chunk 1 --model-chunk 1, or a smaller batch"
"""options of experiments.distill that reduce the memory of a step"""


class Broken(RuntimeError):
    """The run cannot continue, for the reason in the message. The exit code is 1, without a traceback."""


def run_command(
    run: Callable[[list[str]], object],
    argv: Sequence[str] | None = None,
    less_memory: str = LESS_MEMORY,
    together: bool = False,
) -> int:
    """Call ``run`` with the arguments of the command line and return the exit code of the process.

    The exit code is 0 for success, 2 for a wrong request (RequestError), 130 or 143 for a signal, and 1 for a failure.
    ``less_memory`` names the options of the command that reduce its memory. ``together`` says that several hosts can
    run the command as one.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["--version"]:
        print(f"distill_jax {__version__}")
        return 0
    try:
        hosts_request = launch.requested_hosts(words) if together and not HELP & set(words) else None
    except RequestError as error:
        return _fail(f"error: {error}", 2)
    if hosts_request and not launch.is_worker():
        return launch.supervise(run.__module__, words)
    collect_garbage_rarely()
    compile_faster()
    keep_compiled_programs()
    if hosts_request:
        launch.work(
            hosts_request, lambda join: _exit_code(lambda: (share_processors(words), join(), run(words)), less_memory)
        )
    return _exit_code(lambda: (share_processors(words), run(words)), less_memory)


def _exit_code(run: Callable[[], object], less_memory: str) -> int:
    """Call ``run``, print its error to standard error, and return the exit code."""
    try:
        run()
    except RequestError as error:
        return 2 if hosts.REPORTED in getattr(error, "__notes__", ()) else _fail(f"error: {error}", 2)
    except Broken as error:
        return _fail(f"error: {error}", 1) if hosts.is_first() else 1
    except Interrupted as error:
        return 128 + error.signum
    except KeyboardInterrupt:
        return _fail("interrupted", 128 + signal.SIGINT)
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = (str(error).splitlines() or ["MemoryError"])[0]
        return _fail(f"error: out of memory ({reason}): try {less_memory}", 1)
    except BrokenPipeError:  # the reader of the output, such as `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        where = f" in {error.filename}" if error.filename else ""
        if error.errno in NO_SPACE:
            kept = "finished work is kept, and --resume continues a run"
            return _fail(f"error: no space left{where} ({error.strerror}): free some space; {kept}", 1)
        if error.errno in NO_SUCH_PATH:
            return _fail(f"error: cannot use {error.filename} ({error.strerror}): give another path", 2)
        raise
    except SystemExit as error:  # raised by the parser after --help
        return error.code if isinstance(error.code, int) else 0
    return 0


def _fail(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    return code
