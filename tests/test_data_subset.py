"""Tests the selection of classes: every way to name them, and every source of data."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distill_jax.data import LISTS, Dataset, count_classes, load, whitened
from distill_jax.data.subset import class_lists
from tests.test_data import refused

rng = np.random.default_rng(0)
NAMES = ["ant", "bee", "cat", "dog"]
TRAIN, TEST = np.array([3, 0, 1, 2, 3, 0, 2, 2]), np.array([1, 3, 2, 0, 3])


def toy(names: list[str] = NAMES) -> Dataset:
    """Return a data set whose training image i is the constant i and whose test image i is 100 + i."""
    images = [np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None], (n, 4, 4)) for n in (len(TRAIN), len(TEST))]
    return Dataset.from_arrays("toy", images[0], TRAIN, 100 + images[1], TEST, names)


def pixels(images: np.ndarray) -> list[int]:
    return images[:, 0, 0, 0].tolist()


# ------------------------------------------------------------------ by name and by number


def test_classes_are_renumbered_in_the_order_given_and_images_stay_in_theirs() -> None:
    part = toy().only(["dog", "bee"])
    assert part.class_names == ("dog", "bee") and part.classes == 2 and part.name == "toy[dog,bee]"
    assert pixels(part.x_train) == [0, 2, 4] and part.y_train.tolist() == [0, 1, 0]
    assert pixels(part.x_test) == [100, 101, 104] and part.y_test.tolist() == [1, 0, 0]
    assert part.y_train.dtype == part.y_test.dtype == np.int32
    np.testing.assert_array_equal(part.counts, [2, 1])
    assert len({part.fingerprint, toy().fingerprint, toy().only(["bee", "dog"]).fingerprint}) == 3
    assert part.fingerprint == toy().only(["3", "1"]).fingerprint
    real = part.real_data()
    assert real.classes == 2
    np.testing.assert_allclose(real.normaliser.mean, [2 / 255], rtol=1e-6)


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["3", "cat"], "dog cat"),
        (["1:3"], "bee cat"),
        (["2:4", "ant"], "cat dog ant"),
        (["0:4"], "ant bee cat dog"),
        (["0:1", "2"], "ant cat"),
    ],
)
def test_numbers_and_ranges(words: list[str], names: str) -> None:
    assert toy().only(words).class_names == tuple(names.split())


def test_a_class_name_may_be_a_number_or_the_name_of_a_list() -> None:
    assert toy(["0", "1", "2", "3"]).only(["3", "1:3"]).class_names == ("3", "1", "2")
    numbers = toy(["1", "10", "2", "3"])
    assert numbers.only(["2", "10"]).class_names == ("2", "10")
    refused(r"toy: 1:3 is ambiguous, because its class 1 has another number: use names", numbers.only, ["1:3"])
    refused(r"toy\[5,7\]: 0:2 is ambiguous", toy(["5", "6", "7", "x"]).only(["5", "7"]).only, ["0:2"])
    assert toy(["1:3", "imagenet10", "c", "d"]).only(["1:3", "imagenet10"]).class_names == ("1:3", "imagenet10")
    refused("imagenet10 is only one class", toy(["1:3", "imagenet10", "c", "d"]).only, ["imagenet10"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cat", "dgo"], "^toy has no class 'dgo': did you mean dog?"),
        (["cat", "xyzzy"], "^toy has no class 'xyzzy': choose one of ant bee cat dog"),
        (["cat", "dog", "cat"], "^toy: the class cat is named twice: name each class once"),
        (["cat", "1:4"], "^toy: the class cat is named twice"),
        (["cat"], "^toy: cat is only one class: name at least two"),
        ([], "^toy: no class is named: name at least two"),
        (["2", "4"], "^toy has no class 4: its classes are 0 to 3"),
        (["0:5"], "^toy has no class 4, which 0:5 includes"),
        (["2:2"], "^toy: 2:2 is an empty range: write FIRST:END"),
        (["-1", "0"], "^toy has no class '-1'"),
        (["imagewof"], "^toy has no class 'imagewof': did you mean imagewoof?"),
        (["imagenet10", "cat"], "^imagenet10 is a list of classes: name it alone"),
        (["imagenet10"], "^toy lacks 10 of the 10 classes of imagenet10, such as n02869837: use imagenet2012"),
        (["imagewoof"], "^imagewoof needs a data set of all 1000 classes .* which toy is not: use imagenet2012"),
    ],
)
def test_wrong_words_are_refused(words: list[str], message: str) -> None:
    refused(message, toy().only, words)


def test_two_classes_of_one_name_and_no_test_images() -> None:
    refused(
        "toy has 2 classes named 'ant': give each class its own name", toy(["ant", "ant", "c", "d"]).only, ["ant", "c"]
    )
    assert toy(["ant", "ant", "c", "d"]).only(["0", "1"]).classes == 2
    x = np.zeros((3, 4, 4), np.uint8)
    data = Dataset.from_arrays("toy", x, np.arange(3), x[:1], np.array([2]))
    refused(r"toy\[0,1\]: the test part has no image of these classes", data.only, ["0", "1"])


def test_the_name_stays_short_and_hints_too() -> None:
    assert toy().only(["0:2", "3"]).name == "toy[0:2,3]"
    x = np.zeros((300, 4, 4), np.uint8)
    many = Dataset.from_arrays("many", x, np.arange(300), x, np.arange(300))
    assert many.only(list(map(str, range(200)))).name == "many[0,1,...,199]"
    refused("^many has no class 'xyzzy': choose from its 300 classes 0, 1, 2, ..., 299$", many.only, ["0", "xyzzy"])


# ------------------------------------------------------------------ published lists


@pytest.fixture(scope="module")
def imagenet() -> Dataset:
    """Return 1000 classes with WordNet ids, which include the lists, with image i of class i in both parts."""
    ids = {str(name) for which in ("imagenet10", "imagenet100") for name in class_lists()[which]}
    names = sorted([*ids, *(f"n{i:08d}" for i in range(1000 - len(ids)))])
    x = np.zeros((1000, 4, 4, 3), np.uint8)
    x[:, 0, 0] = np.stack([np.arange(1000) // 256, np.arange(1000) % 256, np.zeros(1000)], 1)
    return Dataset.from_arrays("imagenet2012", x, np.arange(1000), x, np.arange(1000), names)


def test_the_lists_are_whole() -> None:
    lists = class_lists()
    assert tuple(lists) == LISTS
    for name, members in lists.items():
        assert len(set(members)) == len(members) == (100 if name == "imagenet100" else 10)
    assert lists["imagenet100"][:10] == lists["imagenet10"]
    assert lists["imagenet10"][0] == "n02869837" and lists["imagenette"] == (
        0,
        217,
        482,
        491,
        497,
        566,
        569,
        571,
        574,
        701,
    )
    assert all(re.fullmatch(r"n\d{8}", str(name)) for name in lists["imagenet100"])
    assert all(isinstance(n, int) and 0 <= n < 1000 for name in LISTS[2:] for n in lists[name])


@pytest.mark.parametrize("which", LISTS)
def test_published_lists(which: str, imagenet: Dataset) -> None:
    members, part = class_lists()[which], imagenet.only([which])
    names = [imagenet.class_names[m] if isinstance(m, int) else m for m in members]
    assert list(part.class_names) == names and part.name == f"imagenet2012[{which}]"
    for x, y in ((part.x_train, part.y_train), (part.x_test, part.y_test)):
        places = (x[:, 0, 0, 0].astype(int) * 256 + x[:, 0, 0, 1]).tolist()
        assert places == sorted(places) and [imagenet.class_names[p] for p in places] == [names[label] for label in y]
    assert part.only(["1", names[0]]).class_names == (names[1], names[0])
    if which == "imagenet100":
        assert part.only(["imagenet10"]).class_names == part.class_names[:10]


def test_wordnet_ids_and_lists_elsewhere(imagenet: Dataset) -> None:
    assert imagenet.only(["n02869837", "n01749939"]).class_names == ("n02869837", "n01749939")
    refused("imagenet2012 has no class 'n0286983': did you mean n", imagenet.only, ["n0286983", "n01749939"])
    places = imagenet.only(["0:999"])
    refused("imagefruit needs a data set of all 1000 classes", places.only, ["imagefruit"])
    names = list(imagenet.class_names)
    swapped = Dataset.from_arrays(
        "swapped", imagenet.x_train, imagenet.y_train, imagenet.x_test, imagenet.y_test, names[::-1]
    )
    refused("imagefruit needs a data set of all 1000 .* swapped is not", swapped.only, ["imagefruit"])
    assert swapped.only(["imagenet10"]).classes == 10


# ------------------------------------------------------------------ sources


def test_digits_and_zca() -> None:
    part = load("digits", only=["3", "0:2"])
    assert part.class_names == ("3", "0", "1") and part.fingerprint == load("digits").only(["3", "0", "1"]).fingerprint
    white = load("zca:digits", only=["3", "0:2"])
    assert white.name == "zca:digits[3,0:2]" and white.fingerprint == whitened(part).fingerprint
    after = load("zca:digits").only(["3", "0:2"])
    assert after.fingerprint != white.fingerprint and after.whitening is not None


def test_npz(tmp_path: Path) -> None:
    data, path = toy(), tmp_path / "toy.npz"
    parts = {key: getattr(data, key) for key in ("x_train", "y_train", "x_test", "y_test")}
    np.savez(path, **parts, class_names=np.array(NAMES))  # type: ignore[arg-type]
    part = load(f"npz:{path}", only=["dog", "0"])
    assert part.name == "npz:toy.npz[dog,0]" and part.fingerprint == data.only(["dog", "ant"]).fingerprint
    refused("did you mean dog", load, f"npz:{path}", only=["dig", "ant"])


def test_folder_leaves_other_classes_unread(tmp_path: Path) -> None:
    for split, labels in (("train", TRAIN), ("test", TEST)):
        for i, label in enumerate(labels):
            path = tmp_path / split / NAMES[label] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((4, 4), i, np.uint8)).save(path)
    whole = load(f"folder:{tmp_path}")
    for file in (tmp_path / "train" / "cat").iterdir():
        file.write_bytes(b"no image")
    part = load(f"folder:{tmp_path}", only=["dog", "bee"])
    assert part.class_names == ("dog", "bee") and part.name == f"folder:{tmp_path.name}[dog,bee]"
    assert part.fingerprint == whole.only(["dog", "bee"]).fingerprint
    refused("no training image of cat can be read", load, f"folder:{tmp_path}")
    refused("did you mean dog", load, f"folder:{tmp_path}", only=["dig", "bee"])


def test_tfds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorflow_datasets")
    from tests.test_data_tfds import prepare

    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    prepare("fake_colour", tmp_path)
    prepare("fake_grey", tmp_path)
    for name in ("fake_colour", "fake_grey"):
        part, whole = load(name, only=["cat", "ant"]), load(name)
        assert part.class_names == ("cat", "ant") and part.name == f"{name}[cat,ant]"
        assert part.shape == whole.shape and part.fingerprint == whole.only(["cat", "ant"]).fingerprint
    refused("fake_colour has no class 'cot': did you mean cat", load, "fake_colour", only=["cot", "ant"])


def test_tfds_says_that_a_class_is_unknown_before_it_prepares_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorflow_datasets")
    from tests.test_data_tfds import without

    without("tensorflow", monkeypatch)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    refused("imagenet2012 has no class 'n0286983'", load, "imagenet2012", only=["n0286983", "n01749939"])
    refused("^imagenet2012 is not in .* yet, and preparing it once needs", load, "imagenet2012", only=["imagewoof"])


# ------------------------------------------------------------------ unknown names


def test_counting_classes_whose_names_are_not_known() -> None:
    assert [count_classes("imagenet2012", 1000, [name]) for name in LISTS] == [10, 100] + 6 * [10]
    assert count_classes("cifar10", 10, ["cat", "0:3", "7"]) == 5
    for words, message in [
        (["cat"], "only one class"),
        (["cat", "cat"], "cat is named twice"),
        (["0:3", "2"], "2 is named twice"),
        (["0:11"], "no class 10"),
        (["cat", "imagewoof"], "name it alone"),
        (["a", "b", "0:9"], "has 10 classes, not 11"),
    ]:
        refused(message, count_classes, "cifar10", 10, words)
