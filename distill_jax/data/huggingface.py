"""Reads hf:PATH, a Hugging Face data set on disk: the arrow files of ``datasets.save_to_disk``, or the parquet files of
a data set on the hub after their download. pyarrow reads both; nothing is downloaded.

The ``datasets`` library writes the types of the columns into the metadata of the schema.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from distill_jax.data.dataset import Dataset, reason
from distill_jax.data.photos import TEST, Plan, decode_into, plan_decoding
from distill_jax.data.subset import select_classes
from distill_jax.types import RequestError, Tick

METADATA = b"huggingface"
SPLIT = re.compile(rf"(train|{'|'.join(TEST)})(?![a-z])")


def read_huggingface(
    root: Path, side: int | None = None, only: Sequence[str] = (), tick: Tick | None = None
) -> Dataset:
    """Read the data set in the folder ``root``, and select the classes ``only`` if there are any.

    It needs a split ``train``, a column of images and a column of class labels; of several columns the first one is
    used. The test part is the first split of TEST that has labels; if there is none, a fifth of each class is held out.
    Images become uint8 [N, H, H, 1 or 3] in the same way as those of a folder (``read_folder``). ``tick`` receives the
    progress. Raise RequestError for any other data set, or if an image cannot be read.
    """
    name = f"hf:{root.name}"
    files = _files(root)
    if "train" not in files:
        raise RequestError(
            f"{root} has no split train in parquet or arrow files (it has {', '.join(files) or 'none'}): give the "
            "folder that holds it"
        )
    tables, labels, splits = [], [], ["train", *(split for split in TEST if split in files)]
    for split in splits:
        table = _table(files[split])
        label = column(table, "ClassLabel", "label")
        numbers = np.asarray(table.column(label).to_pylist())
        if numbers.dtype.kind not in "iu":
            raise RequestError(
                f"{name}: column {label} is empty or does not hold class numbers: give images with labels"
            )
        if len(numbers) and numbers.max() < 0:  # the hub marks hidden labels, usually of the split test, by -1
            if split == "train":
                raise RequestError(f"{name}: split train has no labels, only -1: give images with labels")
            continue
        tables.append(table)
        labels.append(numbers)
        if len(tables) == 2:
            break
    label = column(tables[0], "ClassLabel", "label")
    names = features_of(tables[0]).get(label, {}).get("names") or [str(c) for c in range(int(labels[0].max()) + 1)]
    part = select_classes(name, tuple(names), only)
    encoded: list[Any] = []
    for n, table in enumerate(tables):
        rows = np.isin(labels[n], part.indices) if only else np.ones(len(labels[n]), bool)
        cells = table.column(column(table, "Image", "image")).filter(rows).to_pylist()
        encoded.append([cell["bytes"] if isinstance(cell, dict) else cell for cell in cells])
        labels[n] = labels[n][rows]
        if not len(labels[n]):
            raise RequestError(
                f"{part.name}: the {('training', 'test')[n]} part has no image of these classes: choose other classes"
            )
        if only:
            labels[n] = np.array([part.indices.index(c) for c in labels[n]], np.int32)
    plan, pictures = _decode([cell for of_split in encoded for cell in of_split], name, side, tick)
    if len(tables) == 1:
        data = Dataset.without_test_part(part.name, pictures, labels[0], part.names)
    else:
        count = len(encoded[0])
        arrays = pictures[:count], labels[0], pictures[count:], labels[1]
        data = Dataset.from_arrays(part.name, *arrays, class_names=part.names)
    return replace(data, origin={**plan.origin, **data.origin}, notes=(*plan.notes(part.name), *data.notes))


def pyarrow_modules() -> tuple[Any, Any]:
    """Import pyarrow and its parquet module, which are an optional dependency."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise RequestError("Hugging Face files need pyarrow: pip install pyarrow") from error
    return pyarrow, pyarrow.parquet


def features_of(table: Any) -> Mapping[str, Any]:
    """Return the ``datasets`` library's description of each column; empty if another program wrote the file."""
    return json.loads((table.schema.metadata or {}).get(METADATA, b"{}")).get("info", {}).get("features", {})


def column(table: Any, kind: str, default: str) -> str:
    """Return the name of the first column whose feature type is ``kind``, or ``default`` if no feature has that type.
    Raise RequestError if the column does not exist."""
    features = features_of(table).items()
    of_kind = [name for name, feature in features if isinstance(feature, dict) and feature.get("_type") == kind]
    name = of_kind[0] if of_kind else default
    if name not in table.column_names:
        raise RequestError(f"no column {name} in {', '.join(table.column_names)}: give images with labels")
    return name


def _files(root: Path) -> dict[str, list[Path]]:
    """Return {split: its files}. The split begins the name of a parquet file, or of the folder of an arrow file."""
    if not root.is_dir():
        raise RequestError(f"no folder {root}: check the path after hf:")
    found: dict[str, list[Path]] = {}
    for path in sorted([*root.rglob("*.parquet"), *root.rglob("data-*.arrow")]):
        split = SPLIT.match(path.name if path.suffix == ".parquet" else path.parent.name)
        if split:
            found.setdefault(split[1], []).append(path)
    for split, paths in found.items():
        if len({path.parent for path in paths}) > 1:
            raise RequestError(
                f"{root} has split {split} in several folders: give one folder, such as {paths[0].parent}"
            )
    return found


def _table(paths: Sequence[Path]) -> Any:
    pyarrow, parquet = pyarrow_modules()
    try:
        if paths[0].suffix == ".parquet":
            return pyarrow.concat_tables([parquet.read_table(path) for path in paths])
        return pyarrow.concat_tables([pyarrow.ipc.open_stream(pyarrow.memory_map(str(p))).read_all() for p in paths])
    except (pyarrow.ArrowException, OSError) as error:
        raise RequestError(f"{paths[0].parent} is damaged ({reason(error)}): copy it again") from error


def _decode(encoded: Sequence[bytes | None], name: str, side: int | None, tick: Tick | None) -> tuple[Plan, np.ndarray]:
    """Return the images as uint8 [N, H, H, 1 or 3], and how they were decoded. Raise RequestError if one of them is
    missing or cannot be read."""
    if None in encoded:
        raise RequestError(f"image {encoded.index(None)} of {name} is missing: save the data set with its images")
    files = [content for content in encoded if content is not None]
    plan = plan_decoding(files, side)
    images = np.empty((len(files), plan.side, plan.side, plan.channels), np.uint8)
    damaged = decode_into(images, files, plan, [f"image {n}" for n in range(len(files))], name, tick)
    if damaged:
        number, why = min(damaged.items())
        raise RequestError(f"cannot read image {number} of {name} ({why}): save the data set without this image")
    return plan, images
