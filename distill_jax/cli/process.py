"""The process of a command: exit codes, signals, and measurements of time and memory."""

from __future__ import annotations

import errno
import os
import platform
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from distill_jax import __version__, hosts
from distill_jax.cli import launch
from distill_jax.cli.backend import compile_faster, keep_compiled_programs, share_processors, trace_faster
from distill_jax.types import RequestError

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_SUCH_PATH = (errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.EPERM, errno.EROFS)
HELP = {"-h", "--help", "--help-all"}
LESS_MEMORY = "--class-chunk 1 --model-chunk 1, or a smaller batch"
"""options of experiments.distill that reduce the memory of a step"""

PHASES = ("pretrain", "compile", "distill", "evaluate", "baselines")


class Broken(RuntimeError):
    """The run cannot continue, for the reason in the message. The exit code is 1, without a traceback."""


class Interrupted(Exception):
    """A signal stopped the run after its progress was saved. The exit code is 128 + ``signum``."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


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
    trace_faster()
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


class Interrupts:
    """A context in which SIGINT and SIGTERM only set ``signum``. A second SIGINT ends the process immediately.

    Python runs signal handlers between bytecodes, but a run spends its time in compiled blocks. Therefore a thread
    reads a wake-up socket, which is written when the signal arrives.
    """

    signum: int | None = None

    def __enter__(self) -> Interrupts:
        self._end, begin = socket.socketpair()
        begin.setblocking(False)
        self._begin = begin
        self._wakeup = signal.set_wakeup_fd(begin.fileno(), warn_on_full_buffer=False)
        self._handlers = {s: signal.signal(s, lambda *_: None) for s in (signal.SIGINT, signal.SIGTERM)}
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._handlers.items():
            signal.signal(signum, handler)
        signal.set_wakeup_fd(self._wakeup)
        self._begin.close()
        self._thread.join()
        self._end.close()

    def pending(self) -> int:
        """Return the signal that this or another host received; 0 if there was none."""
        return hosts.maximum(self.signum or 0)

    def check(self) -> None:
        """Raise Interrupted if a host received a signal."""
        if signum := self.pending():
            raise Interrupted(signum)

    def _listen(self) -> None:
        while byte := self._end.recv(1):
            if byte[0] not in self._handlers:
                continue
            if self.signum is None:
                self.signum = byte[0]
                print(
                    "\nstopping after this block; finished work is kept, and a second Ctrl-C stops immediately",
                    file=sys.stderr,
                )
            elif byte[0] == signal.SIGINT:
                os._exit(128 + signal.SIGINT)


def _fail(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    return code


# ------------------------------------------------------------------ time and memory


class Clock:
    """A clock that measures the seconds of each phase. Time that jax spends compiling counts as phase ``compile``."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(PHASES, 0.0)
        self._last = time.perf_counter(), _compiling.total()

    def spent(self, phase: str | None) -> None:
        """Add the time since the last call to ``phase``, or discard it if ``phase`` is None."""
        now, compiled = time.perf_counter(), _compiling.total()
        (began, compiled_before), self._last = self._last, (now, compiled)
        if phase is not None:
            self.seconds["compile"] += compiled - compiled_before
            self.seconds[phase] += max(0.0, now - began - (compiled - compiled_before))

    def add(self, before: Mapping[str, float]) -> None:
        """Add the seconds that an earlier process spent on the same run."""
        for phase, seconds in before.items():
            self.seconds[phase] += seconds

    def rounded(self) -> dict[str, float]:
        """Return the seconds of each phase, rounded to milliseconds."""
        return {phase: round(seconds, 3) for phase, seconds in self.seconds.items()}


class _Compiling:
    """The total time that jax reports for tracing, lowering and compiling. Nested reports count once."""

    def __init__(self) -> None:
        self._done = 0.0
        self._recent: list[tuple[float, float]] = []
        jax.monitoring.register_event_duration_secs_listener(self._report)

    def total(self) -> float:
        """Return the seconds spent since this module was imported."""
        return self._done + sum(end - begin for begin, end in self._recent)

    def _report(self, event: str, duration_secs: float, **_: Any) -> None:
        if not event.startswith("/jax/core/compile/"):
            return
        end = time.perf_counter()
        begin = end - duration_secs
        while self._recent and self._recent[-1][0] >= begin:
            self._recent.pop()
        self._recent.append((begin, end))
        # Reports nest only a few levels deep, so old reports are final.
        while len(self._recent) > 10_000:
            first = self._recent.pop(0)
            self._done += first[1] - first[0]


_compiling = _Compiling()


def peak_bytes() -> int:
    """Return the peak memory of the first device if it reports it, else of this process."""
    stats = jax.local_devices()[0].memory_stats() or {}
    unit = 1 if sys.platform == "darwin" else 1024
    return int(stats.get("peak_bytes_in_use", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit))


def environment() -> dict[str, Any]:
    """Return the device, the versions, and the commit of this checkout (None outside a checkout)."""
    devices = jax.devices()
    return {
        "device": devices[0].device_kind,
        "device_count": len(devices),
        "jax": jax.__version__,
        "python": platform.python_version(),
        "commit": _commit(Path(__file__).parents[2]),
    }


def _commit(root: Path) -> str | None:
    """Return the full commit hash, with ``-dirty`` if files have changed."""
    if not (root / ".git").exists():
        return None
    describe = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(describe, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
