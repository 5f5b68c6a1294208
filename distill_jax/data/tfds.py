"""Reads data sets of TensorFlow Datasets (TFDS) from array_record files, without TensorFlow."""

from __future__ import annotations

import difflib
import importlib.util
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from distill_jax.data.dataset import Dataset, reason
from distill_jax.data.photos import SIDE, resize_and_crop
from distill_jax.data.subset import select_classes
from distill_jax.types import RequestError

KNOWN = ("cifar10", "cifar100", "mnist", "fashion_mnist", "svhn_cropped", "imagenette", "imagenet2012")
"""names to suggest without asking TFDS; any other classification data set of TFDS works too"""
INSTALL = "pip install -e '.[tfds]'"
TEST_SPLIT = {"imagenet2012": "validation"}
"""{data set: its test split}, for data sets whose split named test has no labels"""
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
BATCH = 1000
"""number of rows read at once, which is several times faster than reading single rows"""


def read_tfds(name: str, side: int | None = None, only: Sequence[str] = ()) -> Dataset:
    """Read the whole TFDS data set ``name`` (``cifar10``, ``imagenette/160px-v2``, ``mnist:3.0.1``, ...) into memory.

    The data set is in the directory that TFDS_DATA_DIR names, or in TFDS' default directory. If it is not there yet, it
    is downloaded and prepared as array_record, which needs TensorFlow. Images that vary in size or are not square are
    cropped at the centre after their shorter side is resized to ``side`` (None: 224; bilinear, antialiased). The test
    part is the split ``test``, or ``validation`` if ``test`` does not exist or has no labels. ``only`` lists the
    classes to read, in order; if it is empty, all are read. Images of other classes are not decoded.

    Raise RequestError if the name is unknown, TFDS or (for preparing) TensorFlow is missing, TFDS fails to prepare the
    data set, or it is not a set of uint8 images with one class each.
    """
    tfds = _import_tfds(name)
    data_dir = Path(os.environ.get("TFDS_DATA_DIR") or tfds.core.constants.DATA_DIR).expanduser()
    names = tfds.list_builders(with_community_datasets=False)
    if not _base(name) or (_base(name) not in names and not (data_dir / _base(name)).is_dir()):
        raise _unknown(name, names)
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except Exception as error:  # unknown config or version, a missing import, files of another TFDS version
        what = reason(error).rpartition('}": ')[2]  # TFDS puts a preamble before the reason
        raise RequestError(f"TFDS cannot open {name} ({what}): fix that or use another data set") from error
    image_key, label_key = _supervised_keys(tfds, name, builder.info)
    image, label = builder.info.features[image_key], builder.info.features[label_key]
    part = select_classes(name, label.names, only)
    number = {index: i for i, index in enumerate(part.indices)} if only else None
    if not builder.data_path.exists():
        _prepare(name, builder)
    crop = None if image.shape[0] is not None and image.shape[0] == image.shape[1] else side or SIDE
    test = TEST_SPLIT.get(builder.name, "test" if "test" in builder.info.splits else "validation")
    arrays = []
    for split in ("train", test):
        if split not in builder.info.splits:
            raise RequestError(
                f"{name} of TFDS has no split {split}, only {', '.join(builder.info.splits)}: use another data set"
            )
        try:
            rows = builder.as_data_source(split, decoders={image_key: tfds.decode.SkipDecoding()})
            images, labels = _read(rows, image_key, label_key, MODES[image.shape[2] or 3], crop, number)
        except NotImplementedError as error:
            raise RequestError(
                f"{builder.data_path} is not in array_record format: set TFDS_DATA_DIR to another directory"
            ) from error
        except (RuntimeError, OSError) as error:
            raise RequestError(
                f"{builder.data_path} is damaged ({reason(error)}): delete that directory to prepare {name} again"
            ) from error
        if not images:
            raise RequestError(f"{part.name}: split {split} has no image of these classes: choose other classes")
        stack = np.stack(images)
        arrays += [stack if stack.ndim == 4 else stack[..., None], np.array(labels, np.int64)]
        del images  # frees as much memory as the stack takes
    return Dataset.from_arrays(part.name, *arrays, class_names=part.names)


def _import_tfds(name: str) -> Any:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        if _base(name) not in KNOWN:
            raise _unknown(name, KNOWN) from error
        raise RequestError(f"{name} needs TensorFlow Datasets ({reason(error)}): {INSTALL}") from error
    return tfds


def _base(name: str) -> str:
    """Return ``name`` without config and version."""
    return name.partition(":")[0].partition("/")[0]


def _unknown(name: str, names: Iterable[str]) -> RequestError:
    if name and Path(name).exists():
        return RequestError(f"no data set {name!r}: write {'folder' if Path(name).is_dir() else 'npz'}:{name}")
    nearest = difflib.get_close_matches(name.lower(), ["digits", *names], n=1)
    return RequestError(
        f"no data set {name!r}: {f'did you mean {nearest[0]}? Otherwise ' if nearest else ''}choose digits, npz:PATH, "
        f"folder:PATH, hf:PATH or a name of TFDS ({INSTALL}) such as {', '.join(KNOWN)}"
    )


def _supervised_keys(tfds: Any, name: str, info: Any) -> tuple[str, str]:
    keys = info.supervised_keys
    if keys is not None and len(keys) == 2 and all(isinstance(key, str) for key in keys):
        image, label = (info.features[key] for key in keys)
        uint8_image = isinstance(image, tfds.features.Image) and image.np_dtype == np.uint8
        if uint8_image and isinstance(label, tfds.features.ClassLabel):
            return keys
    raise RequestError(f"{name} of TFDS is not a set of uint8 images with one class each: use another data set")


def _prepare(name: str, builder: Any) -> None:
    if importlib.util.find_spec("tensorflow") is None:
        raise RequestError(
            f"{name} is not in {builder.data_dir} yet, and preparing it once needs TensorFlow: {INSTALL}"
        )
    try:
        builder.download_and_prepare(file_format="array_record")
    except Exception as error:  # network, disk space, a manual download and a wrong checksum raise different types
        raise RequestError(f"TFDS cannot prepare {name} ({reason(error)}): fix that and try again") from error


def _read(
    rows: Any, image_key: str, label_key: str, mode: str, crop: int | None, number: Mapping[int, int] | None
) -> tuple[list[np.ndarray], list[int]]:
    """Return the N images of a split, uint8 [H, W] or [H, W, c], and their labels. ``number`` maps the classes to read
    to their labels; None reads all classes. Pillow decodes the images, because TFDS would use OpenCV if that is
    installed, which gives other pixels."""

    def decode(encoded: bytes) -> np.ndarray:
        with Image.open(io.BytesIO(encoded)) as file:
            image = file.convert(mode)
        return np.asarray(image if crop is None else resize_and_crop(image, crop))

    images: list[np.ndarray] = []
    labels: list[int] = []
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(rows), BATCH):
            batch = rows.__getitems__(list(range(start, min(start + BATCH, len(rows)))))
            batch = [row for row in batch if number is None or int(row[label_key]) in number]
            images += pool.map(decode, (row[image_key] for row in batch))
            labels += (row[label_key] if number is None else number[int(row[label_key])] for row in batch)
    return images, labels
