"""A data set on the host: a training part and a test part. All readers build it, so its checks cover every source."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from distill_jax import mesh
from distill_jax.data.subset import select_classes
from distill_jax.types import Array, RealData, RequestError

HELD_OUT = 0.2
"""share of each class that becomes the test part of data that have none"""


class Whitening(NamedTuple):
    """The affine map from the images of a data set to whitened images. It acts on pixels in [0, 1], [N, H, W, c]
    flattened to [N, d]."""

    matrix: np.ndarray
    """float32 [d + 1, d]: whitened pixels = [pixels, 1] @ matrix"""
    unit: float
    """pixel values per whitened value: whitened pixels are 0.5 + unit * whitened values; these are in about [-6, 6]"""


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
    """the map that made the images from the original ones; None if the images are not whitened"""
    origin: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """JSON-compatible record of the decisions made while reading image files: a side, a split, files left out"""
    notes: tuple[str, ...] = field(default=(), repr=False)
    """one-line messages for the user about reading the data"""

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
        """Check the arrays and build a data set of them.

        Images are uint8 [N, H, H] or [N, H, H, c]; labels are of any integer type and exactly 0..C-1. ``class_names``
        [C] default to the class numbers. Raise RequestError, which names the array, for any other input.
        """
        x_train, y_train, x_test, y_test = map(np.asarray, (x_train, y_train, x_test, y_test))
        x_train, x_test = (_images(name, key, x) for key, x in (("x_train", x_train), ("x_test", x_test)))
        if x_train.shape[1:] != x_test.shape[1:]:
            raise RequestError(
                f"{name}: training images are {_dims(x_train.shape[1:])} and test images {_dims(x_test.shape[1:])}: "
                "convert them to one size and number of channels"
            )
        for key, y, x in (("y_train", y_train, x_train), ("y_test", y_test, x_test)):
            _check_labels(name, key, y, len(x))
        if wrong := wrong_names(class_names):
            raise RequestError(f"{name}: {wrong}: give a list of names")
        classes = int(y_train.max()) + 1 if class_names is None else len(class_names)
        _check_classes(name, y_train, y_test, classes)
        names = tuple(map(str, range(classes) if class_names is None else class_names))
        return cls(name, x_train, y_train.astype(np.int32), x_test, y_test.astype(np.int32), names)

    @classmethod
    def without_test_part(
        cls, name: str, x: np.ndarray, y: np.ndarray, class_names: Sequence[str] | None = None
    ) -> Dataset:
        """Check arrays that have no test part, and hold out a fifth of each class at random, always the same, for one.
        The ``origin`` and the ``notes`` of the result say so."""
        data = cls.from_arrays(name, x, y, x, y, class_names).withhold(HELD_OUT, 0)
        return replace(data, **split_record(name, len(data.y_train), len(data.y_test)))

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
        """float64 [c] each: exact mean and standard deviation, computed from a histogram of the pixel values"""
        histogram = np.zeros((self.shape[2], 256), np.int64)
        step = max(1, 2**21 // (self.shape[0] * self.shape[1]))
        for start in range(0, len(self.x_train), step):  # in batches: bincount needs eight bytes per pixel
            for channel, row in enumerate(histogram):
                row += np.bincount(self.x_train[start : start + step, ..., channel].ravel(), minlength=256)
        values, pixels = np.arange(256) / 255, histogram.sum(1)
        mean = histogram @ values / pixels
        return mean, np.sqrt((histogram * (values - mean[:, None]) ** 2).sum(1) / pixels)

    @property
    def mean(self) -> np.ndarray:
        """float32 [c], mean of the training pixels in [0, 1]; for whitened images the grey that represents zero"""
        if self.whitening is not None:
            return np.full(self.shape[2], 0.5, np.float32)
        return self._moments[0].astype(np.float32)

    @property
    def std(self) -> np.ndarray:
        """float32 [c], standard deviation of the training pixels in [0, 1] (over all pixels, biased); 1 for a constant
        channel, so that images can be divided by it. For whitened images it is their unit; dividing by that gives the
        whitened values that MTT uses"""
        if self.whitening is not None:
            return np.full(self.shape[2], self.whitening.unit, np.float32)
        std = self._moments[1]
        return np.where(std > 1e-6, std, 1).astype(np.float32)

    @cached_property
    def fingerprint(self) -> str:
        """the first 16 hexadecimal digits of a SHA-256 over shapes, labels and pixels of both parts"""
        return digest_of(self.x_train, self.y_train, self.x_test, self.y_test)[:16]

    def real_data(self, mean: Sequence[float] = (), std: Sequence[float] = ()) -> RealData:
        """Return the training part, replicated on every device, with the statistics to normalise it.

        The statistics are ``mean`` and ``std`` [c] of pixels in [0, 1], or those of the images if ``mean`` and ``std``
        are empty or the images are whitened.
        """
        own = self.whitening is not None or not mean
        # Copied from the host, not from device to device: devices that are cores of a CPU then share one copy.
        images = mesh.replicated(self.x_train)
        return mesh.replicated(
            RealData.from_arrays(images, self.y_train, *((self.mean, self.std) if own else (mean, std)))
        )

    def test_arrays(self) -> tuple[Array, Array]:
        """Return the test part on the device: images uint8 [M, H, W, c] and labels int32 [M]."""
        return jnp.asarray(self.x_test), jnp.asarray(self.y_test)

    def only(self, classes: Sequence[str]) -> Dataset:
        """Return the data set of these ``classes`` only, numbered from 0 in this order; images stay in data-set order.

        A class is given by its name (the WordNet id for ImageNet). A word that is no class name may be a number ``3``
        or a range ``0:20``, end excluded. A single word may be the name of a published list, such as ``imagenet10``
        (``subset.LISTS``). Whitened images are not whitened again. Raise RequestError for an unknown class, a class
        named twice, fewer than two classes, or classes without any test image.
        """
        if not classes:
            raise RequestError(f"{self.name}: no class is named: name at least two")
        return self.part(*select_classes(self.name, self.class_names, classes)[:2])

    def part(self, name: str, classes: Sequence[int]) -> Dataset:
        """Return the data set ``name`` of these ``classes`` only, by number, as ``only`` does. Raise RequestError if no
        test image is of these classes."""
        number = np.full(self.classes, -1, np.int32)
        number[list(classes)] = np.arange(len(classes))
        (x_train, y_train), (x_test, y_test) = (
            (x[number[y] >= 0], number[y][number[y] >= 0])
            for x, y in ((self.x_train, self.y_train), (self.x_test, self.y_test))
        )
        if not len(y_test):
            raise RequestError(f"{name}: the test part has no image of these classes: choose other classes")
        parts = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
        return replace(self, name=name, class_names=tuple(self.class_names[c] for c in classes), **parts)

    def withhold(self, fraction: float, seed: int) -> Dataset:
        """Split the training part in two, and return a data set for making choices without the test images.

        ``fraction`` of the training images of each class, drawn at random, become the new test part; the rest become
        the new training part. A class of two or more images has at least one in each part. Both parts keep the
        data-set order. Raise RequestError unless ``fraction`` is between 0 and 1 and some class has two images.
        """
        if not 0 < fraction < 1:
            raise RequestError(f"cannot withhold {fraction} of the training images: give a fraction between 0 and 1")
        rng = np.random.default_rng(seed)
        held = np.zeros(len(self.y_train), bool)
        for c, count in enumerate(self.counts):
            size = min(max(1, round(fraction * count)), count - 1)
            held[rng.choice(np.flatnonzero(self.y_train == c), size, replace=False)] = True
        if not held.any():
            raise RequestError(f"{self.name}: every class has one training image, so none can be withheld: add images")
        x, y = self.x_train, self.y_train
        return replace(self, x_train=x[~held], y_train=y[~held], x_test=x[held], y_test=y[held])


def split_record(name: str, train: int, test: int) -> dict[str, Any]:
    """Return the ``origin`` and the ``notes`` of data whose test part of ``test`` images was held out."""
    share = f"{test} of {train + test} images, a fifth of each class, are held out for testing"
    split = {"held_out": HELD_OUT, "train": train, "test": test}
    return {"origin": {"split": split}, "notes": (f"{name} has no test part: {share}",)}


def digest_of(*arrays: np.ndarray) -> str:
    """Return the hexadecimal SHA-256 of the dtype, shape and content of each array."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def wrong_names(names: Any) -> str | None:
    """Describe what is wrong with the names of classes, of which several may be equal; None if nothing is."""
    return f"class_names is the text {names!r}, not a list" if isinstance(names, str) else None


def reason(error: BaseException) -> str:
    """Return the message of ``error`` in one line."""
    message = (str(error).splitlines() or [type(error).__name__])[0]
    # NumPy's message advises loading pickled objects, which would run any code in the file.
    return "pickled objects are never loaded" if "allow_pickle" in message else message


def _dims(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _images(name: str, key: str, x: np.ndarray) -> np.ndarray:
    """Return ``x`` as uint8 [N, H, H, c], or raise RequestError."""
    what = f"{name}: {key} {_dims(x.shape)} {x.dtype}"
    if x.dtype != np.uint8:
        mend = "multiply floats in 0..1 by 255, round, and" if x.dtype.kind == "f" else "if values are in 0..255,"
        raise RequestError(f"{what} is not uint8: {mend} use .astype('uint8')")
    if x.ndim == 3:
        x = x[..., None]
    if x.ndim != 4:
        raise RequestError(f"{what} is not a stack of images: reshape to [N, H, W] or [N, H, W, c]")
    if x.shape[3] not in range(1, 5):
        mend = "put channels last with .transpose(0, 2, 3, 1)" if x.shape[1] in range(1, 5) else "give 1 to 4 channels"
        raise RequestError(f"{what} has {x.shape[3]} channels in its last axis: {mend}")
    if x.shape[1] != x.shape[2]:
        raise RequestError(f"{what} is not square: crop or resize the images")
    if 0 in x.shape:
        raise RequestError(f"{what} is empty: give at least one image")
    return x


def _check_labels(name: str, key: str, y: np.ndarray, images: int) -> None:
    what = f"{name}: {key} {_dims(y.shape)} {y.dtype}"
    if y.dtype.kind not in "iu":
        raise RequestError(f"{what} is not of an integer type: give class numbers 0..C-1")
    if y.ndim != 1:
        mend = f"{key}.argmax(1)" if y.ndim == 2 and y.shape[1] > 1 else f"{key}.reshape(-1)"
        raise RequestError(f"{what} is not one class number per image: use {mend}")
    if len(y) != images:
        raise RequestError(
            f"{name}: {key.replace('y', 'x')} has {images} images, but {key} has {len(y)} labels: give one per image"
        )


def _check_classes(name: str, y_train: np.ndarray, y_test: np.ndarray, classes: int) -> None:
    for key, y in (("y_train", y_train), ("y_test", y_test)):
        if y.min() < 0:
            raise RequestError(f"{name}: {key} has the label {y.min()}: number the classes from 0")
        if y.max() >= classes:
            raise RequestError(
                f"{name}: {key} has the label {y.max()}, but there are {classes} classes, 0..{classes - 1}: leave out "
                "the images with this label, or give the class a name and training images"
            )
    present = np.unique(y_train)
    if len(present) < classes and len(present) == present[-1] + 1:
        raise RequestError(
            f"{name}: there are {classes} class names, but y_train has the labels 0..{present[-1]}: give one name per "
            "class, and training images of each class"
        )
    if len(present) < classes:
        missing = np.setdiff1d(np.arange(len(present) + 1), present)[0]
        raise RequestError(
            f"{name}: class {missing} of 0..{classes - 1} has no training image: renumber the labels to 0..C-1 "
            "without gaps"
        )
    if classes < 2:
        raise RequestError(f"{name}: there is only one class: give at least two")
