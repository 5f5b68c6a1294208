"""Tests data sets from folders of PNG and JPEG files: the images read, and all kinds of wrong folders."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distill_jax.data import load
from distill_jax.types import RequestError
from tests.test_data import refused

rng = np.random.default_rng(0)


def picture(path: Path, mode: str = "RGB", size: tuple[int, int] = (4, 4), **options: Any) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = {"L": (), "RGB": (3,), "RGBA": (4,), "LA": (2,)}[mode]
    pixels = rng.integers(0, 256, (*size[::-1], *channels), np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return pixels


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a folder of unbalanced classes of grey and coloured PNG and JPEG files, with other files to ignore."""
    for i in range(3):
        picture(tmp_path / "birds" / "train" / "wren" / f"{i}.png")
    picture(tmp_path / "birds" / "train" / "auk" / "only.JPEG", "L")
    picture(tmp_path / "birds" / "test" / "auk" / "0.png")
    picture(tmp_path / "birds" / "test" / "wren" / "images" / "0.jpg")
    for hidden in ("train/.DS_Store", "train/wren/.hidden.png", "train/wren/.cache/1.png", "train/.git/x/0.png"):
        picture(tmp_path / "birds" / hidden, format="png")
    (tmp_path / "birds" / "train" / "wren" / "notes.txt").write_text("shy")
    return tmp_path / "birds"


def test_folder(root: Path) -> None:
    data = load(f"folder:{root}")
    assert data.name == "folder:birds" and data.class_names == ("auk", "wren")
    assert data.shape == (4, 4, 3)
    np.testing.assert_array_equal(data.y_train, [0, 1, 1, 1])
    np.testing.assert_array_equal(data.y_test, [0, 1])
    with Image.open(root / "train" / "auk" / "only.JPEG") as image:
        np.testing.assert_array_equal(data.x_train[0], np.repeat(np.asarray(image)[..., None], 3, 2))
    with Image.open(root / "train" / "wren" / "0.png") as image:
        np.testing.assert_array_equal(data.x_train[1], np.asarray(image))


def test_folder_in_a_hidden_directory(root: Path) -> None:
    hidden = root.rename(root.parent / ".birds")
    assert load(f"folder:{hidden}").classes == 2


def test_folder_of_grey_images_and_a_validation_split(tmp_path: Path) -> None:
    one = picture(tmp_path / "train" / "a" / "0.png", "L")
    picture(tmp_path / "train" / "b" / "0.png", "LA")
    for cls in "ab":
        picture(tmp_path / "val" / cls / "0.jpg", "L")
    data = load(f"folder:{tmp_path}")
    assert data.shape == (4, 4, 1)
    np.testing.assert_array_equal(data.x_train[0, ..., 0], one)
    # test is preferred to val
    transparent = np.stack([picture(tmp_path / "test" / cls / "0.png", "RGBA") for cls in "ab"])
    again = load(f"folder:{tmp_path}")
    np.testing.assert_array_equal(again.x_test, transparent[..., :3])
    np.testing.assert_array_equal(again.y_test, [0, 1])


@pytest.mark.parametrize(
    ("train", "test"), [("Train", "Test"), ("training", "testing"), ("train", "valid"), ("TRAIN", "validation")]
)
def test_usual_names_of_the_parts(train: str, test: str, tmp_path: Path) -> None:
    for part in (train, test):
        for cls in "ab":
            picture(tmp_path / part / cls / "0.png", "L")
    data = load(f"folder:{tmp_path}")
    assert data.class_names == ("a", "b") and (len(data.y_train), len(data.y_test)) == (2, 2) and not data.notes


def test_a_class_may_have_the_name_of_a_part(tmp_path: Path) -> None:
    for cls in ("broken", "valid"):
        for number in range(2):
            picture(tmp_path / cls / f"{number}.png", "L")
    assert load(f"folder:{tmp_path}").class_names == ("broken", "valid")


def test_wrong_folders(root: Path) -> None:
    def with_change(message: str, change: Callable[[Path], object]) -> None:
        copy = root.parent / "copy"
        shutil.copytree(root, copy)
        change(copy)
        refused(message, load, f"folder:{copy}")
        shutil.rmtree(copy)

    refused("no directory .*nowhere: check", load, f"folder:{root / 'nowhere'}")
    refused("write folder:PATH", load, "folder:")
    refused("wren has no class directory with PNG or JPEG files: arrange", load, f"folder:{root / 'train/wren'}")
    with_change(r"no directory .*copy/train: arrange", lambda copy: shutil.rmtree(copy / "train"))
    with_change(
        "copy/test has no class directory with PNG or JPEG",
        lambda copy: shutil.rmtree(copy / "test") or (copy / "test").mkdir(),
    )
    with_change("test/wren holds no PNG or JPEG", lambda copy: (copy / "test/wren/images/0.jpg").unlink())
    with_change("train/auk holds no PNG or JPEG", lambda copy: (copy / "train/auk/only.JPEG").unlink())
    with_change("test/owl is a class that", lambda copy: picture(copy / "test" / "owl" / "0.png"))
    with_change("only one class", lambda copy: [shutil.rmtree(copy / part / "auk") for part in ("train", "test")])
    with_change(
        r"no training image of auk can be read, for example .*only\.JPEG .cannot identify",
        lambda copy: (copy / "train/auk/only.JPEG").write_text("not an image"),
    )


def test_enormous_images_are_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 7)
    refused("no training image of auk can be read, for example .*decompression bomb", load, f"folder:{root}")


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_damaged_images_are_named(tmp_path: Path, suffix: str) -> None:
    for path in ("train/a/0", "train/b/0", "test/a/0", "test/b/0"):
        picture(tmp_path / f"{path}.{suffix}", size=(16, 16))
    path = tmp_path / "train" / "b" / f"0.{suffix}"
    whole = path.read_bytes()
    damage = np.random.default_rng(0)
    for size in damage.integers(0, len(whole) - 40, 20):
        path.write_bytes(whole[:size])
        refused(str(path), load, f"folder:{tmp_path}")
    for _ in range(60):
        changed = bytearray(whole)
        changed[damage.integers(len(whole))] ^= int(damage.integers(1, 256))
        path.write_bytes(changed)
        try:
            load(f"folder:{tmp_path}")  # a changed pixel is not an error
        except RequestError as error:
            assert str(tmp_path) in str(error) or "not square" in str(error)
