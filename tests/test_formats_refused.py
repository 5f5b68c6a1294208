"""Tests the files that an import refuses."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill_jax.axes.parameterisation import Pixels
from distill_jax.formats import FORMATS, encode, read, write
from distill_jax.formats.torch_file import dumps
from distill_jax.types import RequestError
from tests.sets import TOLD, equal, made


@pytest.fixture(autouse=True)
def parquet(request: pytest.FixtureRequest) -> None:
    if "huggingface" in request.node.name:
        pytest.importorskip("pyarrow")


IMAGES = np.random.default_rng(0).random((6, 3, 8, 8)).astype(np.float32)
LABELS = np.array([0, 0, 1, 1, 2, 2])


@pytest.mark.parametrize(
    "held, said",
    [
        ([IMAGES], r"no \[images, labels\]"),
        ({"images": IMAGES}, r"no \[images, labels\]"),
        ([IMAGES[0], LABELS], r"of shape \[3, 8, 8\]"),
        (["images", LABELS], "a str"),
        ([np.where(IMAGES > 0.9, np.nan, IMAGES), LABELS], "not finite"),
        ([IMAGES * 255, LABELS], "to 25"),
        ([(IMAGES * 1.2).astype(np.uint8), LABELS], "uint8"),
        ([IMAGES * 4 - 2, LABELS], "give the space"),
        ([IMAGES[:0], LABELS[:0]], "images"),
        ([IMAGES, LABELS[:-1]], "6 images have 5 labels"),
        ([IMAGES, LABELS - 1], "from -1 to 1"),
        ([IMAGES, LABELS + 1], "from 1 to 3"),
        ([IMAGES, LABELS * 2**60], "labels run"),
        ([IMAGES, LABELS.astype(np.float32)], "float32"),
        ([IMAGES, np.array([0, 0, 0, 1, 2, 2])], "from 1 to 3 images"),
        ([IMAGES, np.array([0, 0, 0, 1, 1, 1])], "from 0 to 3 images"),
        ([IMAGES[:5], LABELS[:5]], "5 images cannot be divided"),
        ([IMAGES, np.eye(3)[LABELS] * 2], "probabilities"),
        ([IMAGES, np.full((6, 3), np.nan)], "labels in"),
        ([IMAGES, np.eye(4)[LABELS] / 2 + 1 / 8], "soft labels"),
    ],
)
def test_invalid_contents_are_refused(tmp_path: Path, held: Any, said: str) -> None:
    (tmp_path / "data.pt").write_bytes(dumps(held))
    with pytest.raises(RequestError, match=said) as refused:
        read(FORMATS["idc"], tmp_path / "data.pt", factor=1, **TOLD)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "told, said",
    [
        ({"factor": 0}, "factor"), ({"factor": 3}, "under 4 pixels"), ({"factor": "2"}, "factor"),
        ({"mean": (0.5,)}, "mean"), ({"std": (0.5, 0.5, 0)}, "std"), ({"std": (np.inf,) * 3}, "std"),
        ({"mean": "abc"}, "are invalid"), ({"space": "x"}, "space"), ({"class_names": ()}, "0 classes"),
        ({"class_names": list("abcde")}, "5"), ({"class_names": list("abcdef")}, "from 0 to 2"),
        ({"class_names": 3}, "are invalid"), ({"std": (1e39,) * 3}, "std"), ({"std": (1e-46,) * 3}, "std"),
        ({"mean": (1e39,) * 3}, "mean"),
    ],
)  # fmt: skip
def test_invalid_descriptions_are_refused(tmp_path: Path, told: dict, said: str) -> None:
    (tmp_path / "data.pt").write_bytes(dumps([IMAGES, LABELS]))
    with pytest.raises(RequestError, match=said):
        read(FORMATS["idc"], tmp_path, **{"factor": 1, **TOLD, **told})


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"decode": "spiral"}, "decode_type is 'spiral'"), ({"bound": "few"}, "are invalid"),
        ({"schema": 2}, "reads up to 1: update it"), ({"schema": "one"}, "reads up to 1"),
        ({"zca": True}, "zca.npy, which must whiten"),
    ],
)  # fmt: skip
def test_a_card_that_says_more_than_this_version_knows_is_refused(tmp_path: Path, fields: dict, said: str) -> None:
    write(made(), FORMATS["idc"], tmp_path / "out")
    path = tmp_path / "out" / "card.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **fields}))
    with pytest.raises(RequestError, match=said):
        read(FORMATS["idc"], tmp_path / "out")


def test_the_space_can_be_given(tmp_path: Path) -> None:
    (tmp_path / "data.pt").write_bytes(dumps([IMAGES * 4 - 2, LABELS]))
    for space in ("normalised", "pixel"):
        assert read(FORMATS["idc"], tmp_path, factor=1, space=space, **TOLD).card["space"] == space


def test_missing_and_wrong_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"has no data\*.pt"):
        read(FORMATS["idc"], tmp_path, **TOLD)
    for name in ("idc", "mtt"):
        with pytest.raises(RequestError, match="cannot read .*nothing.pt"):
            read(FORMATS[name], tmp_path / "nothing.pt", **TOLD)
    for name in ("data.pt", "data_best.pt"):
        (tmp_path / name).write_bytes(dumps([IMAGES, LABELS]))
    with pytest.raises(RequestError, match="several"):
        read(FORMATS["idc"], tmp_path, **TOLD)
    with pytest.raises(RequestError, match="1 files are given"):
        read(FORMATS["mtt"], tmp_path / "data.pt", **TOLD)
    with pytest.raises(RequestError, match="3 files are given"):
        read(FORMATS["mtt"], *[tmp_path / "data.pt"] * 3, **TOLD)
    with pytest.raises(RequestError, match="4 files are given: give the files images.pt labels.pt lr.pt"):
        read(FORMATS["dd-ranking"], *[tmp_path / "data.pt"] * 4, **TOLD)
    with pytest.raises(RequestError, match="'data'"):
        read(FORMATS["dc"], tmp_path / "data.pt", **TOLD)


def test_a_card_of_other_images_is_refused(tmp_path: Path) -> None:
    for seed in (0, 1):
        write(made(seed=seed), FORMATS["idc"], tmp_path / str(seed))
    shutil.copy(tmp_path / "1" / "data.pt", tmp_path / "0" / "data.pt")
    with pytest.raises(RequestError, match="card of other images"):
        read(FORMATS["idc"], tmp_path / "0")
    for content in (b"", b"[]", b"{", b"[" * 100_000, b"\xff"):
        (tmp_path / "0" / "card.json").write_bytes(content)
        with pytest.raises(RequestError, match="card.json"):
            read(FORMATS["idc"], tmp_path / "0")


def test_an_export_replaces_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    for folder in (tmp_path, tmp_path / "file"):
        with pytest.raises(RequestError, match="new folder"):
            write(made(), FORMATS["idc"], folder)
    assert (tmp_path / "file").read_bytes() == b"mine" and len(list(tmp_path.iterdir())) == 1
    (tmp_path / "empty").mkdir()
    write(made(), FORMATS["idc"], tmp_path / "empty")


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_are_refused(tmp_path: Path, name: str) -> None:
    form = FORMATS[name]
    files, arrived = encode(made(Pixels()), form)
    victim = next(file for file in files if file.endswith((".pt", ".npz", ".png", ".parquet")))
    for file, content in files.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(content)
    rng, whole = np.random.default_rng(0), files[victim]
    damaged = [whole[:size] for size in rng.integers(0, len(whole), 15)]
    for place in rng.integers(0, len(whole), 25):
        damaged.append(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
    for content in damaged:
        (tmp_path / victim).write_bytes(content)
        try:
            found = read(form, tmp_path)
        except RequestError as error:
            assert "\n" not in str(error)
            continue
        equal(found, arrived)  # a byte without effect


def test_parquet_needs_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(RequestError, match="pip install pyarrow"):
        write(made(), FORMATS["huggingface"], tmp_path / "out")
    assert not list(tmp_path.iterdir())
