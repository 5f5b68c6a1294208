"""Output on the terminal: the resolved configuration, progress, and results."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tqdm import tqdm

from distill_jax import hosts
from distill_jax.recipes import Experiment
from distill_jax.types import Choice

EVERY = 10.0
"""seconds between two lines of progress if standard error is not a terminal"""


OF_STEPS = (
    "perturb", "selector", "augment", "objective", "optimiser", "update", "inner_steps", "live", "syn_batch",
    "class_chunk", "model_chunk",
)  # fmt: skip
"""fields of Spec that a method without steps does not use"""


class Bar:
    """Progress on standard error: a bar on a terminal, otherwise a line every EVERY seconds."""

    def __init__(self, what: str, total: int, start: int = 0, unit: str = "") -> None:
        self._what, self._total, self._unit = what, total, unit
        self._printed = time.monotonic()
        self._first: tuple[float, int] | None = None
        self._tqdm = None
        # Compilation precedes the first report and can take a minute or two on a CPU.
        self._compiling = threading.Timer(EVERY, lambda: self._print([f"{what}: compiling"]))
        self._compiling.daemon = True
        self._silent = not hosts.is_first()
        if self._silent:
            return
        if sys.stderr.isatty():
            self._tqdm = tqdm(total=total, initial=start, desc=what, unit=unit or "it", dynamic_ncols=True, leave=False)
            self._tqdm.set_postfix_str("compiling")
        else:
            self._compiling.start()

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._compiling.cancel()
        if self._tqdm is not None:
            self._tqdm.close()

    def update(self, done: int, facts: Mapping[str, str] | None = None, total: int | None = None) -> None:
        """Show that ``done`` of the total are done, with ``facts``. ``total`` replaces the total if given."""
        self._compiling.cancel()
        self._total = total or self._total
        now = time.monotonic()
        is_first, self._first = self._first is None, self._first or (now, done)
        if self._tqdm is not None:
            if is_first:
                # The time before the first report is mostly compilation, which says nothing about the time left.
                self._tqdm.unpause()
            self._tqdm.total = self._total
            self._tqdm.set_postfix(facts or {}, refresh=False)
            self._tqdm.update(done - self._tqdm.n)
            return
        if self._silent or (now - self._printed < EVERY and done < self._total):
            return
        self._printed = now
        began, start = self._first
        left = (now - began) / (done - start) * (self._total - done) if done > start else None
        parts = [f"{self._what}: {done}/{self._total} {self._unit}".rstrip()]
        parts += [f"{name} {fact}" for name, fact in (facts or {}).items()]
        parts += [f"{duration(left)} left"] if left else []
        self._print(parts)

    def _print(self, parts: Sequence[str]) -> None:
        print(", ".join(parts), file=sys.stderr, flush=True)


def configuration(title: str, experiment: Experiment) -> str:
    """Format every resolved choice that the method uses, one line per axis."""
    unused = OF_STEPS if experiment.spec.steps == 0 else ()
    spec = {name: value for name, value in vars(experiment.spec).items() if name not in unused and value != ()}
    lines = {name: shown(value) for name, value in spec.items() if isinstance(value, Choice)}
    lines["sizes"] = _pairs({name: value for name, value in spec.items() if name not in lines})
    lines["protocol"] = shown(experiment.protocol)
    return "\n".join([title, *table([[f"  {name}", line] for name, line in lines.items()])])


def result(result: Mapping[str, Any]) -> str:
    """Format the accuracies, sizes, times and memory of a result as a small table."""
    rows = [["", "accuracy %", "repeats"]]
    scored = {"full" if result["method"] == "full" else "distilled": result["accuracy"]}
    scored |= {name: of for name, of in result["baselines"].items() if name not in scored}
    for name, accuracy in scored.items():
        if accuracy is not None:
            rows.append([name, plus_minus(accuracy), str(len(accuracy["per_repeat"]))])
    note = ["full: all real images, for as many training steps"] * ("full" in [row[0] for row in rows[2:]])
    seconds = ", ".join(f"{phase} {duration(s)}" for phase, s in result["seconds"].items() if s >= 0.05)
    taken = {part: size(n) for part, n in result.get("bytes", {}).items()}
    stored = [f"ipc {result['ipc']}: {', '.join(f'{part} {n}' for part, n in taken.items())}"] if taken else []
    memory = f"peak memory {result['peak_bytes'] / 2**30:.2f} GiB"
    return "\n".join([*table(rows), *note, *stored, f"time: {seconds}; {memory}"])


def plus_minus(accuracy: Mapping[str, Any], digits: int = 2) -> str:
    """Format the mean and standard deviation over the repeats, or only the mean if there is one repeat."""
    numbers = [accuracy["mean"]] if accuracy["std"] is None else [accuracy["mean"], accuracy["std"]]
    return " ± ".join(f"{number:.{digits}f}" for number in numbers)


WIDEST = 60
"""longest cell, in characters, that widens its column"""


def table(rows: Sequence[Sequence[str]], numbers: bool = False) -> list[str]:
    """Align the columns to the left; with ``numbers``, all but the first and last column to the right."""
    widths = [
        max([len(cell) for cell in column if len(cell) <= WIDEST], default=0) for column in zip(*rows, strict=True)
    ]
    last = len(widths) - 1

    def line(row: Sequence[str]) -> str:
        cells = zip(row, widths, strict=True)
        return "  ".join(c.rjust(w) if numbers and 0 < i < last else c.ljust(w) for i, (c, w) in enumerate(cells))

    return [line(row).rstrip() for row in rows]


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Format a table in Markdown."""
    return ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]


def last_part(path: str) -> str:
    """Return the last part of a data set's name, which may be a path, for titles."""
    return path.rstrip("/").rpartition("/")[2]


def setting(value: float | str | bool) -> str:
    """Return a value as it stands on the command line."""
    return str(value).lower() if isinstance(value, bool) else value if isinstance(value, str) else f"{value:g}"


def shown(value: object) -> str:
    """Return ``str(value)``, such as that of a choice, with at most six significant digits of each number."""
    return re.sub(r"\d+\.\d{6,}(e-?\d+)?", lambda number: f"{float(number[0]):g}", str(value))


def size(count: float) -> str:
    """Format bytes: 40 B, 2.5 KiB, 120 MiB."""
    return _scaled(count, 1024, ["B", "KiB", "MiB", "GiB", "TiB", "PiB"])


def arithmetic(count: float) -> str:
    """Format a number of operations: 54 FLOP, 1.1 TFLOP."""
    return _scaled(count, 1000, ["FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP"])


def duration(seconds: float) -> str:
    """Format a duration: 0.4 s, 12 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in values.items()
    )


def _scaled(amount: float, step: int, units: list[str]) -> str:
    place = 0
    while amount >= step and place < len(units) - 1:
        amount, place = amount / step, place + 1
    return f"{amount:.0f} {units[place]}" if place == 0 or amount >= 100 else f"{amount:.1f} {units[place]}"
