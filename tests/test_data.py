"""Tests data sets from arrays and npz files: the values computed from them, and all kinds of wrong input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from distill_jax.data import Dataset, load
from distill_jax.types import RequestError

rng = np.random.default_rng(0)
LABELS = np.array([1, 0, 2, 1, 1, 0, 1, 2, 1, 1])  # counts 2, 6, 2


def arrays(**changes: Any) -> dict[str, Any]:
    images = rng.integers(0, 256, (15, 4, 4, 3), np.uint8)
    return {"x_train": images[:10], "y_train": LABELS, "x_test": images[10:], "y_test": LABELS[:5]} | changes


def refused(message: str, call: Callable[..., object], *args: Any, **kwargs: Any) -> None:
    with pytest.raises(RequestError, match=message) as error:
        call(*args, **kwargs)
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------ Dataset


def test_digits() -> None:
    """The file has the images of scikit-learn, in the split that its docstring describes."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load("digits")
    assert data.shape == (8, 8, 1) and data.classes == 10 and data.class_names == tuple("0123456789")
    assert len(data.x_train) == 1347 and len(data.x_test) == 450 and data.fingerprint == "675dc0256dae850f"
    images, labels = load_digits(return_X_y=True)
    pixels = np.rint(images * (255 / 16)).reshape(-1, 8, 8, 1)
    split = train_test_split(pixels, labels, test_size=0.25, random_state=0, stratify=labels)
    for ours, theirs in zip((data.x_train, data.x_test, data.y_train, data.y_test), split, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_real_data() -> None:
    data = Dataset.from_arrays("toy", **arrays())
    real = data.real_data()
    assert isinstance(real.images, jax.Array) and real.images.dtype == np.uint8
    np.testing.assert_array_equal(real.images, data.x_train)
    np.testing.assert_array_equal(real.labels, LABELS)
    np.testing.assert_array_equal(real.counts, [2, 6, 2])
    np.testing.assert_array_equal(real.index, [[1, 5, 1, 5, 1, 5], [0, 3, 4, 6, 8, 9], [2, 7, 2, 7, 2, 7]])
    assert (real.labels.dtype, real.index.dtype, real.counts.dtype, real.classes) == (*[np.int32] * 3, 3)
    x, y = data.test_arrays()
    assert x.dtype == np.uint8 and y.dtype == np.int32 and len(x) == len(y) == 5


@pytest.mark.parametrize("side", [4, 512])
def test_moments_are_those_of_the_pixels(side: int) -> None:
    """Of the large images, eight are counted at a time."""
    images = rng.integers(0, 256, (10, side, side, 3), np.uint8)
    images[..., 2] = 7  # a constant channel
    data = Dataset.from_arrays("toy", **arrays(x_train=images, x_test=images[:5]))
    real = data.real_data()
    pixels = images.reshape(-1, 3) / 255
    np.testing.assert_allclose(real.normaliser.mean, pixels.mean(0), rtol=1e-6)
    np.testing.assert_allclose(real.normaliser.std, [*pixels.std(0)[:2], 1], rtol=1e-6)
    assert real.normaliser.mean.dtype == real.normaliser.std.dtype == np.float32


def test_fingerprint_is_of_the_content() -> None:
    whole = arrays()
    data = Dataset.from_arrays("toy", **whole)
    assert len(data.fingerprint) == 16
    small = {key: value.astype(np.uint8) for key, value in whole.items()}
    same = Dataset.from_arrays("another name", **small, class_names=["a", "b", "c"])
    assert same.fingerprint == data.fingerprint
    for key in whole:
        changed = whole[key].copy()
        changed.flat[0] ^= 1
        assert Dataset.from_arrays("toy", **(whole | {key: changed})).fingerprint != data.fingerprint


def test_withhold_is_stratified_and_leaves_the_test_part_out() -> None:
    data = Dataset.from_arrays("toy", **arrays())
    part = data.withhold(0.3, seed=1)
    np.testing.assert_array_equal(part.counts, [1, 4, 1])
    np.testing.assert_array_equal(np.bincount(part.y_test), [1, 2, 1])
    both = sorted([x.tobytes() for x in part.x_train] + [x.tobytes() for x in part.x_test])
    assert both == sorted(x.tobytes() for x in data.x_train)
    rows = {x.tobytes(): (i, y) for i, (x, y) in enumerate(zip(data.x_train, data.y_train, strict=True))}
    for images, labels in ((part.x_train, part.y_train), (part.x_test, part.y_test)):
        order = [rows[x.tobytes()][0] for x in images]
        assert order == sorted(order) and [rows[x.tobytes()][1] for x in images] == list(labels)
    assert part.fingerprint == data.withhold(0.3, seed=1).fingerprint != data.withhold(0.3, seed=2).fingerprint


def test_withhold_keeps_one_image_of_each_class() -> None:
    single = np.array([0, 1, 1, 1, 2, 2, 2, 2, 2, 2])
    part = Dataset.from_arrays("toy", **arrays(y_train=single)).withhold(0.99, seed=0)
    np.testing.assert_array_equal(part.counts, [1, 1, 1])
    for fraction in (0, 1, -0.1, float("nan")):
        refused("between 0 and 1", part.withhold, fraction, 0)
    refused("none can be withheld", part.withhold, 0.5, 0)


def test_grey_images_and_small_integer_types() -> None:
    data = Dataset.from_arrays(
        "toy",
        rng.integers(0, 256, (10, 4, 4), np.uint8),
        LABELS.astype(np.uint8),
        rng.integers(0, 256, (2, 4, 4, 1), np.uint8),
        np.array([2, 2], np.int8),
    )
    assert data.shape == (4, 4, 1) and data.y_train.dtype == data.y_test.dtype == np.int32


IMAGES = rng.integers(0, 256, (10, 4, 4, 3), np.uint8)
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"x_train": IMAGES / np.float32(255)}, r"x_train 10x4x4x3 float32 is not uint8: multiply .* by 255"),
    ({"x_test": IMAGES[:5].astype(np.int64)}, "x_test 5x4x4x3 int64 is not uint8"),
    ({"x_train": IMAGES.reshape(10, -1)}, "x_train 10x48 uint8 is not a stack of images: reshape"),
    ({"x_train": rng.integers(0, 256, (10, 3, 8, 8), np.uint8)}, r"8 channels .*\.transpose\(0, 2, 3, 1\)"),
    ({"x_train": rng.integers(0, 256, (10, 8, 8, 5), np.uint8)}, "5 channels .*: give 1 to 4"),
    ({"x_train": IMAGES[:, :3]}, "10x3x4x3 uint8 is not square: crop or resize"),
    ({"x_train": IMAGES[:0], "y_train": LABELS[:0]}, "x_train 0x4x4x3 uint8 is empty"),
    ({"x_test": IMAGES[:5, :3, :3]}, "training images are 4x4x3 and test images 3x3x3"),
    ({"x_test": IMAGES[:5, ..., 0]}, "training images are 4x4x3 and test images 4x4x1"),
    ({"y_train": LABELS[:9]}, "x_train has 10 images, but y_train has 9 labels"),
    ({"y_train": LABELS[:, None]}, r"y_train 10x1 int64 .*y_train\.reshape\(-1\)"),
    ({"y_train": np.eye(3, dtype=int)[LABELS]}, r"y_train 10x3 int64 .*y_train\.argmax\(1\)"),
    ({"y_train": LABELS.astype(np.float64)}, "y_train 10 float64 is not of an integer type"),
    ({"y_train": LABELS > 0}, "bool is not of an integer type"),
    ({"y_train": LABELS - 1}, "y_train has the label -1: number the classes from 0"),
    ({"y_train": LABELS + 1}, "class 0 of 0..3 has no training image"),
    ({"y_train": np.where(LABELS == 1, 2**40, LABELS)}, "class 1 of 0..1099511627776 has no training image"),
    ({"y_train": np.zeros(10, int), "y_test": np.zeros(5, int)}, "only one class"),
    ({"y_test": LABELS[:5] + 1}, "y_test has the label 3, but there are 3 classes, 0..2"),
    ({"class_names": ["a", "b"]}, "y_train has the label 2, but there are 2 classes"),
    ({"class_names": ["a", "b", "c", "d"]}, "there are 4 class names, but y_train has the labels 0..2"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_wrong_arrays(changes: dict[str, Any], message: str) -> None:
    refused(f"toy: .*{message}" if "toy" not in message else message, Dataset.from_arrays, "toy", **arrays(**changes))


# --------------------------------------------------------------------- npz


def test_npz(tmp_path: Path) -> None:
    whole = arrays()
    np.savez_compressed(tmp_path / "toy.npz", **whole, class_names=np.array(["ant", "bee", "cat"]), other=np.zeros(3))
    data = load(f"npz:{tmp_path / 'toy.npz'}")
    assert data.name == "npz:toy.npz" and data.class_names == ("ant", "bee", "cat")
    np.testing.assert_array_equal(data.x_train, whole["x_train"])
    np.savez(tmp_path / "bytes.npz", **whole, class_names=np.array([b"ant", b"bee", b"cat"]))
    assert load(f"npz:{tmp_path / 'bytes.npz'}").class_names == ("ant", "bee", "cat")
    np.savez(tmp_path / "plain.npz", **whole)
    assert load(f"npz:{tmp_path / 'plain.npz'}").class_names == ("0", "1", "2")


def test_wrong_npz(tmp_path: Path) -> None:
    def write(**changes: Any) -> str:
        np.savez(tmp_path / "toy.npz", **{key: x for key, x in arrays(**changes).items() if x is not None})
        return f"npz:{tmp_path / 'toy.npz'}"

    refused("no file .*nowhere.npz", load, f"npz:{tmp_path / 'nowhere.npz'}")
    refused("cannot read .*directory", load, f"npz:{tmp_path}")
    refused("write npz:PATH", load, "npz:")
    refused("has no y_train, y_test .it has x_train, x_test.: write the", load, write(y_train=None, y_test=None))
    refused("npz:toy.npz: x_train .*multiply .* by 255", load, write(x_train=IMAGES / 255))
    refused("class_names .*one string per class", load, write(class_names=np.zeros(3)))
    refused("pickled objects are never loaded", load, write(class_names=np.array(["a", {}, None], object)))
    for data in (b"", b"x_train,y_train\n1,2\n", b"\x93NUMPY\x01\x00"):
        (tmp_path / "text.npz").write_bytes(data)
        refused("is not an npz file", load, f"npz:{tmp_path / 'text.npz'}")


def test_encrypted_npz(tmp_path: Path) -> None:
    path = tmp_path / "toy.npz"
    np.savez(path, **arrays())
    data = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + flags] |= 1
    path.write_bytes(data)
    refused("toy.npz is damaged .*encrypted", load, f"npz:{path}")


def test_no_object_in_an_npz_is_ever_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    trap = np.empty(10, object)
    trap[:] = Trap()
    np.savez(tmp_path / "trap.npz", **arrays(y_train=trap))
    refused("pickled objects", load, f"npz:{tmp_path / 'trap.npz'}")
    assert not (tmp_path / "sprung").exists()


def test_damaged_npz(tmp_path: Path) -> None:
    """A truncated file is refused. A file with changed bytes is refused or gives the original data."""
    path = tmp_path / "toy.npz"
    np.savez_compressed(path, **arrays())
    whole, expected = path.read_bytes(), load(f"npz:{path}").fingerprint
    damage = np.random.default_rng(0)
    for size in damage.integers(0, len(whole), 40):
        path.write_bytes(whole[:size])
        refused(str(path), load, f"npz:{path}")
    for _ in range(150):
        changed = bytearray(whole)
        changed[damage.integers(len(whole))] ^= int(damage.integers(1, 256))
        path.write_bytes(changed)
        try:
            assert load(f"npz:{path}").fingerprint == expected
        except RequestError as error:
            assert "\n" not in str(error)


def test_names_of_classes_are_a_list() -> None:
    x = np.zeros((2, 4, 4), np.uint8)
    with pytest.raises(RequestError, match="mine: class_names is the text 'ab', not a list: give a list of names"):
        Dataset.from_arrays("mine", x, np.arange(2), x, np.arange(2), class_names="ab")
    assert Dataset.from_arrays("mine", x, np.arange(2), x, np.arange(2), class_names=["a", "a"]).classes == 2
