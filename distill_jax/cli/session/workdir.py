"""The workdir of a run: its file names, its lock, its configuration, and files that are written atomically."""

from __future__ import annotations

import csv
import difflib
import errno
import fcntl
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill_jax import hosts
from distill_jax.cli.session.atomic import read_json, replaced, write_json
from distill_jax.sets import DISTILLED
from distill_jax.types import RequestError

CONFIG, METRICS, RESULT, EVALUATION = "config.json", "metrics.jsonl", "result.json", "evaluation.json"
GRID, REPORT, CHECKPOINTS, POOL = "grid.png", "report.html", "checkpoints", "pool"
MEMBERS, EVENTS = "pool-members", "tensorboard"
POOLS = POOL, MEMBERS
SWEPT, SWEPT_PLOT, POINTS = "ablation.csv", "ablation.png", "points"
SCHEDULE, TUNED, TUNING, TUNING_PLOT = "schedule.json", "tuned.json", "tune.csv", "tune.png"
COMPARED, COMPARED_TABLE, COMPARED_PLOT, COMPARED_RUNS = "compare.csv", "compare.md", "compare.png", "compare.json"
REPRODUCED, REPRODUCED_PAGE, REPRODUCED_RUNS, CELLS = "table.csv", "table.md", "table.json", "cells"
ANALYSIS, ANALYSIS_TEXT, ANALYSIS_PLOT = "analysis.json", "analysis.md", "analysis.png"
RUN = (
    CONFIG, METRICS, RESULT, EVALUATION, DISTILLED, GRID, REPORT, CHECKPOINTS, SWEPT, SWEPT_PLOT, POINTS, COMPARED,
    COMPARED_TABLE, COMPARED_PLOT, COMPARED_RUNS, REPRODUCED, REPRODUCED_PAGE, REPRODUCED_RUNS,
    ANALYSIS, ANALYSIS_TEXT, ANALYSIS_PLOT, SCHEDULE, TUNED, TUNING, TUNING_PLOT, EVENTS,
)  # fmt: skip
"""files and folders that runs and evaluations write, except the pool, which ``pretrain`` may have written"""

MAY_DIFFER = (
    "spec.outer_steps", "spec.labels", "protocol", "repeats", "baselines", "save_every", "eval_every", "versions",
    "uint8", "sources", "methods",
)  # fmt: skip
"""fields of ``config.json`` that may change when a run is resumed"""
FINAL_LABELS = ("HardLabels", "SoftLabels")
"""labels that only finished images get; others are learned with the images, and may not change"""


@dataclass(frozen=True)
class Workdir:
    """The folder of one run, locked by this process. Of several hosts, the first reads and writes it for all."""

    path: Path

    def read(self, name: str) -> Any:
        """Return the content of the JSON file ``name``, or None if it does not exist. Raise RequestError if it is not
        JSON."""
        mend = "--overwrite starts again" if name == CONFIG else "delete it, and --resume makes it again"
        return hosts.broadcast(lambda: read_json(self.path / name, mend))

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
        """Replace the CSV file ``name``. The first of ``rows`` is the header."""
        if not hosts.is_first():
            return
        with replaced(self.path / name) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)

    def write_picture(self, name: str, figure: Any) -> None:
        """Replace the PNG file ``name`` by a matplotlib figure."""
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
        """Prepare the folder for a run with ``config``, write ``config``, and return whether a run is resumed.

        Raise RequestError if the folder holds a run and neither ``resume`` nor ``overwrite`` is set, or if the run to
        resume has another configuration.
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
                    note = f"this run was started with {name} {was!r}, now it is {value!r}: its bits may differ"
                    print(note, file=sys.stderr)
        elif resume:
            for name in filter(self.has, (CHECKPOINTS, POINTS, SCHEDULE)):  # of which configuration?
                raise RequestError(f"{self.path} has {name} but no {CONFIG}: restore it, or give another --workdir")
            self.warn_nothing_to_resume(CONFIG)
        if before is None or before != json.loads(json.dumps(config)):
            self.write(CONFIG, config)
        return before is not None

    def warn_nothing_to_resume(self, mark: str) -> None:
        """Print that there is nothing to resume, and suggest a sibling folder with a file ``mark`` and a similar
        name."""
        others = [path.parent.name for path in self.path.absolute().parent.glob(f"*/{mark}")]
        near = difflib.get_close_matches(self.path.name, others, n=1)
        hint = f" (did you mean {self.path.with_name(near[0])}?)" if near else ""
        print(f"there is no run to resume in {self.path}: starting a new one{hint}", file=sys.stderr)

    def clear(self) -> None:
        """Delete the files of an earlier run, including its pool and the finished members of an incomplete one, and
        nothing else.

        Raise RequestError, before anything is deleted, if something else has the name of such a file.
        """
        ours = _is_ours(self.path / CONFIG)
        found = [name for name in (*RUN, *POOLS) if self.has(name) and (ours or name not in POOLS)]
        for name in found:
            if not ours or (name in (CHECKPOINTS, *POOLS, POINTS, EVENTS) and not _only_checkpoints(self.path / name)):
                raise RequestError(f"{self.path / name} was not made by a run: remove it, or give another --workdir")
        for name in sorted(found, key=CONFIG.__eq__):  # config.json last, because it marks the folder as a run's
            path = self.path / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def log(self, line: Mapping[str, Any]) -> None:
        """Append one line to ``metrics.jsonl`` on disk."""
        if not hosts.is_first():
            return
        with (self.path / METRICS).open("a") as file:
            file.write(json.dumps(line) + "\n")

    def truncate_log(self, step: int) -> None:
        """Delete the lines of ``metrics.jsonl`` after ``step``, and a line that a kill left incomplete."""
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
    """Make the folder ``path`` if necessary, and lock it until the block or this process ends.

    Raise RequestError if it is not writable, or if another process has locked it.
    """
    lock = hosts.broadcast(lambda: _locked(path))
    try:
        yield Workdir(path)
    finally:
        if hosts.is_first():
            os.close(lock)


def refuse_read_only(path: Path, option: str) -> None:
    """Raise RequestError, naming the ``option`` to change, if the folder ``path`` is not writable."""
    try:
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise RequestError(f"cannot write to {path} ({error.strerror}): give another {option}") from error


def _is_ours(config: Path) -> bool:
    """Return whether one of our runners wrote ``config``, which may be damaged beside checkpoints."""
    try:
        content = json.loads(config.read_text())
    except ValueError:
        return _only_checkpoints(config.with_name(CHECKPOINTS)) and config.with_name(CHECKPOINTS).is_dir()
    except OSError:
        return False
    return isinstance(content, dict) and "schema" in content


def _only_checkpoints(folder: Path) -> bool:
    """Return whether ``folder`` holds only checkpoints, complete or incomplete, and TensorBoard events."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return all(name.isdecimal() or "orbax-checkpoint-tmp" in name or "tfevents" in name for name in names)


def refuse_empty(path: Path | None) -> None:
    """Raise RequestError if ``path`` is empty, as from an unset shell variable."""
    if path is not None and path == Path():
        raise RequestError("--workdir is empty: give a folder, as in --workdir runs/mine")


def refuse_used(path: Path) -> None:
    """Raise RequestError if ``path`` holds a run."""
    try:
        used = [name for name in RUN if (path / name).exists()]
    except OSError as error:  # for example, a name that is too long
        raise RequestError(f"cannot use {path} ({error.strerror}): give another --workdir") from error
    if used:
        raise RequestError(
            f"{path} holds a run ({used[0]}): --resume continues it, --overwrite deletes it and starts again"
        )


def new_folder(name: str, under: Path = Path("runs")) -> Path:
    """Return ``under/name``, or the first of ``name-2``, ``name-3``, ... that does not exist."""
    paths = (under / (name if n == 1 else f"{name}-{n}") for n in range(1, 10**6))
    return next(path for path in paths if not path.exists())


def check_same(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise RequestError, naming the field, if a run would be resumed with another configuration."""
    old, new = flat(before), flat(json.loads(json.dumps(now)))
    labels = {of.get("spec.labels.choice", FINAL_LABELS[0]) for of in (old, new)}
    may_differ = [name for name in MAY_DIFFER if name != "spec.labels" or labels <= set(FINAL_LABELS)]
    for name in old | new:
        images = re.sub(r"(dataset|data\.left_out)$", "data.fingerprint", name)
        if images != name and old.get(images) == new.get(images) is not None:
            continue  # the same images by another path, or without files that cannot be read
        if old.get(name) != new.get(name) and not any(f"{name}.".startswith(f"{free}.") for free in may_differ):
            mend = "the options that the run was started with"
            if name == "data.fingerprint":
                mend = "the images that the run was started with, because the data set has changed"
            raise RequestError(
                f"cannot resume with another configuration: {name} was {json.dumps(old.get(name))}, now it is "
                f"{json.dumps(new.get(name))}; give {mend}, or another --workdir"
            )


def _locked(path: Path) -> int:
    """Lock the folder ``path`` and return its descriptor, whose closing unlocks it."""
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
                f"another process is working in {path}: wait for it, or give another --workdir"
            ) from None
        # Any other error means a network file system without locks.


def flat(tree: Any, name: str = "") -> dict[str, Any]:
    """Flatten nested dicts to one dict with dotted names."""
    if not isinstance(tree, Mapping):
        return {name: tree}
    return {k: v for key in tree for k, v in flat(tree[key], f"{name}.{key}" if name else key).items()}
