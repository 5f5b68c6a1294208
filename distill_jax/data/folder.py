"""folder:PATH, image files in one directory per class."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from distill_jax.data.dataset import Dataset, reason
from distill_jax.data.subset import chosen
from distill_jax.types import RequestError

SUFFIXES = {".png", ".jpg", ".jpeg"}
GREY = {"1", "L", "LA", "La"}
LAYOUT = "lay images out as train/<class>/*.png and test/<class>/*.png (or .jpg)"


def read_folder(root: Path, only: Sequence[str] = ()) -> Dataset:
    """The PNG and JPEG files in ``root/train/<class>/`` and ``root/test/<class>/`` (``root/val`` where there is no
    test), also in directories below these; anything hidden or of another type is passed over.

    Classes are numbered in alphabetical order of their names and may have any number of images; of those in ``only``,
    where there are some, in that order, and the images of others are not read. Images become uint8 [N, H, H, 1] where
    all that are read are grey, else [N, H, H, 3]; transparency is dropped. Raises RequestError, naming the file or
    directory, where the layout is another, a class is empty, a file is unreadable, or sizes differ.
    """
    name = f"folder:{root.name}"
    if not root.is_dir():
        raise RequestError(f"no directory {root}: check the path after folder:")
    test_root = root / "test" if (root / "test").is_dir() or not (root / "val").is_dir() else root / "val"
    train, test = _class_files(root / "train"), _class_files(test_root)
    unknown = sorted(set(test) - set(train))
    if unknown:
        raise RequestError(
            f"{test_root / unknown[0]} is of a class that {root / 'train'} does not have: add or remove it"
        )
    part = chosen(name, tuple(train), only)
    number = {cls: i for i, cls in enumerate(part.names)}
    train, test = ({cls: files for cls, files in split.items() if cls in number} for split in (train, test))
    for cls, files in train.items():
        if not files:
            raise RequestError(f"{root / 'train' / cls} holds no PNG or JPEG file: add some or remove it")
    paths = [path for split in (train, test) for files in split.values() for path in files]
    images = _read_images(paths)
    labels = np.array([number[cls] for split in (train, test) for cls, files in split.items() for _ in files])
    count = sum(map(len, train.values()))
    return Dataset.from_arrays(part.name, images[:count], labels[:count], images[count:], labels[count:], part.names)


def _class_files(split: Path) -> dict[str, list[Path]]:
    """{class: its image files}, both sorted."""
    if not split.is_dir():
        raise RequestError(f"no directory {split}: {LAYOUT}")
    found: dict[str, list[Path]] = {}
    for cls in sorted(path for path in split.iterdir() if path.is_dir() and not path.name.startswith(".")):
        files = (path for path in cls.rglob("*") if path.suffix.lower() in SUFFIXES)
        found[cls.name] = sorted(p for p in files if not any(x.startswith(".") for x in p.relative_to(cls).parts))
    if not any(found.values()):
        raise RequestError(f"{split} holds no PNG or JPEG file in a directory of its class: {LAYOUT}")
    return found


def _read_images(paths: Sequence[Path]) -> np.ndarray:
    """uint8 [N, H, W, 1 or 3]"""
    with ThreadPoolExecutor() as pool:  # decoding releases the interpreter lock
        images = list(pool.map(_read_image, paths))
    for path, image in zip(paths, images, strict=True):
        if image.shape[:2] != images[0].shape[:2]:
            (height, width), (h, w) = image.shape[:2], images[0].shape[:2]
            raise RequestError(
                f"{path} is {width}x{height} pixels but {paths[0]} is {w}x{h}: crop or resize all to one size"
            )
    channels = max(image.shape[2] for image in images)
    stack = np.empty((len(images), *images[0].shape[:2], channels), np.uint8)
    for row, image in zip(stack, images, strict=True):
        row[:] = image  # a grey image among coloured ones is repeated
    return stack


def _read_image(path: Path) -> np.ndarray:
    """uint8 [H, W, 1] where the file is grey, else [H, W, 3]"""
    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                raise RequestError(f"{path} has more than 8 bits per channel: save it with 8")
            grey = image.mode in GREY
            pixels = np.asarray(image.convert("L" if grey else "RGB"))
    except RequestError:
        raise
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise RequestError(f"cannot read the image {path} ({reason(error)}): mend or remove it") from error
    return pixels[..., None] if grey else pixels
