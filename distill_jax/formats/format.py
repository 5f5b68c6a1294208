"""What a format is: how images and labels become files, how they come back, and what is lost on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np

from distill_jax.types import RequestError


class Contents(NamedTuple):
    """What a set holds. As written: class-major, in the format's space. As read: in any order, not checked yet."""

    images: np.ndarray
    """float32 [N, H, W, c]; read: any floating type"""
    labels: np.ndarray | None
    """integers [N]; None as read: class-major, as many of each class"""
    soft: np.ndarray | None = None
    """float32 [N, C] class probabilities, where labels are soft; read: with labels None or their most probable class"""
    card: Mapping[str, Any] = {}
    """written: the card of the set; read: those of its fields that the files themselves tell"""


@dataclass(frozen=True)
class Format:
    """One way to store a set. Pure functions between ``Contents`` and the bytes of files; ``files`` does the rest."""

    about: str
    """who reads it, in a few words"""
    write: Callable[[Contents], dict[str, bytes]]
    """path within the folder -> bytes"""
    read: Callable[[Mapping[str, bytes]], Contents]
    """the same, in the order of ``files`` and then of the alphabet, under the names that the user gave. May raise
    anything for files that make no sense; RequestError where it can say what is wrong."""
    files: tuple[str, ...]
    """patterns of what to read from a folder: one file of each"""
    snippet: str = field(repr=False)
    """lines of Python with PyTorch that set ``images`` (float [N, c, H, W]) and ``labels`` (int64 [N], or float [N, C])
    from files beside it in ``HERE``; ``torch`` and ``Path`` are imported"""
    many: bool = False
    """any number of files of each pattern"""
    optional: tuple[str, ...] = ()
    """further patterns, of which there may be none"""
    space: str = "normalised"
    """'pixel' or 'normalised': what its readers take images for"""
    packed: bool = False
    """whether images may be stored packed; a format that cannot holds decoded ones"""
    packed_by_custom: bool = False
    """whether its readers expect them packed"""
    soft: bool = False
    """whether it carries soft labels"""
    lossless: bool = True
    """False: 8 bits per channel"""


def channels_first(images: np.ndarray) -> np.ndarray:
    """[N, H, W, c] -> [N, c, H, W], contiguous"""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def channels_last(images: Any, name: str) -> np.ndarray:
    """[N, c, H, W] -> [N, H, W, c]. Raises RequestError where ``name`` holds something else."""
    if not isinstance(images, np.ndarray) or images.ndim != 4:
        what = f"of shape {list(images.shape)}" if isinstance(images, np.ndarray) else f"a {type(images).__name__}"
        raise RequestError(f"the images in {name} are {what}, not a tensor [N, c, H, W]: give a file of this format")
    return images.transpose(0, 2, 3, 1)


def with_labels(images: np.ndarray, labels: Any, name: str, class_major: bool = False) -> Contents:
    """Contents with ``labels`` [N] whole numbers, or [N, C] probabilities, one-hot ones included.

    A row that is not one-hot is a soft label, and its class the most probable one; with ``class_major`` all labels are
    taken to be in the order of the classes. Raises RequestError where ``labels`` are neither.
    """
    labels = np.asarray(labels)
    if labels.ndim == 1 and labels.dtype.kind in "iu":
        return Contents(images, labels)
    if labels.ndim != 2 or labels.dtype.kind in "OSUc" or 0 in labels.shape or not np.isfinite(labels).all():
        raise RequestError(
            f"the labels in {name} are {labels.dtype}{list(labels.shape)}: give whole numbers [N], or [N, C] "
            "probabilities of the classes"
        )
    rows = labels.astype(np.float32)
    if np.array_equal(rows, np.eye(rows.shape[1], dtype=np.float32)[rows.argmax(1)]):
        return Contents(images, rows.argmax(1))
    return Contents(images, None if class_major else rows.argmax(1), rows)


def dataset_name(card: Mapping[str, Any]) -> str:
    """What the data set of a card is called, without the path to it."""
    name = str(card.get("dataset") or "data")
    return PurePath(name).stem if name.startswith(("npz:", "folder:")) else name


def labels_to_write(contents: Contents) -> np.ndarray:
    """float32 [N, C] where labels are soft, else int64 [N]"""
    if contents.soft is not None:
        return contents.soft
    assert contents.labels is not None
    return contents.labels.astype(np.int64)
