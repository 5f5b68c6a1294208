"""PNG images with 8 bits per channel, and the format that stores them as ``train/<class>/<number>.png``.

With real images in ``test/<class>/``, the folder is also a data set, ``folder:PATH``.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

import numpy as np
from PIL import Image

from distill_jax.formats.format import Contents, Format
from distill_jax.types import RequestError

SAFE_NAME = re.compile(r"\w([\w .+-]{0,60}\w)?")
"""class names that are valid directory names on every file system, which allow 255 bytes: 62 characters of 4 bytes"""

UNSAFE = re.compile(r"[^\w+-]")


def to_png(image: np.ndarray) -> bytes:
    """Encode ``image`` [H, W, 1 or 3], clipped to [0, 1] and rounded to 1/255. Raise RequestError for other numbers of
    channels."""
    if image.shape[2] not in (1, 3):
        raise RequestError(f"PNG images have 1 or 3 channels, not {image.shape[2]}: export to a format of tensors")
    pixels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if image.shape[2] == 1 else pixels).save(file, "PNG")
    return file.getvalue()


def from_png(contents: Sequence[bytes], names: Sequence[str]) -> np.ndarray:
    """Decode PNG or JPEG files of one size and mode to float32 [N, H, W, 1 or 3] in [0, 1].

    Raise RequestError, which names the file, if a file is damaged or of another kind.
    """
    images = []
    for content, name in zip(contents, names, strict=True):
        try:
            with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as file:
                mode, image = file.mode, np.asarray(file)
        except Exception as error:  # PIL raises many types, and one for images that are too large
            raise RequestError(f"{name} is damaged or not a PNG image: export or copy it again") from error
        if mode not in ("L", "RGB"):
            raise RequestError(f"{name} has mode {mode}: save it as grey or RGB with 8 bits per channel")
        images.append(image.reshape(*image.shape[:2], -1))
        if images[-1].shape != images[0].shape:
            raise RequestError(
                f"{name} and {names[0]} differ in size or mode: give images of one size, all grey or all RGB"
            )
    return np.stack(images).astype(np.float32) / 255


def folder_names(class_names: Sequence[str]) -> list[str]:
    """Return directory names in alphabetical order: the class names, with a number in front if they are unsafe or
    unsorted."""
    distinct = len({name.casefold() for name in class_names}) == len(class_names)
    if distinct and list(class_names) == sorted(class_names) and all(map(SAFE_NAME.fullmatch, class_names)):
        return list(class_names)
    width = len(str(len(class_names) - 1))
    return [f"{c:0{width}}_{UNSAFE.sub('_', name)[:60]}" for c, name in enumerate(class_names)]


def _write(contents: Contents) -> dict[str, bytes]:
    assert contents.labels is not None
    folders = folder_names(list(map(str, contents.card["class_names"])))
    width = len(str(len(contents.images) // len(folders) - 1))
    numbers = np.arange(len(contents.images)) % (len(contents.images) // len(folders))
    rows = zip(contents.images, contents.labels, numbers, strict=True)
    return {f"train/{folders[label]}/{number:0{width}}.png": to_png(image) for image, label, number in rows}


def _read(files: Mapping[str, bytes]) -> Contents:
    folders = [PurePosixPath(name).parent.name for name in files]
    class_names, labels = np.unique(folders, return_inverse=True)
    return Contents(from_png([*files.values()], [*files]), labels, card={"class_names": class_names.tolist()})


PNG = Format(
    "folders of PNG images: train/CLASS/NUMBER.png, pixels, 8 bits",
    _write,
    _read,
    files=("train/*/*.png",),
    many=True,
    snippet="""\
import numpy
from PIL import Image


def pixels(path):
    with Image.open(path) as file:
        return numpy.atleast_3d(file)


files = sorted((HERE / "train").glob("*/*.png"))
images = torch.from_numpy(numpy.stack([pixels(path) for path in files])).permute(0, 3, 1, 2) / 255
labels = torch.arange(len(CLASSES)).repeat_interleave(len(files) // len(CLASSES))""",
    space="pixel",
    packed=True,
    lossless=False,
)
