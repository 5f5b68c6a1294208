"""Tests the cache of decoded photographs: when it is used again, and when it is invalid."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import numpy as np
import pytest

from distill_jax.data import cache, load, photos
from tests.test_data_photos import album, read_one


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return a list that collects the paths of decoded files."""
    paths: list[Path] = []
    decode = photos.decode_image

    def noted(path: Path, side: int, channels: int) -> np.ndarray:
        paths.append(path)
        return decode(path, side, channels)

    monkeypatch.setattr(photos, "decode_image", noted)
    return paths


def test_a_second_start_decodes_nothing(tmp_path: Path, decoded: list[Path]) -> None:
    first = load(f"folder:{album(tmp_path)}", 8)
    assert len(decoded) == 20
    again = load(f"folder:{tmp_path}", 8)
    assert len(decoded) == 20 and again.fingerprint == first.fingerprint
    assert (again.notes, again.origin, again.class_names) == (first.notes, first.origin, first.class_names)
    load(f"folder:{tmp_path}", 4)
    assert len(decoded) == 40


def test_the_default_side_is_decoded_once(tmp_path: Path, decoded: list[Path]) -> None:
    """``evaluate`` asks for the side of the set, which ``distill`` may have left to the default."""
    first = load(f"folder:{album(tmp_path)}")
    again = load(f"folder:{tmp_path}", first.shape[0])
    assert len(decoded) == 20 and again.fingerprint == first.fingerprint
    load(f"folder:{tmp_path}", first.shape[0] // 2)
    assert len(decoded) == 40


def test_changed_files_are_decoded_anew(tmp_path: Path, decoded: list[Path]) -> None:
    first = load(f"folder:{album(tmp_path)}", 8)
    os.utime(tmp_path / "ant" / "00.png", ns=(1, 1))
    assert load(f"folder:{tmp_path}", 8).fingerprint == first.fingerprint and len(decoded) == 40
    (tmp_path / "ant" / "00.png").unlink()
    load(f"folder:{tmp_path}", 8)
    assert len(decoded) == 59
    assert len(list(cache.folder().glob(f"{tmp_path.name}-*.npy"))) == 1  # one cache per folder and side


@pytest.mark.parametrize("suffix", [".npy", ".json"])
def test_damaged_caches_are_made_again(tmp_path: Path, decoded: list[Path], suffix: str) -> None:
    first = load(f"folder:{album(tmp_path)}", 8)
    (path,) = cache.folder().glob(f"{tmp_path.name}-*{suffix}")
    whole = path.read_bytes()
    damage = [b"", whole[:100], whole[:-1], b"?" * len(whole)]
    for place in (5, len(whole) // 2, len(whole) - 4):
        damage.append(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    for number, content in enumerate(damage, 2):
        path.unlink()  # the old cache is mapped into memory
        path.write_bytes(content)
        assert load(f"folder:{tmp_path}", 8).fingerprint == first.fingerprint
        assert len(decoded) == 20 * number and path.read_bytes() == whole


def test_rows_of_damaged_files_are_removed(tmp_path: Path) -> None:
    """The remaining images are contiguous, both after decoding and when read from the cache."""
    album(tmp_path / "train")
    album(tmp_path / "test", 2)
    for path in ("train/ant/03.png", "test/ant/00.png"):
        (tmp_path / path).write_text("not an image")
    for _ in range(2):
        data = load(f"folder:{tmp_path}", 8)
        assert data.y_train.tolist() == [0] * 9 + [1] * 10 and data.y_test.tolist() == [0, 1, 1]
        for images, place, path in (
            (data.x_train, 3, "train/ant/04.png"), (data.x_train, 18, "train/bee/09.png"),
            (data.x_test, 0, "test/ant/01.png"), (data.x_test, 2, "test/bee/01.png"),
        ):  # fmt: skip
            np.testing.assert_array_equal(images[place], read_one(tmp_path / path, 8))


def test_a_full_disk_does_not_stop_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    data = load(f"folder:{album(tmp_path)}", 8)
    assert "No space left on device" in data.notes[-1] and not list(cache.folder().glob(f"{tmp_path.name}-*"))


def test_an_interrupted_start_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    album(tmp_path / "photos")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cache.folder().mkdir(parents=True)
    then = os.stat(tmp_path).st_mtime - 2 * cache.BEGINNING
    for name, age in (("killed.part", 0), ("busy.part", 0), ("empty.part", 0), ("old.part", cache.LEFT_OVER)):
        (cache.folder() / name).mkdir()
        if name in ("killed.part", "busy.part"):
            (cache.folder() / name / "images").touch()
        os.utime(cache.folder() / name, (then - age, then - age))

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with (cache.folder() / "busy.part" / "images").open("rb") as busy, pytest.raises(KeyboardInterrupt):
        fcntl.flock(busy, fcntl.LOCK_EX)
        load(f"folder:{tmp_path / 'photos'}", 8, tick=stop)
    assert {path.name for path in cache.folder().iterdir()} == {"busy.part", "empty.part"}


def test_a_cache_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(f"folder:{album(tmp_path / 'photos')}", 8)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    for _ in range(2):
        data = load(f"folder:{tmp_path / 'photos'}", 8)
        assert data.fingerprint == first.fingerprint and "set XDG_CACHE_HOME to another folder" in data.notes[-1]
