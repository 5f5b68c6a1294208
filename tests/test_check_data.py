"""Tests which data sets belong to a distilled set, by its card alone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from distill_jax.check_data import check_same_data, dataset_of
from distill_jax.types import RequestError

NAMES = ["cat", "dog", "emu"]


def a_set(zca: object = None, shape: tuple[int, ...] = (8, 8, 3), **card: Any) -> Any:
    return SimpleNamespace(card={"class_names": NAMES, **card}, zca=zca, shape=shape)


def data(whitening: object = None, names: list[str] = NAMES, fingerprint: str = "f1") -> Any:
    return SimpleNamespace(
        shape=(8, 8, 3), whitening=whitening, class_names=tuple(names), classes=len(names), name="photos",
        fingerprint=fingerprint,
    )  # fmt: skip


def test_a_card_names_its_data_and_classes(tmp_path: Path) -> None:
    assert dataset_of(a_set(dataset="cifar10"), "x.npz") == ("cifar10", None)
    assert dataset_of(a_set(dataset="zca:cifar10", subset=["3", "5"]), "x.npz") == ("zca:cifar10", ("3", "5"))
    (tmp_path / "a.npz").touch()
    for prefix in ("npz", "zca:npz", "folder", "hf"):
        here, gone = f"{prefix}:{tmp_path / 'a.npz'}", f"{prefix}:{tmp_path / 'b.npz'}"
        assert dataset_of(a_set(dataset=here), "x.npz") == (here, None)
        with pytest.raises(RequestError, match="there is no .*b.npz here: give --dataset"):
            dataset_of(a_set(dataset=gone), "x.npz")
    cards: tuple[dict[str, Any], ...] = ({}, {"dataset": None}, {"dataset": ""})
    for card in cards:
        with pytest.raises(RequestError, match="the card of x.npz names no data set: give --dataset"):
            dataset_of(a_set(**card), "x.npz")


@pytest.mark.parametrize(
    ("distilled", "real", "said"),
    [
        (a_set(shape=(4, 4, 3)), data(), "photos has images 8x8x3, but x.npz has 4x4x3"),
        (a_set(zca=1), data(), "photos is not whitened: give --dataset zca:photos"),
        (a_set(), data(whitening=1), "photos is whitened, but x.npz was not distilled from whitened images: leave out"),
        (
            a_set(),
            data(names=["cat", "dog"]),
            r"classes \(2: cat, dog, ...\) than x.npz \(3: cat, dog, emu, ...\)",
        ),
        (a_set(), data(names=["dog", "cat", "emu"]), "has other classes"),
        (a_set(part_of=[*NAMES, "fox"]), data(names=[*NAMES, "fox"]), "x.npz holds 3 of the 4 classes of photos"),
    ],
)
def test_data_that_a_set_does_not_fit_are_refused(distilled: Any, real: Any, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        check_same_data(distilled, "x.npz", real, "photos")


def test_other_images_of_the_same_classes_are_allowed_with_a_warning() -> None:
    for distilled, real in ((a_set(data="f1"), data()), (a_set(), data()), (a_set(zca=1), data(whitening=2))):
        assert check_same_data(distilled, "x.npz", real, "photos") == ""
    said = check_same_data(a_set(data="f0"), "x.npz", data(), "photos")
    assert said == "x.npz was distilled from other images than photos (fingerprints f0 and f1)"
    part = a_set(data="f0", part_of=[*NAMES, "fox"])
    assert check_same_data(part, "x.npz", data(), "photos") == "", "a part has the fingerprint of the whole data"
