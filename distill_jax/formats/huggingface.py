"""The layout of Hugging Face ``datasets``: a parquet file with an image column, and a README for the hub.

The types of the columns are in the metadata of the parquet schema and again in the README. The ``datasets`` library
documents both under "image dataset" and "dataset card".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from distill_jax.data.huggingface import METADATA, column, features_of, pyarrow_modules
from distill_jax.formats.format import Contents, Format, dataset_name
from distill_jax.formats.png import from_png, to_png
from distill_jax.types import RequestError


def _write(contents: Contents) -> dict[str, bytes]:
    pyarrow, parquet = pyarrow_modules()
    width = len(str(len(contents.images) - 1))
    pictures = [{"bytes": to_png(image), "path": f"{n:0{width}}.png"} for n, image in enumerate(contents.images)]
    picture_type = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    columns = {
        "image": pyarrow.array(pictures, picture_type),
        "label": pyarrow.array(contents.labels, pyarrow.int64()),
    }
    class_names = _distinct(list(map(str, contents.card["class_names"])))
    features: dict[str, Any] = {"image": {"_type": "Image"}, "label": {"names": class_names, "_type": "ClassLabel"}}
    if contents.soft is not None:
        columns["soft_label"] = pyarrow.array(list(contents.soft), pyarrow.list_(pyarrow.float32()))
        features["soft_label"] = {"feature": {"dtype": "float32", "_type": "Value"}, "_type": "Sequence"}
    table = pyarrow.table(columns).replace_schema_metadata({METADATA: json.dumps({"info": {"features": features}})})
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(table, sink)
    files = {"data/train-00000-of-00001.parquet": sink.getvalue().to_pybytes()}
    return {**files, "README.md": _readme(contents, class_names).encode()}


def _read(files: Mapping[str, bytes]) -> Contents:
    pyarrow, parquet = pyarrow_modules()
    try:
        tables = [parquet.read_table(pyarrow.BufferReader(content)) for content in files.values()]
        table = pyarrow.concat_tables(tables)
    except (pyarrow.ArrowException, OSError) as error:
        raise RequestError(f"{' or '.join(files)} is damaged or not a parquet file: export or copy it again") from error
    image, label = column(table, "Image", "image"), column(table, "ClassLabel", "label")
    rows = table.column(image).to_pylist()
    images = from_png([row["bytes"] for row in rows], [f"row {n} of {[*files][0]}" for n in range(len(rows))])
    names = features_of(table).get(label, {}).get("names")
    soft = np.array(table.column("soft_label").to_pylist(), np.float32) if "soft_label" in table.column_names else None
    card = {} if names is None else {"class_names": names}
    return Contents(images, np.array(table.column(label).to_pylist(), np.int64), soft, card)


def _distinct(names: list[str]) -> list[str]:
    """Add the number of the class to each name that several classes have, because ``datasets`` requires distinct
    names."""
    return [name if names.count(name) == 1 else f"{name} ({c})" for c, name in enumerate(names)]


def _readme(contents: Contents, class_names: list[str]) -> str:
    card = contents.card
    features = [
        "  - name: image", "    dtype: image", "  - name: label", "    dtype:", "      class_label:", "        names:",
        # A JSON string is also a YAML string.
        *(f"          '{c}': {json.dumps(name, ensure_ascii=False)}" for c, name in enumerate(class_names)),
    ]  # fmt: skip
    if contents.soft is not None:
        features += ["  - name: soft_label", "    sequence: float32"]
    front = [
        "---", "tags:", "- dataset-distillation", "task_categories:", "- image-classification",
        "dataset_info:", "  features:", *features,
        "configs:", "- config_name: default", "  data_files:", "  - split: train", "    path: data/train-*", "---",
    ]  # fmt: skip
    origin = f"{card['method']} on {dataset_name(card)}" if card.get("method") else "dataset distillation"
    storage = "packed" if card["packed"] else "decoded"
    mean, std = ([round(float(v), 4) for v in card[key]] for key in ("mean", "std"))
    text = f"""
# A distilled training set

{len(contents.images)} synthetic images of {len(class_names)} classes, learned with {origin}
({card.get("library", "distill_jax")}).{_score(card)}

- Images are **{storage}**, with pixels rounded to 8 bits per channel.{_how_to_decode(card)}
- Networks receive `(pixel / 255 - mean) / std` with mean `{mean}` and std `{std}`.
- `use_in_pytorch.py` does all of this; `card.json` has everything else, such as method, seed and score.
"""
    return "\n".join(front) + "\n" + text


def _score(card: Mapping[str, Any]) -> str:
    score = card.get("score")
    mean = score.get("mean") if isinstance(score, dict) else None
    if not isinstance(mean, int | float):
        return ""
    return f" Networks trained on the images before rounding reached {mean:.1f}% on the real test images."


def _how_to_decode(card: Mapping[str, Any]) -> str:
    factor = card["factor"]
    return (
        f" Each is a grid of {factor}x{factor} images, which must be cut out and enlarged before use."
        if card["packed"]
        else ""
    )


HUGGINGFACE = Format(
    "Hugging Face datasets: parquet and README.md, pixels, 8 bits",
    _write,
    _read,
    files=("data/*.parquet",),
    many=True,
    snippet="""\
import numpy
from datasets import load_dataset
rows = load_dataset("parquet", data_files=str(HERE / "data" / "*.parquet"), split="train")
images = torch.from_numpy(numpy.stack([numpy.atleast_3d(i) for i in rows["image"]])).permute(0, 3, 1, 2) / 255
labels = torch.tensor(rows["soft_label" if "soft_label" in rows.column_names else "label"][:])""",
    space="pixel",
    packed=True,
    soft=True,
    lossless=False,
)
