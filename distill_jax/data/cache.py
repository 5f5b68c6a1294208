"""Caches decoded images on disk, so that a second start does not decode them again.

An entry is two files: ``NAME.npy`` has the images and is mapped into memory; the second line of ``NAME.json`` describes
them, and its first line is the SHA-256 of the second.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np

from distill_jax.data.dataset import Dataset

BEGINNING = 2
"""seconds that a process may take to lock the entry that it begins to write"""
LEFT_OVER = 24 * 3600
"""seconds after which a half-written entry is deleted on a system without locks"""


def folder() -> Path:
    """Return the folder of the cache. It need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "distill_jax" / "data"


def read(path: Path, key: str, side: int | None = None) -> Dataset | None:
    """Return the data set that ``write`` stored in ``path``, a .npy file. Return None if no entry exists, if its key is
    not ``key``, if its images do not have the ``side``, or if any part of it is damaged."""
    try:
        digest, _, text = path.with_suffix(".json").read_text().partition("\n")
        about = json.loads(text)
        if about["key"] != key or digest != _digest(text):
            return None
        images = np.asarray(np.load(path, mmap_mode="r"))
        if side is not None and images.shape[1] != side:
            return None
        count, labels = about["train"], np.array(about["labels"], np.int32)
        parts = images[:count], labels[:count], images[count : len(labels)], labels[count:]
        data = Dataset.from_arrays(about["name"], *parts, about["class_names"])
        data = replace(data, origin=about["origin"], notes=tuple(about["notes"]))
        return data if data.fingerprint == about["fingerprint"] else None
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None


def write(path: Path, key: str, shape: tuple[int, ...], fill: Callable[[np.ndarray], Dataset]) -> Dataset:
    """Store in ``path``, a .npy file, the data set that ``fill`` makes, and return it.

    ``fill`` receives an empty uint8 array of ``shape``, mapped into memory. It must write the training images and then
    the test images into the first rows. An existing entry is replaced only at the end. Raise OSError if the disk is
    full or not writable.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for part in path.parent.glob("*.part"):
        if _left_over(part):
            shutil.rmtree(part, ignore_errors=True)
    with tempfile.TemporaryDirectory(suffix=".part", dir=path.parent) as temporary:
        images, about = Path(temporary) / "images", Path(temporary) / "about"
        with images.open("wb") as file:  # open, and so locked, until the entry is complete or the process ends
            with suppress(OSError):
                _lock(file)
            mapped = np.lib.format.open_memmap(images, "w+", np.uint8, shape)
            if hasattr(os, "posix_fallocate"):  # writing into the map of a full disk would kill the process
                os.posix_fallocate(file.fileno(), 0, images.stat().st_size)
            data = fill(np.asarray(mapped))
            text = json.dumps(_about(data, key))
            about.write_text(f"{_digest(text)}\n{text}")
            os.replace(images, path)
            os.replace(about, path.with_suffix(".json"))
    return data


def _left_over(part: Path) -> bool:
    """Return whether the process that was writing the entry ``part`` has ended."""
    age = time.time() - part.stat().st_mtime
    try:
        with (part / "images").open("r+b") as file:
            _lock(file)
    except BlockingIOError:
        return False
    except OSError:
        return age > LEFT_OVER
    return age > BEGINNING


def _lock(file: IO[bytes]) -> None:
    """Lock ``file`` until it is closed. Raise BlockingIOError if another process has locked it, and OSError on systems
    without locks."""
    try:
        import fcntl
    except ImportError as error:  # Windows
        raise OSError("no locks") from error
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _about(data: Dataset, key: str) -> dict[str, object]:
    return {
        "key": key,
        "name": data.name,
        "train": len(data.y_train),
        "labels": [*data.y_train.tolist(), *data.y_test.tolist()],
        "class_names": data.class_names,
        "origin": data.origin,
        "notes": data.notes,
        "fingerprint": data.fingerprint,
    }
