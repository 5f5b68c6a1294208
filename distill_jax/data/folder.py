"""folder:PATH, image files in one directory per class."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import PIL

from distill_jax.data import cache
from distill_jax.data.dataset import Dataset, reason
from distill_jax.data.photos import Damaged, Plan, decode_into, planned, some
from distill_jax.data.subset import Chosen, chosen
from distill_jax.types import RequestError, Tick

SUFFIXES = {".png", ".jpg", ".jpeg"}
OTHERS = {".gif", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".heic"}
"""of images that are not read"""
LAYOUT = "lay images out as <class>/*.jpg, or train/<class>/*.jpg and test/<class>/*.jpg (or .png)"
HELD_OUT = 0.2
"""share of each class that becomes the test part where none is given"""
VERSION = 1
"""of what is made of the files: another one makes every cache anew"""
Files: TypeAlias = dict[str, list[Path]]
"""{class: its files}"""


class Found(NamedTuple):
    """What a folder holds of some classes."""

    root: Path
    part: Chosen
    paths: list[Path]
    """N image files, those of the training part first"""
    labels: np.ndarray
    """int32 [N]"""
    train: int
    """how many are of the training part"""
    split: Mapping[str, Any]
    """how the test part was drawn, ready for JSON; empty where one is given"""
    others: list[Path]
    """files of OTHERS"""


def read_folder(root: Path, side: int | None = None, only: Sequence[str] = (), tick: Tick | None = None) -> Dataset:
    """The PNG and JPEG files in ``root/train/<class>/`` and ``root/test/<class>/`` (``root/val`` where there is no
    test), also in directories below these; anything hidden or of another type is passed over. Where no test part is
    given, or the classes are directories of ``root`` itself, a fifth of each class is drawn for it: the files whose
    names have the lowest hashes, so that files which are added later change hardly anything.

    Classes are numbered in alphabetical order of their names and may have any number of images; of those in ``only``,
    where there are some, in that order, and the images of others are not read. Images become uint8 [N, H, H, 1] where
    all that are read are grey, else [N, H, H, 3]: upright, 8 bits per channel, transparency dropped, the shorter side
    resized to H and the centre kept. H is ``side``; where that is None their own size, if all are square and equal,
    else ``photos.SIDE``. ``tick`` is told of the progress.

    What is decoded is kept in ``cache.folder()`` and mapped into memory. Files that cannot be read are left out.
    ``notes`` of the result tells all that, ``origin`` what of it the pixels depend on. Raises RequestError, naming the
    file or directory, where the layout is another, a class is empty in either part, or too many files cannot be read.
    """
    found = _found(root, only)
    path, key = _slot(found, side), _key(found, side)
    data = cache.read(path, key)
    if data is not None:
        return data
    plan = planned(found.paths, side)
    shape = (len(found.paths), plan.side, plan.side, plan.channels)

    def fill(images: np.ndarray) -> Dataset:
        return _dataset(found, images, plan, decode_into(images, found.paths, plan, root, tick))

    try:
        return cache.write(path, key, shape, fill)
    except OSError as error:
        note = f"decoded images cannot be kept in {path.parent} ({reason(error)}), so that every start decodes them"
        data = fill(np.empty(shape, np.uint8))
        return replace(data, notes=(*data.notes, f"{note}: set XDG_CACHE_HOME to another folder"))


# ------------------------------------------------------------------ which files


def _found(root: Path, only: Sequence[str]) -> Found:
    if not root.is_dir():
        raise RequestError(f"no directory {root}: check the path after folder:")
    tests = [root / name for name in ("test", "val") if (root / name).is_dir()]
    train_root = root / "train" if tests or (root / "train").is_dir() else root
    every = _class_files(train_root)
    part = chosen(f"folder:{root.name}", tuple(every), only)
    given = _class_files(tests[0]) if tests else {}
    unknown = sorted(set(given) - set(every))
    if unknown:
        raise RequestError(f"{tests[0] / unknown[0]} is of a class that {train_root} does not have: add or remove it")
    numbers = {cls: number for number, cls in enumerate(part.names)}
    train, test = ({cls: _images(of.get(cls, [])) for cls in every if cls in numbers} for of in (every, given))
    for cls, files in train.items():
        if not files:
            raise RequestError(f"{train_root / cls} holds no PNG or JPEG file: add some or remove it")
        if not tests:
            train[cls], test[cls] = _drawn(train_root / cls, files)
        if not test[cls]:
            raise RequestError(
                f"{tests[0] / cls} holds no PNG or JPEG file: add some, or remove {tests[0]} to have a test part drawn"
            )
    both = [(path, numbers[cls]) for of in (train, test) for cls in of for path in of[cls]]
    count = sum(map(len, train.values()))
    split = {} if tests else {"held_out": HELD_OUT, "train": count, "test": len(both) - count}
    others = [path for files in (every, given) for cls in part.names for path in files.get(cls, [])]
    return Found(
        root,
        part,
        [path for path, _ in both],
        np.array([number for _, number in both], np.int32),
        count,
        split,
        [path for path in others if path.suffix.lower() in OTHERS],
    )


def _class_files(split: Path) -> Files:
    """{class: its image files of any type}, both sorted."""
    if not split.is_dir():
        raise RequestError(f"no directory {split}: {LAYOUT}")
    found: Files = {}
    for cls in sorted(path for path in split.iterdir() if path.is_dir() and not path.name.startswith(".")):
        files = (path for path in cls.rglob("*") if path.suffix.lower() in SUFFIXES | OTHERS)
        found[cls.name] = sorted(p for p in files if not any(x.startswith(".") for x in p.relative_to(cls).parts))
    if not any(map(_images, found.values())):
        raise RequestError(f"{split} holds no PNG or JPEG file in a directory of its class: {LAYOUT}")
    return found


def _images(files: Sequence[Path]) -> list[Path]:
    return [path for path in files if path.suffix.lower() in SUFFIXES]


def _drawn(cls: Path, files: list[Path]) -> tuple[list[Path], list[Path]]:
    """A training and a test part of the ``files`` of a class, at least one each."""
    if len(files) < 2:
        raise RequestError(f"{cls} holds one image, and none is left to test on: add others or remove it")

    def rank(path: Path) -> bytes:
        return hashlib.sha256(os.fsencode(path.relative_to(cls.parent))).digest()

    held = set(sorted(files, key=rank)[: max(1, round(HELD_OUT * len(files)))])
    return [path for path in files if path not in held], [path for path in files if path in held]


def _slot(found: Found, side: int | None) -> Path:
    """Where the decoded images are kept: one file for each folder, side and choice of classes."""
    where = os.path.abspath(found.root)
    asked = hashlib.sha256(os.fsencode(f"{where} {side} {found.part.names}")).hexdigest()
    return cache.folder() / f"{found.root.name}-{asked[:16]}.npy"


def _key(found: Found, side: int | None) -> str:
    """What the decoded images depend on: the files' names, sizes and times of change, and what decodes them."""
    digest = hashlib.sha256(f"{VERSION} {PIL.__version__} {side} {found.train} {len(found.paths)}".encode())
    for path in (*found.paths, *found.others):
        try:
            stat = path.stat()
            digest.update(f"{stat.st_size} {stat.st_mtime_ns}".encode())
        except OSError:  # a link that leads nowhere: it cannot be read either
            pass
        digest.update(os.fsencode(f" {path.relative_to(found.root)}\0"))
    return digest.hexdigest()


# ------------------------------------------------------------------ what is in them


def _dataset(found: Found, images: np.ndarray, plan: Plan, damaged: Damaged) -> Dataset:
    """The data set of the ``images`` [N, H, H, c], with all that is to be told of it. Moves the rows of damaged files
    out of the way."""
    kept = np.array([place for place in range(len(images)) if place not in damaged], int)
    labels, count = found.labels[kept], int(np.sum(kept < found.train))
    for what, present in (("training", labels[:count]), ("test", labels[count:])):
        missing = np.setdiff1d(np.arange(len(found.part.names)), present)
        if len(missing):
            cls, among = missing[0], [p for p in damaged if (p < found.train) == (what == "training")]
            place = next(place for place in among if found.labels[place] == cls)
            raise RequestError(
                f"no {what} image of {found.part.names[cls]} can be read, such as {found.paths[place]} "
                f"({damaged[place]}): mend it or add others"
            )
    for row, place in enumerate(kept):
        if row != place:
            images[row] = images[place]
    data = Dataset.from_arrays(
        found.part.name, images[:count], labels[:count], images[count : len(kept)], labels[count:], found.part.names
    )
    origin: dict[str, Any] = {"side": plan.side} if plan.resized else {}
    notes = [f"images of {plan.resized} become {plan.side}x{plan.side}, resized and cropped"] if plan.resized else []
    if damaged:
        origin["left_out"] = sorted(str(found.paths[place].relative_to(found.root)) for place in damaged)
        few = some(damaged, found.paths, found.root)
        notes.append(f"{len(damaged)} of {len(found.paths)} files cannot be read, left out: {few}")
    if found.others:
        such = found.others[0].relative_to(found.root)
        notes.append(f"{len(found.others)} files of other types are passed over, such as {such}: save them as PNG")
    if found.split:
        origin["split"] = dict(found.split)
        told = f"{found.split['test']} of {len(found.paths)} images, a fifth of each class, are it"
        notes.append(f"no test part is given: {told}")
    return replace(data, origin=origin, notes=tuple(f"{found.part.name}: {note}" for note in notes))
