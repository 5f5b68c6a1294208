"""Tests hf:PATH with parquet files as on the hub, and arrow files as ``save_to_disk`` writes them."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distill_jax.data import load
from distill_jax.types import RequestError

pyarrow = pytest.importorskip("pyarrow")

NAMES = ["cat", "dog", "owl"]


def table(shapes: list[tuple[int, ...]], labels: list[int], names: list[str] | None = None, image: str = "img"):
    """Return a table of constant images, of value 10 for the first, 11 for the second, ..."""
    cells = []
    for n, shape in enumerate(shapes):
        file = io.BytesIO()
        Image.fromarray(np.full(shape, 10 + n, np.uint8)).save(file, "png")
        cells.append({"bytes": file.getvalue(), "path": f"{n}.png"})
    features = {image: {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names or NAMES}}
    plain = pyarrow.table({image: cells, "label": labels})
    return plain.replace_schema_metadata({b"huggingface": json.dumps({"info": {"features": features}})})


def on_the_hub(root: Path, split: str, content, part: str = "00000-of-00001") -> None:
    import pyarrow.parquet

    (root / "data").mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(content, root / "data" / f"{split}-{part}.parquet")


def saved_to_disk(root: Path, split: str, content, part: str = "00000-of-00001") -> None:
    (root / split).mkdir(parents=True, exist_ok=True)
    with pyarrow.ipc.new_stream(root / split / f"data-{part}.arrow", content.schema) as file:
        file.write_table(content)


GREY = [(4, 4)] * 3


@pytest.mark.parametrize("write", [on_the_hub, saved_to_disk])
def test_images_labels_and_names_come_back(write, tmp_path: Path) -> None:
    write(tmp_path, "train", table(GREY, [2, 0, 1]), "00000-of-00002")
    write(tmp_path, "train", table(GREY, [0, 1, 2]), "00001-of-00002")
    write(tmp_path, "test", table(GREY, [1, 0, 2]))
    data = load(f"hf:{tmp_path}")
    assert (data.shape, data.class_names) == ((4, 4, 1), tuple(NAMES))
    assert data.y_train.tolist() == [2, 0, 1, 0, 1, 2] and data.y_test.tolist() == [1, 0, 2]
    assert data.x_train[:, 0, 0, 0].tolist() == [10, 11, 12] * 2
    part = load(f"hf:{tmp_path}", only=["owl", "cat"])
    assert part.class_names == ("owl", "cat") and part.y_train.tolist() == [0, 1, 1, 0]
    assert part.x_train[:, 0, 0, 0].tolist() == [10, 11, 10, 12]


def test_a_test_split_without_labels_is_not_used(tmp_path: Path) -> None:
    """Labels are -1 if they are hidden. Without any other test split, a fifth of each class is held out."""
    on_the_hub(tmp_path, "train", table([(4, 4)] * 30, [0, 1, 2] * 10))
    on_the_hub(tmp_path, "test", table(GREY, [-1, -1, -1]))
    data = load(f"hf:{tmp_path}")
    assert (len(data.y_train), len(data.y_test)) == (24, 6)
    assert data.origin["split"] == {"held_out": 0.2, "train": 24, "test": 6}
    assert data.notes[0].startswith(f"hf:{tmp_path.name} has no test part: 6 of 30 images")
    on_the_hub(tmp_path, "validation", table(GREY, [0, 1, 2]))
    assert load(f"hf:{tmp_path}").y_test.tolist() == [0, 1, 2]


def test_images_of_several_sizes_are_cropped(tmp_path: Path) -> None:
    on_the_hub(tmp_path, "train", table([(4, 8), (6, 6, 3), (5, 4)], [0, 1, 2]))
    on_the_hub(tmp_path, "validation", table(GREY, [0, 1, 2]))
    data = load(f"hf:{tmp_path}", side=4)
    assert data.shape == (4, 4, 3) and data.x_train[:, 2, 2].tolist() == [[10] * 3, [11] * 3, [12] * 3]


def test_images_of_one_size_are_resized_to_side(tmp_path: Path) -> None:
    on_the_hub(tmp_path, "train", table(GREY, [0, 1, 2]))
    on_the_hub(tmp_path, "validation", table(GREY, [0, 1, 2]))
    data = load(f"hf:{tmp_path}", side=2)
    assert data.origin == {"side": 2} and "resized and cropped to 2x2" in data.notes[0]
    assert data.shape == (2, 2, 1) and data.x_train[:, 1, 1, 0].tolist() == [10, 11, 12]


def test_images_of_other_modes_are_decoded_as_in_a_folder(tmp_path: Path) -> None:
    """16 bits per channel, and a palette with a transparent colour."""
    deep, palette = io.BytesIO(), io.BytesIO()
    Image.fromarray(np.full((4, 4), 200 * 257, np.uint16)).save(deep, "png")
    Image.fromarray(np.full((4, 4), 50, np.uint8)).convert("P").save(palette, "png", transparency=b"\xff" * 50 + b"\0")
    for files, channels in (([deep] * 3, 1), ([deep, palette, deep], 3)):
        content = table(GREY, [0, 1, 2])
        cells = pyarrow.array([{"bytes": file.getvalue(), "path": ""} for file in files])
        content = content.set_column(0, "img", cells).replace_schema_metadata(content.schema.metadata)
        for split in ("train", "test"):
            on_the_hub(tmp_path, split, content)
        data = load(f"hf:{tmp_path}")
        assert data.shape == (4, 4, channels)
        assert data.x_train[:, 0, 0, 0].tolist() == [200, 50 if channels == 3 else 200, 200]


def test_wrong_data_sets_are_refused(tmp_path: Path) -> None:
    def refused(message: str) -> None:
        with pytest.raises(RequestError, match=message) as error:
            load(f"hf:{tmp_path}")
        assert "\n" not in str(error.value)

    refused("no split train")
    on_the_hub(tmp_path, "train", table(GREY, [0, 1, 2]))
    refused("every class has one training image, so none can be withheld")
    on_the_hub(tmp_path, "test", table(GREY, [0, 1, 2]).rename_columns(["img", "text"]))
    refused("label")
    (tmp_path / "data" / "test-00000-of-00001.parquet").write_bytes(b"PAR1 and no more")
    refused("damaged")
    on_the_hub(tmp_path, "test", table(GREY, [0, 1, 2]))
    saved_to_disk(tmp_path, "train", table(GREY, [0, 1, 2]))
    refused("in several folders")
    shutil.rmtree(tmp_path / "train")
    content = table(GREY, [0, 1, 2])
    cells = pyarrow.array([*content["img"].to_pylist()[:2], {"bytes": b"no image", "path": ""}])
    on_the_hub(tmp_path, "train", content.set_column(0, "img", cells).replace_schema_metadata(content.schema.metadata))
    refused(r"cannot read image 2 of hf:.* \(cannot identify image file\): save")
    with pytest.raises(RequestError, match="hf:PATH"):
        load("hf:")
    with pytest.raises(RequestError, match="check the path"):
        load("hf:nowhere")
