"""Measurements of a run: its seconds by phase, its memory, and the machine and versions that it ran on."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

PHASES = ("pretrain", "compile", "distill", "evaluate", "baselines")


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
        "commit": _commit(Path(__file__).parents[3]),
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
