"""Tests photographs: every kind of file, and the split."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distill_jax.cli import distill, evaluate, explain
from distill_jax.cli.request import read_data
from distill_jax.data import load, photos
from tests.test_data import refused

rng = np.random.default_rng(0)


def saved(path: Path, image: Image.Image | None = None, size: tuple[int, int] = (12, 8), **options: Any) -> Image.Image:
    """Save ``image``, by default of random colours, as the file ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = image or Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), np.uint8))
    image.save(path, **options)
    return image


def album(root: Path, count: int = 10, **options: Any) -> Path:
    for cls in ("ant", "bee"):
        for i in range(count):
            saved(root / cls / f"{i:02}.png", **options)
    return root


# ------------------------------------------------------------------ files of every kind


def read_one(path: Path, side: int | None = None) -> np.ndarray:
    plan = photos.plan_decoding([path], side)
    images = np.empty((1, plan.side, plan.side, plan.channels), np.uint8)
    assert not photos.decode_into(images, [path], plan, [path.name], "here", None)
    return images[0]


def test_every_mode_becomes_grey_or_rgb(tmp_path: Path) -> None:
    colours = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
    for mode, suffix in (("RGB", "png"), ("RGBA", "png"), ("P", "png"), ("CMYK", "jpg"), ("YCbCr", "jpg")):
        path = tmp_path / f"{mode}.{suffix}"
        saved(path, colours.convert(mode))
        with Image.open(path) as image:
            np.testing.assert_array_equal(read_one(path), np.asarray(image.convert("RGB")), err_msg=mode)
    for mode in ("L", "LA", "1"):
        path = tmp_path / f"{mode}.png"
        saved(path, colours.convert("L").convert(mode))
        with Image.open(path) as image:
            np.testing.assert_array_equal(read_one(path), np.asarray(image.convert("L"))[..., None], err_msg=mode)
    palette = colours.convert("P")
    saved(tmp_path / "clear.png", palette, transparency=bytes(range(256)))
    np.testing.assert_array_equal(read_one(tmp_path / "clear.png"), np.asarray(palette.convert("RGB")))


def test_sixteen_bits_become_eight(tmp_path: Path) -> None:
    deep = np.array([[0, 128, 129], [257, 32768, 65535], [40000, 5, 300]], np.uint16)
    saved(tmp_path / "deep.png", Image.fromarray(deep))
    np.testing.assert_array_equal(read_one(tmp_path / "deep.png")[..., 0], np.rint(deep / 257))


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_exif_orientation_is_applied(tmp_path: Path, suffix: str) -> None:
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8] = 255  # white at the top
    exif = Image.Exif()
    exif[0x0112] = 6  # EXIF orientation
    saved(tmp_path / f"a.{suffix}", Image.fromarray(pixels), exif=exif)
    upright = read_one(tmp_path / f"a.{suffix}")[..., 0]
    assert upright[:, 8:].min() > 200 and upright[:, :8].max() < 50  # rotate by 90 degrees clockwise


def test_sizes_differ(tmp_path: Path) -> None:
    pictures = [saved(tmp_path / cls / "0.png", size=size) for cls, size in (("a", (40, 30)), ("b", (20, 50)))]
    for cls, picture, size, box in zip(
        "ab", pictures, [(13, 10), (10, 25)], [(1, 0, 11, 10), (0, 7, 10, 17)], strict=True
    ):
        expected = np.asarray(picture.resize(size, Image.Resampling.BILINEAR).crop(box))
        np.testing.assert_array_equal(read_one(tmp_path / cls / "0.png", 10), expected)
    data = load(f"folder:{album(tmp_path / 'mixed')}")
    assert data.shape == (224, 224, 3) and data.origin["side"] == 224
    assert any("resized and cropped to 224x224" in note for note in data.notes)
    assert load(f"folder:{tmp_path / 'mixed'}", 16).shape == (16, 16, 3)


def test_large_photographs_are_decoded_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A JPEG is decoded at a half, a quarter or an eighth of its size, where the shorter side is still above what is
    wanted."""
    cropped = photos.resize_and_crop
    waves = np.sin(np.arange(640) / 40)
    picture = Image.fromarray(np.uint8(127 + 60 * waves[:480, None, None] + 60 * waves[None, :, None] * np.ones(3)))
    picture.save(tmp_path / "large.jpg", quality=95)
    with Image.open(tmp_path / "large.jpg") as image:
        expected = np.asarray(photos.resize_and_crop(image.convert("RGB"), 32))
    sizes: list[tuple[int, int]] = []
    monkeypatch.setattr(photos, "resize_and_crop", lambda image, side: sizes.append(image.size) or cropped(image, side))
    found = read_one(tmp_path / "large.jpg", 32)
    assert sizes == [(160, 120)]
    # Averaging blocks of frequencies almost equals averaging pixels in a smooth picture.
    assert np.abs(found.astype(int) - expected).max() <= 3


def test_memory_is_that_of_one_photograph_per_worker(tmp_path: Path) -> None:
    """Measures the peak of numpy's allocations beyond resident memory: decoded images never accumulate."""
    album(tmp_path, 40, size=(64, 64))
    tracemalloc.start()
    data = load(f"folder:{tmp_path}", 64)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert data.x_train.nbytes > 700_000 and peak < 700_000  # the images are in the memory-mapped file


def test_equal_squares_stay_as_they_are(tmp_path: Path) -> None:
    data = load(f"folder:{album(tmp_path, size=(8, 8))}")
    assert data.shape == (8, 8, 3) and "side" not in data.origin and len(data.notes) == 1  # note about the split
    smaller = load(f"folder:{tmp_path}", 4)
    assert smaller.shape == (4, 4, 3) and smaller.origin["side"] == 4


# ------------------------------------------------------------------ files that cannot be read


def test_damaged_files_are_named_and_left_out(tmp_path: Path) -> None:
    album(tmp_path, size=(32, 32))
    saved(tmp_path / "bee" / "cut.jpg", size=(64, 64))
    whole = (tmp_path / "bee" / "cut.jpg").read_bytes()
    (tmp_path / "bee" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "bee" / "text.png").write_text("not an image")
    (tmp_path / "bee" / "nowhere.png").symlink_to(tmp_path / "nowhere")
    for _ in range(2):  # decoded, and then read from the cache
        data = load(f"folder:{tmp_path}")
        assert len(data.y_train) + len(data.y_test) == 20
        assert data.origin["left_out"] == ["bee/cut.jpg", "bee/nowhere.png", "bee/text.png"]
        split = data.origin["split"]
        assert (split["train"], split["test"]) == (len(data.y_train), len(data.y_test))
        (note,) = [note for note in data.notes if "cannot be read" in note]
        assert "3 of 23 files" in note and "cut.jpg (" in note and "text.png (cannot identify image file)" in note
        assert "nowhere.png ([Errno 2] No such file or directory)" in note


def test_files_of_other_types_are_named(tmp_path: Path) -> None:
    album(tmp_path, size=(8, 8))
    for name in ("b.gif", "c.WEBP"):
        saved(tmp_path / "ant" / name)
    data = load(f"folder:{tmp_path}")
    assert len(data.y_train) + len(data.y_test) == 20
    assert "2 files of other types are ignored, such as ant/b.gif: save them as PNG" in data.notes[0]


def test_too_many_damaged_files_are_refused(tmp_path: Path) -> None:
    album(tmp_path)
    for i in range(11):
        (tmp_path / "bee" / f"x{i:02}.png").write_text("not an image")
    refused(
        r"11 or more of the 31 image files in .* such as bee/x0.*\.\.\.: repair or remove",
        load,
        f"folder:{tmp_path}",
    )
    (tmp_path / "bee" / "x00.png").unlink()
    assert len(load(f"folder:{tmp_path}").origin["left_out"]) == 10


# ------------------------------------------------------------------ the split


def test_a_folder_without_a_test_part_is_split(tmp_path: Path) -> None:
    album(tmp_path / "flat", size=(4, 4))
    (tmp_path / "flat" / "notes.txt").write_text("not a class")
    album(tmp_path / "half" / "train", size=(4, 4))
    for name in ("flat", "half"):
        data = load(f"folder:{tmp_path / name}")
        assert np.bincount(data.y_train).tolist() == [8, 8] and np.bincount(data.y_test).tolist() == [2, 2]
        assert data.origin["split"] == {"held_out": 0.2, "train": 16, "test": 4}
        assert "has no test part: 4 of 20 images, a fifth of each class, are held out for testing" in data.notes[-1]


def test_the_split_of_a_class_is_the_same_among_others(tmp_path: Path) -> None:
    for cls in ("ant", "bee", "cat"):
        for i in range(7):
            saved(tmp_path / cls / f"{i}.png", size=(4, 4))
    whole, part = load(f"folder:{tmp_path}"), load(f"folder:{tmp_path}", only=["cat", "bee"])
    assert part.fingerprint == whole.only(["cat", "bee"]).fingerprint


def test_added_files_do_not_change_the_split(tmp_path: Path) -> None:
    """One more file moves at most one file to the other part."""

    def test_images() -> set[bytes]:
        return {image.tobytes() for image in load(f"folder:{tmp_path}").x_test}

    album(tmp_path, 20, size=(4, 4))
    before = test_images()
    saved(tmp_path / "ant" / "new.png", size=(4, 4))
    after = test_images()
    assert len(before) == len(after) == 8 and len(before - after) <= 1


def test_a_class_must_be_in_both_parts(tmp_path: Path) -> None:
    album(tmp_path / "train", 3, size=(4, 4))
    saved(tmp_path / "test" / "ant" / "0.png", size=(4, 4))
    refused("test/bee is missing: add it, or remove .*test to split", load, f"folder:{tmp_path}")
    (tmp_path / "test" / "bee").mkdir()
    refused("test/bee holds no PNG or JPEG file: add some, or remove .*test to split", load, f"folder:{tmp_path}")
    (tmp_path / "test" / "bee" / "0.jpg").write_text("not an image")
    refused("no test image of bee can be read, for example .*0.jpg .cannot identify", load, f"folder:{tmp_path}")
    saved(tmp_path / "test" / "bee" / "1.jpg", size=(4, 4))
    assert load(f"folder:{tmp_path}").y_test.tolist() == [0, 1]


def test_one_image_cannot_be_split(tmp_path: Path) -> None:
    album(tmp_path, 2, size=(4, 4))
    (tmp_path / "bee" / "00.png").unlink()
    refused("bee holds only one image, so none is left for testing: add images", load, f"folder:{tmp_path}")


# ------------------------------------------------------------------ runners

TINY = ["--ipc", "1", "--outer-steps", "1", "--inner-steps", "1", "--net.width", "4", "--net.depth", "1"]
TINY += ["--repeats", "1", "--protocol.epochs", "1", "--augment", "none", "--protocol.augment", "none"]


def test_forty_photographs_are_distilled_and_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for cls in ("ant", "bee"):
        for i in range(20):
            saved(tmp_path / "photos" / cls / f"{i}.jpg", size=(20 + i, 30))
    run, name = tmp_path / "run", f"folder:{tmp_path / 'photos'}"
    assert distill.main(["dm", name, "--side", "16", *TINY, "--baselines", "--workdir", str(run)]) == 0
    said = capsys.readouterr().err
    assert "cropped to 16x16" in said and "no test part: 8 of 40 images" in said
    about = json.loads((run / "config.json").read_text())["data"]
    assert about["shape"] == [16, 16, 3] and about["side"] == 16 and about["split"]["train"] == 32
    read_data.print_once.cache_clear()
    assert evaluate.main([str(run), "--dataset", name, "--repeats", "1", "--epochs", "1"]) == 0
    assert "cropped to 16x16" in capsys.readouterr().err  # the side of the set


@pytest.mark.parametrize("runner", [distill, explain])
def test_a_wrong_side_is_refused(runner: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert runner.main(["dm", "digits", "--side", "16"]) == 2
    assert "digits has images 8x8, and --side is only for folder:" in capsys.readouterr().err
    assert runner.main(["dm", "digits", "--side", "0"]) == 2


def test_explain_knows_the_side(capsys: pytest.CaptureFixture[str]) -> None:
    assert explain.main(["dm", "imagenette", "--side", "64", "--net", "convnet"]) == 0
    assert "uint8 [9469, 64, 64, 3]" in capsys.readouterr().out
