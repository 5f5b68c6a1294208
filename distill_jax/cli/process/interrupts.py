"""Signals: a run notes them, finishes its block, saves and ends."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading

from distill_jax import hosts


class Interrupted(Exception):
    """A signal stopped the run after its progress was saved. The exit code is 128 + ``signum``."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


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
