"""The one way into every runner: exit codes, signals, the compilation cache."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import jax

from distill_jax.types import RequestError


class Broken(RuntimeError):
    """The run cannot go on, for a reason that the message explains. Exit code 1, without a traceback."""


class Interrupted(Exception):
    """The user asked to stop; what was done is saved. Exit code 128 + ``signum``."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


def enter(run: Callable[[list[str]], object], argv: Sequence[str] | None = None) -> int:
    """Call ``run`` with the arguments of the command line, and return the exit code of the process.

    0 done, 2 the request is wrong (RequestError, or the parser's own refusal), 130 and 143 interrupted, 1 it broke.
    """
    compile_faster()
    keep_compiled_programs()
    try:
        run(list(sys.argv[1:] if argv is None else argv))
    except RequestError as error:
        return _complain(f"error: {error}", 2)
    except Broken as error:
        return _complain(f"error: {error}", 1)
    except Interrupted as error:
        return 128 + error.signum
    except KeyboardInterrupt:
        return _complain("interrupted", 128 + signal.SIGINT)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return _complain(f"{error}\nout of memory: try --class-chunk 1 --model-chunk 1, or a smaller batch", 1)
    except BrokenPipeError:  # whatever read the output has ended, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except SystemExit as error:  # how the parser ends after --help and on a wrong option
        return error.code if isinstance(error.code, int) else 0
    return 0


def compile_faster() -> None:
    """Spare a third of the compilation on CPU, at the same speed, where XLA still knows how.

    The flag is in the jaxlib that Python 3.11 resolves to; XLA ends the process on a flag it does not know.
    """
    if metadata.version("jaxlib").startswith("0.10."):
        flag = "--xla_cpu_use_fusion_emitters=false"
        if flag not in os.environ.get("XLA_FLAGS", ""):
            os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()


def deterministic_operations() -> None:
    """Ask a GPU for the same bits in every run."""
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true".strip()


def keep_compiled_programs() -> None:
    """Keep what takes a second or more to compile in the user's cache folder, unless jax was told where to."""
    if jax.config.values["jax_compilation_cache_dir"] is None:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "distill_jax"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


@contextmanager
def resumable(runner: str, argv: Sequence[str], path: Path) -> Iterator[None]:
    """Say, where the block is interrupted, with which command it goes on in ``path``."""
    try:
        yield
    except Interrupted:
        words = [word for word in argv if word not in ("--resume", "--overwrite")]
        if not any(word.partition("=")[0] == "--workdir" for word in words):
            end = words.index("--") if "--" in words else len(words)
            words[end:end] = ["--workdir", str(path)]
        end = words.index("--") if "--" in words else len(words)
        words[end:end] = ["--resume"]
        command = shlex.join(["python", "-m", f"experiments.{runner}", *words])
        print(f"to go on: {command}", file=sys.stderr)
        raise


class Interrupts:
    """Within ``with Interrupts() as interrupts``, SIGINT and SIGTERM only set ``interrupts.signum``; a second SIGINT
    ends the process at once.

    Python runs signal handlers between two bytecodes, but a run spends its time inside compiled blocks: hence the
    wake-up socket, which is written to as the signal arrives, and a thread that reads it.
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

    def check(self) -> None:
        """Raise Interrupted if a signal came."""
        if self.signum is not None:
            raise Interrupted(self.signum)

    def _listen(self) -> None:
        while byte := self._end.recv(1):
            if byte[0] not in self._handlers:
                continue
            if self.signum is None:
                self.signum = byte[0]
                print(
                    "\nstopping after this block; what is finished is kept, and another Ctrl-C stops at once",
                    file=sys.stderr,
                )
            elif byte[0] == signal.SIGINT:
                os._exit(128 + signal.SIGINT)


def _complain(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    return code
