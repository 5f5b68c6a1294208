"""One data set on the host: a training part and a test part, checked once, whatever they were read from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from distill_jax import mesh
from distill_jax.data.subset import chosen
from distill_jax.types import Array, RealData, RequestError


class Whitening(NamedTuple):
    """The map from the images of a data set to those of the whitened one: affine, in pixels [N, H, W, c] in [0, 1]
    flattened to [N, d]."""

    matrix: np.ndarray
    """float32 [d + 1, d]: whitened pixels = [pixels, 1] @ matrix"""
    unit: float
    """pixel values per whitened value: whitened pixels are 0.5 + unit * whitened values, which stay in about [-6, 6]"""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Real images and their classes. Build one with ``from_arrays``, which checks them."""

    name: str
    x_train: np.ndarray = field(repr=False)
    """uint8 [N, H, H, c], c from 1 to 4"""
    y_train: np.ndarray = field(repr=False)
    """int32 [N], 0..C-1, every class at least once"""
    x_test: np.ndarray = field(repr=False)
    """uint8 [M, H, H, c]"""
    y_test: np.ndarray = field(repr=False)
    """int32 [M], 0..C-1"""
    class_names: tuple[str, ...]
    whitening: Whitening | None = field(default=None, repr=False)
    """how the images were made from those of another data set; None where they are as they were read"""
    origin: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """what was decided as image files were read, ready for JSON: a side, a split, files left out"""
    notes: tuple[str, ...] = field(default=(), repr=False)
    """what a user should be told of the reading, a line each"""

    @classmethod
    def from_arrays(
        cls,
        name: str,
        x_train: np.ndarray,
        y_train: np.ndarray,
        x_test: np.ndarray,
        y_test: np.ndarray,
        class_names: Sequence[str] | None = None,
    ) -> Dataset:
        """Images uint8 [N, H, W] or [N, H, W, c], labels of any integer type, exactly 0..C-1.

        ``class_names`` [C] default to the class numbers. Raises RequestError, naming the array, where anything else is
        given.
        """
        x_train, x_test = (_images(name, key, x) for key, x in (("x_train", x_train), ("x_test", x_test)))
        if x_train.shape[1:] != x_test.shape[1:]:
            raise RequestError(
                f"{name}: training images are {_by(x_train.shape[1:])} and test images {_by(x_test.shape[1:])}: "
                "bring them to one size and number of channels"
            )
        for key, y, x in (("y_train", y_train, x_train), ("y_test", y_test, x_test)):
            _check_labels(name, key, y, len(x))
        classes = int(y_train.max()) + 1 if class_names is None else len(class_names)
        _check_classes(name, y_train, y_test, classes)
        names = tuple(map(str, range(classes) if class_names is None else class_names))
        return cls(name, x_train, y_train.astype(np.int32), x_test, y_test.astype(np.int32), names)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, c)"""
        _, height, width, channels = self.x_train.shape
        return height, width, channels

    @property
    def classes(self) -> int:
        """C"""
        return len(self.class_names)

    @cached_property
    def counts(self) -> np.ndarray:
        """int64 [C]: training images per class"""
        return np.bincount(self.y_train, minlength=self.classes)

    @cached_property
    def _moments(self) -> tuple[np.ndarray, np.ndarray]:
        """float64 [c] each: mean and standard deviation, exact, from how often each pixel value occurs"""
        often = np.zeros((self.shape[2], 256), np.int64)
        step = max(1, 2**21 // (self.shape[0] * self.shape[1]))
        for start in range(0, len(self.x_train), step):  # bincount needs eight bytes per pixel: a few images at a time
            for channel, row in enumerate(often):
                row += np.bincount(self.x_train[start : start + step, ..., channel].ravel(), minlength=256)
        values, pixels = np.arange(256) / 255, often.sum(1)
        mean = often @ values / pixels
        return mean, np.sqrt((often * (values - mean[:, None]) ** 2).sum(1) / pixels)

    @property
    def mean(self) -> np.ndarray:
        """float32 [c], of the training pixels in [0, 1]; of whitened images the grey that stands for zero"""
        if self.whitening is not None:
            return np.full(self.shape[2], 0.5, np.float32)
        return self._moments[0].astype(np.float32)

    @property
    def std(self) -> np.ndarray:
        """float32 [c], of the training pixels in [0, 1] (over all pixels, biased); 1 where a channel never varies, so
        that images can be divided by it. Whitened images are divided by their unit, which gives whitened values as MTT
        uses them"""
        if self.whitening is not None:
            return np.full(self.shape[2], self.whitening.unit, np.float32)
        std = self._moments[1]
        return np.where(std > 1e-6, std, 1).astype(np.float32)

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of a SHA-256 over shapes, labels and pixels of both parts"""
        digest = hashlib.sha256()
        for array in (self.x_train, self.y_train, self.x_test, self.y_test):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:16]

    def real_data(self, mean: Sequence[float] = (), std: Sequence[float] = ()) -> RealData:
        """The training part on every device, to be normalised with ``mean`` and ``std`` [c] of pixels in [0, 1]; where
        they are empty, or the images whitened, with those of the images."""
        own = self.whitening is not None or not mean
        # From here, not from one device to the others: those that are cores of a CPU then share one copy.
        images = mesh.replicated(self.x_train)
        return mesh.replicated(
            RealData.from_arrays(images, self.y_train, *((self.mean, self.std) if own else (mean, std)))
        )

    def test_arrays(self) -> tuple[Array, Array]:
        """The test part on the device: uint8 [M, H, W, c], int32 [M]."""
        return jnp.asarray(self.x_test), jnp.asarray(self.y_test)

    def only(self, classes: Sequence[str]) -> Dataset:
        """The data set with these ``classes`` alone, numbered 0.. in the order given; images stay in data-set order.

        A class is meant by its name (of ImageNet's, the WordNet id), or where no class is so called by a number ``3``
        or a range ``0:20``, end excluded. The name of a published list, such as ``imagenet10``, stands alone for its
        classes (``subset.LISTS``). Images that were whitened stay as they are. Raises RequestError for an unknown
        class, one that is named twice, fewer than two, and where no test image is left.
        """
        if not classes:
            raise RequestError(f"{self.name}: no class is named: name at least two")
        part = chosen(self.name, self.class_names, classes)
        number = np.full(self.classes, -1, np.int32)
        number[part.places] = np.arange(len(part.places))
        (x_train, y_train), (x_test, y_test) = (
            (x[number[y] >= 0], number[y][number[y] >= 0])
            for x, y in ((self.x_train, self.y_train), (self.x_test, self.y_test))
        )
        if not len(y_test):
            raise RequestError(f"{part.name}: no test image is of these classes: choose others")
        parts = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
        return replace(self, name=part.name, class_names=part.names, **parts)

    def withhold(self, fraction: float, seed: int) -> Dataset:
        """A data set to make choices on, without the test part: of each class of the training part, ``fraction`` of the
        images, drawn at random (at least one, and at least one stays), becomes its test part; the rest its training
        part. Both stay in data-set order. Raises RequestError where ``fraction`` is not between 0 and 1.
        """
        if not 0 < fraction < 1:
            raise RequestError(f"cannot withhold {fraction} of the training images: give a fraction between 0 and 1")
        rng = np.random.default_rng(seed)
        held = np.zeros(len(self.y_train), bool)
        for c, count in enumerate(self.counts):
            size = min(max(1, round(fraction * count)), count - 1)
            held[rng.choice(np.flatnonzero(self.y_train == c), size, replace=False)] = True
        if not held.any():
            raise RequestError(f"{self.name}: every class has one training image, none can be withheld: add images")
        x, y = self.x_train, self.y_train
        return replace(self, x_train=x[~held], y_train=y[~held], x_test=x[held], y_test=y[held])


def reason(error: BaseException) -> str:
    """What ``error`` says, in one line."""
    said = (str(error).splitlines() or [type(error).__name__])[0]
    # NumPy advises to load them, which would run whatever code the file holds.
    return "pickled objects are never loaded" if "allow_pickle" in said else said


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _images(name: str, key: str, x: np.ndarray) -> np.ndarray:
    """uint8 [N, H, H, c], or RequestError."""
    what = f"{name}: {key} {_by(x.shape)} {x.dtype}"
    if x.dtype != np.uint8:
        kind = "floats in 0..1: multiply by 255, round and" if x.dtype.kind == "f" else "values in 0..255:"
        raise RequestError(f"{what} is not uint8 (for {kind} use .astype('uint8'))")
    if x.ndim == 3:
        x = x[..., None]
    if x.ndim != 4:
        raise RequestError(f"{what} is not a stack of images: reshape to [N, H, W] or [N, H, W, c]")
    if x.shape[3] not in range(1, 5):
        mend = "channels come last: use .transpose(0, 2, 3, 1)" if x.shape[1] in range(1, 5) else "1 to 4 are possible"
        raise RequestError(f"{what} would have {x.shape[3]} channels: {mend}")
    if x.shape[1] != x.shape[2]:
        raise RequestError(f"{what} is not square: crop or resize the images")
    if 0 in x.shape:
        raise RequestError(f"{what} is empty: give at least one image")
    return x


def _check_labels(name: str, key: str, y: np.ndarray, images: int) -> None:
    what = f"{name}: {key} {_by(y.shape)} {y.dtype}"
    if y.dtype.kind not in "iu":
        raise RequestError(f"{what} is not of an integer type: give class numbers 0..C-1")
    if y.ndim != 1:
        mend = f"{key}.argmax(1)" if y.ndim == 2 and y.shape[1] > 1 else f"{key}.reshape(-1)"
        raise RequestError(f"{what} is not one class number per image: use {mend}")
    if len(y) != images:
        raise RequestError(
            f"{name}: {images} images in {key.replace('y', 'x')}, but {len(y)} labels in {key}: give as many"
        )


def _check_classes(name: str, y_train: np.ndarray, y_test: np.ndarray, classes: int) -> None:
    for key, y in (("y_train", y_train), ("y_test", y_test)):
        if y.min() < 0:
            raise RequestError(f"{name}: {key} has the label {y.min()}: number the classes from 0")
        if y.max() >= classes:
            raise RequestError(
                f"{name}: {key} has the label {y.max()}, but there are {classes} classes, 0..{classes - 1}: leave its "
                "images out, or give the class a name and training images"
            )
    present = np.unique(y_train)
    if len(present) < classes:
        missing = np.setdiff1d(np.arange(len(present) + 1), present)[0]
        raise RequestError(
            f"{name}: class {missing} of 0..{classes - 1} has no training image: labels must be exactly 0..C-1, so "
            "renumber them without gaps"
        )
    if classes < 2:
        raise RequestError(f"{name}: there is only one class: give at least two")
