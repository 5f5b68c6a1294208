"""Defines a format: how images and labels are written to files and read back, and what the files cannot keep."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np

from distill_jax.data import READ_HERE
from distill_jax.types import RequestError


class Contents(NamedTuple):
    """The contents of a set. A writer receives them class-major and in the format's space; a reader returns them in any
    order and unchecked."""

    images: np.ndarray
    """float32 [N, H, W, c]; a reader may return any floating type"""
    labels: np.ndarray | None
    """integers [N]; a reader returns None for class-major images, equally many in each class"""
    soft: np.ndarray | None = None
    """float32 [N, C] class probabilities if labels are soft; ``labels`` is then None or the most probable class"""
    card: Mapping[str, Any] = {}
    """the card of the set; a reader returns only the fields that the files contain"""


@dataclass(frozen=True)
class Format:
    """One way to store a set: pure functions between ``Contents`` and the bytes of files. ``files.py`` does the I/O."""

    about: str
    """short description: the codebases that read it, its files and its space"""
    write: Callable[[Contents], dict[str, bytes]]
    """returns {path within the folder: bytes}"""
    read: Callable[[Mapping[str, bytes]], Contents]
    """reads {path as the user gave it: bytes}, in the order of ``files`` and then alphabetical. It may raise any
    exception for invalid files, and RequestError if it can say what is wrong"""
    files: tuple[str, ...]
    """patterns of the files to read from a folder, one file for each pattern"""
    snippet: str = field(repr=False)
    """Python code that sets the PyTorch tensors ``images`` (float [N, c, H, W]) and ``labels`` (int64 [N], or float
    [N, C]) from files in the folder ``HERE``; ``torch`` and ``Path`` are imported"""
    many: bool = False
    """whether each pattern may match any number of files"""
    optional: tuple[str, ...] = ()
    """patterns of files that may be absent"""
    space: str = "normalised"
    """'pixel' or 'normalised': the space in which its readers expect images"""
    packed: bool = False
    """whether images may be stored packed; otherwise they are stored decoded"""
    packed_by_custom: bool = False
    """whether its readers expect packed images"""
    soft: bool = False
    """whether it carries soft labels"""
    lossless: bool = True
    """whether images are stored exactly; otherwise with 8 bits per channel"""


def channels_first(images: np.ndarray) -> np.ndarray:
    """[N, H, W, c] -> [N, c, H, W], contiguous"""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def channels_last(images: Any, name: str) -> np.ndarray:
    """[N, c, H, W] -> [N, H, W, c]. Raise RequestError if ``images``, from the file ``name``, have another shape."""
    if not isinstance(images, np.ndarray) or images.ndim != 4:
        what = f"of shape {list(images.shape)}" if isinstance(images, np.ndarray) else f"a {type(images).__name__}"
        raise RequestError(f"the images in {name} are {what}, not a tensor [N, c, H, W]: give a file of this format")
    return images.transpose(0, 2, 3, 1)


def with_labels(images: np.ndarray, labels: Any, name: str, class_major: bool = False) -> Contents:
    """Return Contents with ``labels``, which are integers [N] or class probabilities [N, C].

    One-hot rows are hard labels. If any row is not one-hot, the labels are soft, and the class of an image is its most
    probable one, or follows from the order of the images if ``class_major``. Raise RequestError for other ``labels``.
    """
    labels = np.asarray(labels)
    if labels.ndim == 1 and labels.dtype.kind in "iu":
        return Contents(images, labels)
    if labels.ndim != 2 or labels.dtype.kind in "OSUc" or 0 in labels.shape or not np.isfinite(labels).all():
        raise RequestError(
            f"the labels in {name} are {labels.dtype}{list(labels.shape)}: give integers [N], or class "
            "probabilities [N, C]"
        )
    rows = labels.astype(np.float32)
    if np.array_equal(rows, np.eye(rows.shape[1], dtype=np.float32)[rows.argmax(1)]):
        return Contents(images, rows.argmax(1))
    return Contents(images, None if class_major else rows.argmax(1), rows)


def dataset_name(card: Mapping[str, Any]) -> str:
    """Return the name of the card's data set, without its path."""
    name = str(card.get("dataset") or "data").removeprefix("zca:")
    kind, _, path = name.partition(":")
    return PurePath(path).stem if kind in READ_HERE else name


def labels_to_write(contents: Contents) -> np.ndarray:
    """Return float32 [N, C] if labels are soft, else int64 [N]."""
    if contents.soft is not None:
        return contents.soft
    assert contents.labels is not None
    return contents.labels.astype(np.int64)
