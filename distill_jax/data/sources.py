"""Data sets by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from distill_jax.data.dataset import Dataset
from distill_jax.data.folder import read_folder
from distill_jax.data.huggingface import read_huggingface
from distill_jax.data.npz import read_npz
from distill_jax.data.tfds import read_tfds
from distill_jax.data.whiten import whitened
from distill_jax.types import RequestError, Tick

READ_HERE = ("npz", "folder", "hf")


def load(name: str, side: int | None = None, only: Sequence[str] = (), tick: Tick | None = None) -> Dataset:
    """The data set ``name``: ``digits``, ``npz:PATH``, ``folder:PATH``, ``hf:PATH``, otherwise a name of TensorFlow
    Datasets.

    Any of them after ``zca:`` is whitened (``whitened``). ``only``: the classes it consists of, as ``Dataset.only``
    takes them; where there are none, all. Image files of others are not decoded, nor counted in the whitening.
    ``side`` is what images of ``folder:``, of ``hf:``, and of names of TFDS whose size varies (``imagenette``,
    ``imagenet2012``, ...) are resized and cropped to; None: 224, and those of a folder or of ``hf:`` as they are where
    all are square and equal. ``tick`` is told how many files of a folder are decoded. Raises RequestError where there
    is no such data set or it cannot be used; see the readers in this folder.
    """
    if side is not None and side < 1:
        raise RequestError(f"cannot crop images to side {side}: give at least 1")
    if name == "digits":
        return digits().only(only) if only else digits()
    kind, _, path = name.partition(":")
    if kind == "zca":
        if not path:
            raise RequestError("zca: without a data set: write zca:cifar10, or zca:npz:PATH")
        return whitened(load(path, side, only, tick))
    if kind not in READ_HERE:
        return read_tfds(name, side, only)
    if not path:
        raise RequestError(f"{kind}: without a path: write {kind}:PATH")
    where = Path(path).expanduser()
    if kind == "npz":
        return read_npz(where, only)
    return read_huggingface(where, side, only) if kind == "hf" else read_folder(where, side, only, tick)


def digits() -> Dataset:
    """The 1797 handwritten digits embedded in scikit-learn, 8x8x1, 1347 to train on.

    Pixel values 0..16 become uint8 by ``round(value * 255 / 16)``. The split: a quarter for testing, stratified,
    ``random_state=0``.
    """
    from sklearn.datasets import load_digits  # takes a second to import, and few runs need it
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    pixels = np.rint(images * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    split = train_test_split(pixels, labels, test_size=0.25, random_state=0, stratify=labels)
    x_train, x_test, y_train, y_test = map(np.asarray, split)
    return Dataset.from_arrays("digits", x_train, y_train, x_test, y_test)
