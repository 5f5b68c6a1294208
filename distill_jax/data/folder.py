"""Reads folder:PATH, a folder of image files with one directory per class."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import PIL

from distill_jax.data import cache
from distill_jax.data.dataset import HELD_OUT, Dataset, reason, split_record
from distill_jax.data.photos import TEST, Damaged, Plan, decode_into, list_damaged, plan_decoding
from distill_jax.data.subset import Selection, select_classes
from distill_jax.types import RequestError, Tick

SUFFIXES = {".png", ".jpg", ".jpeg"}
OTHERS = {".gif", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".heic"}
"""suffixes of image files that are not read"""
LAYOUT = "arrange images as <class>/*.jpg, or train/<class>/*.jpg and test/<class>/*.jpg (or .png)"
TRAIN = ("train", "training")
"""names of the folder of the training part, in any case"""
VERSION = 1
"""version of the decoding; another version invalidates every cache"""
Files: TypeAlias = dict[str, list[Path]]
"""{class: its files}"""


class ClassFiles(NamedTuple):
    """The files of the selected classes of a folder."""

    root: Path
    part: Selection
    paths: list[Path]
    """N image files, the training part first"""
    labels: np.ndarray
    """int32 [N]"""
    train: int
    """number of files in the training part"""
    split: bool
    """whether the test part was held out from the training part, because the folder has none"""
    others: list[Path]
    """image files of a type that is not read"""

    @property
    def names(self) -> list[str]:
        """[N], the paths below ``root``"""
        return [str(path.relative_to(self.root)) for path in self.paths]


def read_folder(root: Path, side: int | None = None, only: Sequence[str] = (), tick: Tick | None = None) -> Dataset:
    """Read the PNG and JPEG files in ``root/train/<class>/`` and ``root/test/<class>/`` (or another name in TRAIN and
    TEST), and in directories below these. Hidden files and files of other types are ignored.

    If the folder has no test part, or the classes are directories of ``root`` itself, a fifth of each class becomes the
    test part: the files whose names have the lowest hashes, so that files added later change the split very little.
    Classes are numbered in alphabetical order and may have any number of images. If ``only`` is not empty, only these
    classes are read, and numbered in this order.

    Images become uint8 [N, H, H, 1] if all of them are grey, else [N, H, H, 3]: upright, 8 bits per channel, without
    transparency, the shorter side resized to H and the centre cropped. H is ``side``. If that is None, H is the size of
    the images if all are square and equal, else ``photos.SIDE``. ``tick`` receives the progress.

    Decoded images are cached in ``cache.folder()`` and mapped into memory. Unreadable files are left out. The ``notes``
    of the result report all of this; its ``origin`` has the decisions that the pixels depend on. Raise RequestError,
    which names the file or directory, if the layout is wrong, a class is empty in either part, or too many files are
    unreadable.
    """
    files = _list_files(root, only)
    path, key = _cache_path(files, side), _cache_key(files, side)
    data = cache.read(path, key)
    if data is None and side is not None:  # reading without --side may have decoded the same images
        data = cache.read(_cache_path(files, None), _cache_key(files, None), side)
    if data is not None:
        return data
    plan = plan_decoding(files.paths, side)
    shape = (len(files.paths), plan.side, plan.side, plan.channels)

    def fill(images: np.ndarray) -> Dataset:
        return _build(files, images, plan, decode_into(images, files.paths, plan, files.names, str(root), tick))

    try:
        return cache.write(path, key, shape, fill)
    except OSError as error:
        note = f"decoded images cannot be cached in {path.parent} ({reason(error)}), so every start decodes them"
        data = fill(np.empty(shape, np.uint8))
        return replace(data, notes=(*data.notes, f"{note}: set XDG_CACHE_HOME to another folder"))


# ------------------------------------------------------------------ files


def _list_files(root: Path, only: Sequence[str]) -> ClassFiles:
    if not root.is_dir():
        raise RequestError(f"no directory {root}: check the path after folder:")
    parts = {path.name.lower(): path for path in sorted(root.iterdir()) if path.is_dir()}
    trains, tests = ([parts[name] for name in names if name in parts] for names in (TRAIN, TEST))
    if not trains or not tests:  # otherwise a class may have such a name
        trains, tests = ([parts[name] for name in names if name in parts] for names in (("train",), ("test", "val")))
    train_root = trains[0] if trains else root / "train" if tests else root
    every = _class_files(train_root)
    part = select_classes(f"folder:{root.name}", tuple(every), only)
    held_out = _class_files(tests[0]) if tests else {}
    unknown = sorted(set(held_out) - set(every))
    if unknown:
        raise RequestError(
            f"{tests[0] / unknown[0]} is a class that {train_root} does not have: add it there or remove it"
        )
    numbers = {cls: number for number, cls in enumerate(part.names)}
    train, test = (
        {cls: _readable(split.get(cls, [])) for cls in every if cls in numbers} for split in (every, held_out)
    )
    for cls, files in train.items():
        if not files:
            raise RequestError(f"{train_root / cls} holds no PNG or JPEG file: add some, or remove the directory")
        if not tests:
            train[cls], test[cls] = _split_class(train_root / cls, files)
        if not test[cls]:
            wrong = "holds no PNG or JPEG file: add some" if (tests[0] / cls).is_dir() else "is missing: add it"
            raise RequestError(f"{tests[0] / cls} {wrong}, or remove {tests[0]} to split the training part")
    both = [(path, numbers[cls]) for split in (train, test) for cls in split for path in split[cls]]
    count = sum(map(len, train.values()))
    others = [path for files in (every, held_out) for cls in part.names for path in files.get(cls, [])]
    return ClassFiles(
        root,
        part,
        [path for path, _ in both],
        np.array([number for _, number in both], np.int32),
        count,
        not tests,
        [path for path in others if path.suffix.lower() in OTHERS],
    )


def _class_files(split: Path) -> Files:
    """Return the image files of any type of each class, with classes and files sorted."""
    if not split.is_dir():
        raise RequestError(f"no directory {split}: {LAYOUT}")
    found: Files = {}
    for cls in sorted(path for path in split.iterdir() if path.is_dir() and not path.name.startswith(".")):
        files = (path for path in cls.rglob("*") if path.suffix.lower() in SUFFIXES | OTHERS)
        found[cls.name] = sorted(p for p in files if not any(x.startswith(".") for x in p.relative_to(cls).parts))
    if not any(map(_readable, found.values())):
        raise RequestError(f"{split} has no class directory with PNG or JPEG files: {LAYOUT}")
    return found


def _readable(files: Sequence[Path]) -> list[Path]:
    return [path for path in files if path.suffix.lower() in SUFFIXES]


def _split_class(cls: Path, files: list[Path]) -> tuple[list[Path], list[Path]]:
    """Split the ``files`` of a class into a training and a test part of at least one file each."""
    if len(files) < 2:
        raise RequestError(f"{cls} holds only one image, so none is left for testing: add images, or remove the class")

    def rank(path: Path) -> bytes:
        return hashlib.sha256(os.fsencode(path.relative_to(cls.parent))).digest()

    held = set(sorted(files, key=rank)[: max(1, round(HELD_OUT * len(files)))])
    return [path for path in files if path not in held], [path for path in files if path in held]


def _cache_path(files: ClassFiles, side: int | None) -> Path:
    """Return the cache file of the decoded images: one per folder, side and selection of classes."""
    location = os.path.abspath(files.root)
    digest = hashlib.sha256(os.fsencode(f"{location} {side} {files.part.names}")).hexdigest()
    return cache.folder() / f"{files.root.name}-{digest[:16]}.npy"


def _cache_key(files: ClassFiles, side: int | None) -> str:
    """Hash what the decoded images depend on: names, sizes and modification times of the files, and the decoder."""
    digest = hashlib.sha256(f"{VERSION} {PIL.__version__} {side} {files.train} {len(files.paths)}".encode())
    for path in (*files.paths, *files.others):
        try:
            stat = path.stat()
            digest.update(f"{stat.st_size} {stat.st_mtime_ns}".encode())
        except OSError:  # a broken link, which the decoder reports as unreadable
            pass
        digest.update(os.fsencode(f" {path.relative_to(files.root)}\0"))
    return digest.hexdigest()


# ------------------------------------------------------------------ images


def _build(files: ClassFiles, images: np.ndarray, plan: Plan, damaged: Damaged) -> Dataset:
    """Return the data set of ``images`` [N, H, H, c] with its notes and origin. Overwrite the rows of damaged files
    with the rows after them."""
    sound = np.array([index for index in range(len(images)) if index not in damaged], int)
    labels, count = files.labels[sound], int(np.sum(sound < files.train))
    for what, present in (("training", labels[:count]), ("test", labels[count:])):
        missing = np.setdiff1d(np.arange(len(files.part.names)), present)
        if len(missing):
            cls, candidates = missing[0], [i for i in damaged if (i < files.train) == (what == "training")]
            example = next(index for index in candidates if files.labels[index] == cls)
            raise RequestError(
                f"no {what} image of {files.part.names[cls]} can be read, for example {files.paths[example]} "
                f"({damaged[example]}): repair it or add images"
            )
    for row, index in enumerate(sound):
        if row != index:
            images[row] = images[index]
    data = Dataset.from_arrays(
        files.part.name, images[:count], labels[:count], images[count : len(sound)], labels[count:], files.part.names
    )
    origin, notes, name, paths = plan.origin, [*plan.notes(files.part.name)], files.part.name, files.names
    if damaged:
        origin["left_out"] = sorted(paths[index] for index in damaged)
        few = list_damaged(damaged, paths)
        notes.append(f"{name}: {len(damaged)} of {len(files.paths)} files cannot be read and are left out: {few}")
    if files.others:
        example = files.others[0].relative_to(files.root)
        notes.append(
            f"{name}: {len(files.others)} files of other types are ignored, such as {example}: save them as PNG"
        )
    if files.split:
        record = split_record(name, count, len(sound) - count)
        origin, notes = origin | record["origin"], [*notes, *record["notes"]]
    return replace(data, origin=origin, notes=tuple(notes))
