"""A run's folder: who may write into it, what it was begun with, and files that are never half written."""

from __future__ import annotations

import csv
import difflib
import errno
import fcntl
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill_jax import hosts
from distill_jax.types import RequestError

CONFIG, METRICS, RESULT, EVALUATION = "config.json", "metrics.jsonl", "result.json", "evaluation.json"
DISTILLED, GRID, REPORT, CHECKPOINTS, POOL = "distilled.npz", "grid.png", "report.html", "checkpoints", "pool"
MEMBERS, EVENTS = "pool-members", "tensorboard"
SWEPT, SWEPT_PLOT, POINTS = "ablation.csv", "ablation.png", "points"
SCHEDULE, TUNED, TUNING, TUNING_PLOT = "schedule.json", "tuned.json", "tune.csv", "tune.png"
COMPARED, COMPARED_TABLE, COMPARED_PLOT, COMPARED_RUNS = "compare.csv", "compare.md", "compare.png", "compare.json"
REPRODUCED, REPRODUCED_PAGE, REPRODUCED_RUNS, CELLS = "table.csv", "table.md", "table.json", "cells"
ANALYSIS, ANALYSIS_TEXT, ANALYSIS_PLOT = "analysis.json", "analysis.md", "analysis.png"
RUN = (
    CONFIG, METRICS, RESULT, EVALUATION, DISTILLED, GRID, REPORT, CHECKPOINTS, SWEPT, SWEPT_PLOT, POINTS, COMPARED,
    COMPARED_TABLE, COMPARED_PLOT, COMPARED_RUNS, REPRODUCED, REPRODUCED_PAGE, REPRODUCED_RUNS,
    ANALYSIS, ANALYSIS_TEXT, ANALYSIS_PLOT,
    SCHEDULE, TUNED, TUNING, TUNING_PLOT,
    EVENTS,
)  # fmt: skip
"""what runs and evaluations write, besides the pool, which ``pretrain`` may have written before"""

MAY_DIFFER = (
    "spec.outer_steps", "spec.labels", "protocol", "repeats", "baselines", "save_every", "eval_every", "versions",
    "uint8", "sources",
)  # fmt: skip
"""fields of ``config.json`` that a resumed run may have changed"""


@dataclass(frozen=True)
class Workdir:
    """The folder of one run, held by this process; of several hosts the first reads and writes it for all."""

    path: Path

    def read(self, name: str) -> Any:
        """The JSON file ``name``, or None where there is none. Raises RequestError where it is not JSON."""
        return hosts.broadcast(lambda: read_json(self.path / name))

    def write(self, name: str, value: Any) -> None:
        """Replace the JSON file ``name``."""
        if hosts.is_first():
            write_json(self.path / name, value)

    def write_text(self, name: str, text: str) -> None:
        """Replace the text file ``name``."""
        if not hosts.is_first():
            return
        with replaced(self.path / name) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def write_rows(self, name: str, rows: Iterable[Sequence[Any]]) -> None:
        """Replace the CSV file ``name``; the first of ``rows`` has the names of the columns."""
        if not hosts.is_first():
            return
        with replaced(self.path / name) as temporary, temporary.open("w", newline="") as file:
            csv.writer(file).writerows(rows)

    def write_picture(self, name: str, figure: Any) -> None:
        """Replace the PNG file ``name`` by a figure of matplotlib's."""
        if not hosts.is_first():
            return
        with replaced(self.path / name) as temporary:
            figure.savefig(temporary, format="png", dpi=150)

    def subfolder(self, name: str) -> Workdir:
        """Make the folder ``name`` in this one, unless it exists, and return it."""
        (self.path / name).mkdir(parents=True, exist_ok=True)
        return Workdir(self.path / name)

    def has(self, name: str) -> bool:
        return hosts.broadcast((self.path / name).exists)

    def begin(self, config: Mapping[str, Any], resume: bool, overwrite: bool) -> bool:
        """Make the folder ready for what ``config`` describes, and write it down; whether this goes on with a run.

        Raises RequestError where the folder holds a run and neither is asked for, or one of another configuration.
        """
        if not resume:
            if not overwrite:
                refuse_used(self.path)
            self.clear()
        before = self.read(CONFIG)
        if before is not None:
            check_same(before, config)
            for name, value in config["versions"].items():
                was = before.get("versions", {}).get(name, value)
                if was != value:
                    said = f"this run was begun with {name} {was!r}, now it is {value!r}: its bits may differ"
                    print(said, file=sys.stderr)
        elif resume:
            self.warn_nothing_to_resume(CONFIG)
        if before is None or before != json.loads(json.dumps(config)):
            self.write(CONFIG, config)
        return before is not None

    def warn_nothing_to_resume(self, mark: str) -> None:
        """Tell that there is nothing to go on with, and which folder beside this one has a ``mark`` and nearly the same
        name: it may be the one that was meant."""
        others = [path.parent.name for path in self.path.absolute().parent.glob(f"*/{mark}")]
        near = difflib.get_close_matches(self.path.name, others, n=1)
        meant = f" (did you mean {self.path.with_name(near[0])}?)" if near else ""
        print(f"there is no run to go on with in {self.path}: a new one begins{meant}", file=sys.stderr)

    def clear(self) -> None:
        """Delete what an earlier run of ours wrote, and nothing else. A pool goes with the run that it belongs to.

        Raises RequestError, before anything is deleted, where a name that a run uses is taken by something else.
        """
        ours = _is_ours(self.path / CONFIG)
        found = [name for name in (*RUN, POOL) if self.has(name) and (ours or name != POOL)]
        for name in found:
            if not ours or (name in (CHECKPOINTS, POOL, POINTS, EVENTS) and not _only_checkpoints(self.path / name)):
                raise RequestError(f"{self.path / name} was not made by a run: remove it, or give another --workdir")
        for name in sorted(found, key=CONFIG.__eq__):  # what tells that the folder is ours goes last
            path = self.path / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def log(self, line: Mapping[str, Any]) -> None:
        """Append one line to ``metrics.jsonl``. It outlives this process from now on."""
        if not hosts.is_first():
            return
        with (self.path / METRICS).open("a") as file:
            file.write(json.dumps(line) + "\n")

    def truncate_log(self, step: int) -> None:
        """Drop the lines of ``metrics.jsonl`` written after ``step``, and one that a kill left half written."""
        if not hosts.is_first():
            return
        path = self.path / METRICS
        kept = []
        for text in path.read_text().splitlines(keepends=True) if path.exists() else ():
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                break
            if line["step"] > step or not text.endswith("\n"):
                break
            kept.append(text)
        with replaced(path) as temporary:
            temporary.write_text("".join(kept))


@contextmanager
def open_workdir(path: Path) -> Iterator[Workdir]:
    """The folder ``path``, made if need be, and locked until the end of the block or of this process.

    Raises RequestError where it cannot be written to, or where another process holds it.
    """
    lock = hosts.broadcast(lambda: _locked(path))
    try:
        yield Workdir(path)
    finally:
        if hosts.is_first():
            os.close(lock)


def refuse_read_only(path: Path, option: str) -> None:
    """Raise RequestError, naming the ``option`` that mends it, where the folder ``path`` cannot be written into."""
    try:
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise RequestError(f"cannot write to {path} ({error.strerror}): give another {option}") from error


def _is_ours(config: Path) -> bool:
    """Whether a run of ours wrote ``config``."""
    try:
        content = json.loads(config.read_text())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and "schema" in content


def _only_checkpoints(folder: Path) -> bool:
    """Whether ``folder`` holds steps that orbax saved, or left half saved, or events, and nothing else."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return all(name.isdecimal() or "orbax-checkpoint-tmp" in name or "tfevents" in name for name in names)


def refuse_empty(path: Path | None) -> None:
    """Raise RequestError for the empty path, which an unset variable gives."""
    if path is not None and path == Path():
        raise RequestError("--workdir is empty: give a folder, as in --workdir runs/mine")


def refuse_used(path: Path) -> None:
    """Raise RequestError where ``path`` holds a run."""
    try:
        used = [name for name in RUN if (path / name).exists()]
    except OSError as error:  # a name that is too long
        raise RequestError(f"cannot use {path} ({error.strerror}): give another --workdir") from error
    if used:
        raise RequestError(
            f"{path} holds a run ({used[0]}): --resume goes on with it, --overwrite deletes it and begins again"
        )


def new_folder(name: str, under: Path = Path("runs")) -> Path:
    """``under/name``, or the first of ``name-2``, ``name-3``, ... that does not exist."""
    paths = (under / (name if n == 1 else f"{name}-{n}") for n in range(1, 10**6))
    return next(path for path in paths if not path.exists())


def check_same(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise RequestError, naming the field, where a run would be resumed with another configuration."""
    old, new = flat(before), flat(json.loads(json.dumps(now)))
    for name in old | new:
        if old.get(name) != new.get(name) and not any(f"{name}.".startswith(f"{free}.") for free in MAY_DIFFER):
            raise RequestError(
                f"cannot resume with another configuration: {name} was {json.dumps(old.get(name))}, now it is "
                f"{json.dumps(new.get(name))}; give the options that the run was begun with, or another --workdir"
            )


def read_json(path: Path, mend: str = "--overwrite begins again") -> Any:
    """The JSON in ``path``, or None where there is none. Raises RequestError, which says how to ``mend`` it, where it
    is not JSON."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RequestError(f"{path} cannot be read ({error.strerror}): give another path") from error
    except ValueError as error:
        raise RequestError(f"{path} is damaged ({error}): {mend}") from error


def write_json(path: Path, value: Any) -> None:
    """Replace the JSON file ``path``."""
    with replaced(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n")


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A temporary path that takes the place of ``path`` when the block ends well: ``path`` is never half written."""
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _locked(path: Path) -> int:
    """The descriptor of the folder ``path``, which is locked while it is open."""
    refuse_empty(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise RequestError(f"cannot make {path} ({error.strerror}): give another --workdir") from error
    try:
        _lock(lock, path)
        refuse_read_only(path, "--workdir")
    except RequestError:
        os.close(lock)
        raise
    return lock


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise RequestError(
                f"another process is at work in {path}: wait for it, or give another --workdir"
            ) from None
        # Anything else: a network file system without locks, where nobody can hold one.


def flat(tree: Any, name: str = "") -> dict[str, Any]:
    """Nested dicts as one, with dotted names."""
    if not isinstance(tree, Mapping):
        return {name: tree}
    return {k: v for key in tree for k, v in flat(tree[key], f"{name}.{key}" if name else key).items()}
