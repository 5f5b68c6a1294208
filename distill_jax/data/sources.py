"""Loads a data set by its name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from distill_jax.data.dataset import Dataset
from distill_jax.data.folder import read_folder
from distill_jax.data.huggingface import read_huggingface
from distill_jax.data.npz import read_npz
from distill_jax.data.tfds import read_tfds
from distill_jax.data.whiten import whitened
from distill_jax.types import RequestError, Tick

READ_HERE = ("npz", "folder", "hf")
"""prefixes of data sets in the user's own files"""
DIGITS = Path(__file__).with_name("digits.npz")


def load(name: str, side: int | None = None, only: Sequence[str] = (), tick: Tick | None = None) -> Dataset:
    """Load the data set ``name``: ``digits``, ``npz:PATH``, ``folder:PATH``, ``hf:PATH``, or a name of TensorFlow
    Datasets. The prefix ``zca:`` whitens any of them (``whitened``).

    ``only`` selects classes as ``Dataset.only`` does; if it is empty, all classes are loaded. Image files of other
    classes are not decoded, and the whitening does not use them. Images of ``folder:``, of ``hf:``, and of TFDS data
    sets whose image size varies (``imagenette``, ``imagenet2012``, ...) are resized and cropped to ``side``. If that is
    None they become 224, except that square images of equal size in ``folder:`` and ``hf:`` keep their size. ``tick``
    receives the number of decoded images of ``folder:`` and ``hf:``. Raise RequestError if the data set does not exist
    or cannot be used; the readers in this folder give the details.
    """
    if side is not None and side < 1:
        raise RequestError(f"cannot crop images to side {side}: give at least 1")
    if name == "digits":
        return digits().only(only) if only else digits()
    kind, _, path = name.partition(":")
    if kind == "zca":
        if not path:
            raise RequestError("zca: without a data set: write zca:cifar10, or zca:npz:PATH")
        if path.startswith("zca:"):
            raise RequestError(f"{name} would be whitened twice: write zca: once")
        return whitened(load(path, side, only, tick))
    if kind not in READ_HERE:
        return read_tfds(name, side, only)
    if not path:
        raise RequestError(f"{kind}: without a path: write {kind}:PATH")
    location = Path(path).expanduser()
    if kind == "npz":
        return read_npz(location, only)
    return (read_huggingface if kind == "hf" else read_folder)(location, side, only, tick)


def digits() -> Dataset:
    """Return scikit-learn's 1797 handwritten digits, 8x8x1; 1347 of them are for training.

    Its pixel values 0..16 are uint8 here, ``round(value * 255 / 16)``. The test part is a stratified quarter, as
    ``train_test_split`` draws it with ``random_state=0``. They are in a file because importing scikit-learn takes about
    as long as importing JAX.
    """
    return replace(read_npz(DIGITS), name="digits")
