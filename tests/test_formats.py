"""Tests export and import: a set that is exported and imported again is unchanged."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax.axes.parameterisation import MultiFormation, Pixels
from distill_jax.cli.session.optimise import rounded
from distill_jax.data import load, whitened
from distill_jax.distilled import DistilledSet
from distill_jax.formats import FORMATS, Contents, Format, encode, read, write
from distill_jax.formats.png import folder_names
from distill_jax.formats.torch_file import dumps
from distill_jax.types import RequestError
from tests.sets import IPC, PACKED, SIDE, TOLD, C, equal, made, softened


@pytest.fixture(autouse=True)
def parquet(request: pytest.FixtureRequest) -> None:
    if "huggingface" in request.node.name:
        pytest.importorskip("pyarrow")


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("how", [Pixels(), Pixels("normalised"), PACKED, MultiFormation(2, "bound", 6)])
def test_an_export_imports_unchanged(tmp_path: Path, name: str, how: Any) -> None:
    form, distilled = FORMATS[name], made(how)
    arrived = write(distilled, form, tmp_path / "out")
    equal(read(form, tmp_path / "out"), arrived)
    assert arrived.card["packed"] == (form.packed_by_custom and how.factor > 1)
    assert arrived.card["space"] == form.space and arrived.card["method"] == "acc_dd"
    # If the space is the same, these are exactly the images on which networks train.
    (before, labels), (after, same) = (x.arrays(normalised=form.space == "normalised") for x in (distilled, arrived))
    np.testing.assert_array_equal(labels, same)
    if form.lossless:
        np.testing.assert_array_equal(after, before)
    else:
        np.testing.assert_allclose(after, np.clip(before, 0, 1), atol=0.5 / 255 + 1e-6)


@pytest.mark.parametrize("name", FORMATS)
def test_an_export_says_whether_it_is_packed(tmp_path: Path, name: str) -> None:
    form = FORMATS[name]
    assert write(made(), form, tmp_path / "decoded", packed=False).card["packed"] is False
    card = json.loads((tmp_path / "decoded" / "card.json").read_text(encoding="utf-8"))
    assert (card["packed"], card["factor"], card["ipc"]) == (False, 1, 5 * IPC)
    if not form.packed:
        with pytest.raises(RequestError, match="decoded"):
            write(made(), form, tmp_path / "packed", packed=True)
        return
    arrived = write(made(), form, tmp_path / "packed", packed=True)
    assert (arrived.card["packed"], arrived.card["ipc"], arrived.parameterisation) == (True, IPC, PACKED)
    np.testing.assert_allclose(arrived.arrays()[0], made().arrays()[0], atol=0.5 / 255 / min(TOLD["std"]) + 1e-5)


@pytest.mark.parametrize("name", FORMATS)
def test_soft_labels_are_exported_if_the_format_has_them(tmp_path: Path, name: str) -> None:
    form, distilled = FORMATS[name], softened(made()).with_card(score={"mean": 50.0})
    if not form.soft:
        with pytest.raises(RequestError, match="soft labels"):
            write(distilled, form, tmp_path / "out", packed=False)
        return
    write(distilled, form, tmp_path / "out")
    arrived = read(form, tmp_path / "out")
    np.testing.assert_array_equal(arrived.targets(), distilled.targets())
    assert arrived.card["labels"] == "soft"
    assert arrived.card["score"] == ({"mean": 50.0} if form.lossless else None)


def test_soft_labels_that_favour_another_class_need_a_format_in_class_order() -> None:
    distilled = made(Pixels())
    distilled = distilled.with_soft(0.75 * distilled.targets()[::-1] + 0.25 / C)
    np.testing.assert_array_equal(encode(distilled, FORMATS["dd-ranking"])[1].targets(), distilled.targets())
    with pytest.raises(RequestError, match="cannot carry"):
        encode(distilled, FORMATS["mtt"])


def test_a_learned_rate_is_exported(tmp_path: Path) -> None:
    write(made().with_card(rate=0.015625), FORMATS["dd-ranking"], tmp_path / "out")
    (tmp_path / "out" / "card.json").unlink()
    assert read(FORMATS["dd-ranking"], tmp_path / "out", **TOLD).card["rate"] == 0.015625
    assert not any("lr.pt" in name for name in encode(made(), FORMATS["dd-ranking"])[0])


def test_a_learned_rate_is_one_number_above_zero(tmp_path: Path) -> None:
    write(made().with_card(rate=0.5), FORMATS["dd-ranking"], tmp_path / "out")
    (tmp_path / "out" / "card.json").unlink()
    for held in (0.25, np.array([0.25], np.float32), np.array(0.25, jnp.bfloat16)):
        (tmp_path / "out" / "lr.pt").write_bytes(dumps(held))
        assert read(FORMATS["dd-ranking"], tmp_path / "out", **TOLD).card["rate"] == 0.25
    for held in (np.array([0.5, 0.25]), np.nan, np.inf, 0.0, -0.5, "0.5", None, [0.5, 0.25]):
        (tmp_path / "out" / "lr.pt").write_bytes(dumps(held))
        with pytest.raises(RequestError, match=r"lr\.pt holds no learning rate: give one number above 0"):
            read(FORMATS["dd-ranking"], tmp_path / "out", **TOLD)


def test_huggingface_gets_distinct_class_names(tmp_path: Path) -> None:
    names = ["crane", "dog", "crane"]
    write(made().with_card(class_names=names), FORMATS["huggingface"], tmp_path)
    assert read(FORMATS["huggingface"], tmp_path).card["class_names"] == names
    (tmp_path / "card.json").unlink()
    told = {key: value for key, value in TOLD.items() if key != "class_names"}
    found = read(FORMATS["huggingface"], tmp_path, **told, factor=1)
    assert found.card["class_names"] == ["crane (0)", "dog", "crane (2)"]


@pytest.mark.parametrize("name", FORMATS)
def test_without_a_card_the_user_must_describe_the_set(tmp_path: Path, name: str) -> None:
    form = FORMATS[name]
    arrived = write(made(), form, tmp_path / "out", packed=False)
    (tmp_path / "out" / "card.json").unlink()
    told = dict(TOLD, factor=1) if form.packed else TOLD
    found = read(form, tmp_path / "out", **told)
    np.testing.assert_array_equal(found.images, arrived.images)
    assert "method" not in found.card
    for key in told:
        if (name, key) in (("png", "class_names"), ("huggingface", "class_names")):
            continue  # its files contain them
        with pytest.raises(RequestError, match=f"lack .*: give {key}"):
            read(form, tmp_path / "out", **{**told, key: None})


def test_the_real_data_give_what_is_missing_except_the_normalisation(tmp_path: Path) -> None:
    data = load("digits")
    images = np.random.default_rng(0).random((10, 1, 8, 8)).astype(np.float32)
    (tmp_path / "data.pt").write_bytes(dumps([images, np.arange(10)]))
    found = read(FORMATS["idc"], tmp_path / "data.pt", factor=1, dataset=data)
    np.testing.assert_array_equal(found.mean, data.mean)
    assert found.card["class_names"] == list(data.class_names)
    with pytest.raises(RequestError, match="give factor"):
        read(FORMATS["idc"], tmp_path / "data.pt", dataset=data)
    (tmp_path / "res_DM.pt").write_bytes(dumps({"data": [[images, np.arange(10)]]}))
    with pytest.raises(RequestError, match="give mean"):
        read(FORMATS["dc"], tmp_path / "res_DM.pt", dataset=data)
    found = read(FORMATS["dc"], tmp_path / "res_DM.pt", dataset=data, mean=(0.5,), std=(0.25,))
    assert found.card["mean"] == [0.5]


def test_what_is_given_takes_precedence_over_the_real_data(tmp_path: Path) -> None:
    data, white = load("digits"), whitened(load("digits"))
    images, names = np.random.default_rng(0).random((10, 1, 8, 8)).astype(np.float32), list("ABCDEFGHIJ")
    (tmp_path / "data.pt").write_bytes(dumps([images, np.arange(10)]))
    (tmp_path / "images_best.pt").write_bytes(dumps(images))
    (tmp_path / "labels_best.pt").write_bytes(dumps(np.arange(10)))
    told: Any = {"class_names": names, "mean": (0.25,), "std": (0.75,)}
    for name, real in (("idc", data), ("mtt", white)):
        card = read(FORMATS[name], tmp_path, factor=1, dataset=real, **told).card
        assert (card["class_names"], card["mean"], card["std"]) == (names, [0.25], [0.75])
        (tmp_path / "card.json").write_text(json.dumps({**told, "class_names": names[::-1]}))
        card = read(FORMATS[name], tmp_path, factor=1, std=(0.5,), dataset=real).card
        assert (card["class_names"], card["mean"], card["std"]) == (names[::-1], [0.25], [0.5])
        (tmp_path / "card.json").unlink()


def test_only_pixels_that_are_still_multiples_of_eight_bits_are_said_to_be() -> None:
    plain, packed = made(Pixels()).with_card(bits=8), made().with_card(bits=8)
    for distilled, name, how, bits in (
        (plain, "idc", None, True), (plain, "mtt", None, False), (packed, "idc", True, True),
        (packed, "idc", False, False), (packed, "mtt", None, False),
    ):  # fmt: skip
        exported = encode(distilled, FORMATS[name], how)[1]
        assert ("bits" in exported.card) == bits


def test_the_score_of_a_set_stays_if_its_images_do() -> None:
    score = {"mean": 50.0}
    eight = rounded(made(Pixels())).with_card(score=score)
    assert encode(eight, FORMATS["png"])[1].card["score"] == score
    assert encode(made(Pixels()).with_card(score=score), FORMATS["png"])[1].card["score"] is None
    assert "score" not in encode(made(Pixels()), FORMATS["png"])[1].card
    assert encode(made(Pixels()).with_card(score=score), FORMATS["mtt"])[1].card["score"] == score


def test_an_export_keeps_the_version_that_made_the_set() -> None:
    assert encode(made().with_card(library="distill_jax 0.0"), FORMATS["mtt"])[1].card["library"] == "distill_jax 0.0"


@pytest.mark.parametrize("shape", [(8, 9), (9, 8)])
def test_normalised_images_are_packed_only_if_their_cells_fill_them(shape: tuple[int, int]) -> None:
    # Decoding pads with grey, which is 0.5 as a pixel and another number when normalised.
    images = jnp.zeros((C, IPC, *shape, 3))
    normaliser = made().normaliser
    distilled = DistilledSet.of(MultiFormation(2, space="normalised"), images, tuple("abc"), normaliser, {})
    with pytest.raises(RequestError, match="factor does not divide the sides"):
        encode(distilled, FORMATS["idc"])
    assert encode(distilled, FORMATS["idc"], packed=False)[1].shape == (*shape, 3)


def test_a_user_defined_format(tmp_path: Path) -> None:
    def write_raw(contents: Contents) -> dict[str, bytes]:
        return {"images.raw": contents.images.tobytes()}

    def read_raw(files: Any) -> Contents:
        return Contents(np.frombuffer(files.popitem()[1], np.float32).reshape(-1, SIDE, SIDE, 3), None)

    form = Format("mine", write_raw, read_raw, ("*.raw",), "images, labels = None, None")
    arrived = write(made(), form, tmp_path / "out")
    equal(read(form, tmp_path / "out"), arrived)


def test_classes_are_sorted_and_each_keeps_its_order(tmp_path: Path) -> None:
    images = np.arange(6, dtype=np.float32).reshape(6, 1, 1, 1) / 8 * np.ones((1, 3, SIDE, SIDE), np.float32)
    (tmp_path / "data.pt").write_bytes(dumps([images, np.array([2, 0, 1, 1, 0, 2])]))
    found = read(FORMATS["idc"], tmp_path / "data.pt", factor=1, **TOLD)
    np.testing.assert_array_equal(found.images[:, 0, 0, 0] * 8, [1, 4, 2, 3, 0, 5])
    np.testing.assert_array_equal(found.labels, [0, 0, 1, 1, 2, 2])


def test_the_last_experiment_of_a_file_of_dc_is_read(tmp_path: Path) -> None:
    experiments = [[np.full((C, 3, SIDE, SIDE), n, np.float32), np.arange(C)] for n in range(3)]
    (tmp_path / "res_DC.pt").write_bytes(dumps({"data": experiments}))
    np.testing.assert_array_equal(read(FORMATS["dc"], tmp_path, **TOLD).images, 2)


def test_soft_labels_are_sorted_with_their_images(tmp_path: Path) -> None:
    images = np.arange(2 * C, dtype=np.float32).reshape(-1, 1, 1, 1) / 8 * np.ones((1, 3, SIDE, SIDE), np.float32)
    order = np.random.default_rng(1).permutation(np.repeat(np.arange(C), 2))
    soft = (0.1 + 0.01 * np.arange(2 * C)[:, None] + np.eye(C)[order]).astype(np.float32)
    soft /= soft.sum(1, keepdims=True)
    (tmp_path / "images_best.pt").write_bytes(dumps(images))
    (tmp_path / "labels_best.pt").write_bytes(dumps(soft))
    found = read(FORMATS["mtt"], tmp_path, **TOLD)
    rows = np.argsort(order, kind="stable")
    assert rows.tolist() != sorted(rows.tolist())
    np.testing.assert_array_equal(found.images[:, 0, 0, 0] * 8, rows)
    np.testing.assert_array_equal(found.targets(), soft[rows])


def test_more_than_ten_png_images_of_a_class_stay_in_order(tmp_path: Path) -> None:
    images = np.linspace(0, 1, 4 * 12).reshape(-1, 1, 1, 1) * np.ones((1, SIDE, SIDE, 3))
    rows = np.arange(len(images)) // 12
    files = FORMATS["png"].write(Contents(images.astype(np.float32), rows, card={"class_names": [*"dbca"]}))
    found = FORMATS["png"].read({name: files[name] for name in sorted(files)})
    np.testing.assert_allclose(found.images, images, atol=0.5 / 255 + 1e-6)
    np.testing.assert_array_equal(found.labels, rows)


def test_folders_of_classes_are_in_the_order_of_the_classes() -> None:
    assert folder_names(["a", "b c", "d"]) == ["a", "b c", "d"]
    for names in (
        ["b", "a"],
        ["a", "A"],
        ["a", "a"],
        ["a", "b/c"],
        ["..", "a"],
        ["", "a"],
        list("0123456789") + ["10"],
    ):
        folders = folder_names(names)
        assert folders == sorted(folders) and len({name.casefold() for name in folders}) == len(names)
        assert not any("/" in name or name in ("", "..") for name in folders)


@pytest.mark.parametrize("names", [["a", "\U00020000" * 62], ["\U00020000" * 300, "a"]])
def test_folders_of_classes_with_long_names_exist_on_every_file_system(names: list[str]) -> None:
    assert max(len(name.encode()) for name in folder_names(names)) <= 255


def test_png_folders_with_test_images_are_a_data_set(tmp_path: Path) -> None:
    arrived = write(made(), FORMATS["png"], tmp_path / "out")
    shutil.copytree(tmp_path / "out" / "train", tmp_path / "out" / "test")
    data = load(f"folder:{tmp_path / 'out'}")
    np.testing.assert_array_equal(data.x_train, np.rint(arrived.images * 255))
    np.testing.assert_array_equal(data.y_train, arrived.labels)
