"""Decodes photographs of any size and format to one size and one number of channels."""

from __future__ import annotations

import io
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
from PIL import Image, ImageOps

from distill_jax.data.dataset import reason
from distill_jax.types import RequestError, Tick

SIDE = 224
"""default side to which images of several sizes are resized and cropped"""
TEST = ("test", "testing", "validation", "valid", "val")
"""names of the folder or split of the test part; the first one that exists is used"""
GREY = {"1", "L", "LA", "La", "I"}
"""Pillow modes without colour, apart from I;16"""
WORKERS = min(8, os.cpu_count() or 1)
"""number of images that are decoded at once; each may need hundreds of megabytes"""
Source: TypeAlias = Path | bytes
"""an image file, or its content"""
Damaged: TypeAlias = Mapping[int, str]
"""{index of a file: why it cannot be read}"""
T = TypeVar("T")


class Plan(NamedTuple):
    """How to decode N image files into one array, as their headers determine."""

    side: int
    """H"""
    channels: int
    """c: 1 if all files are grey, else 3"""
    resized: str
    """description of the sizes that are resized to H x H; empty if all images keep their size"""
    damaged: Damaged

    @property
    def origin(self) -> dict[str, Any]:
        """the record of the size, for ``Dataset.origin``; empty if all images keep their size"""
        return {"side": self.side} if self.resized else {}

    def notes(self, name: str) -> tuple[str, ...]:
        """Return a line about the size for ``Dataset.notes``; none if all images keep their size."""
        cropped = f"{name}: images of {self.resized} are resized and cropped to {self.side}x{self.side}"
        return (cropped,) if self.resized else ()


def plan_decoding(files: Sequence[Source], side: int | None = None) -> Plan:
    """Read the headers of ``files`` [N] and return the plan. H is ``side``. If that is None, H is the side of the
    images if all are square and equal, else SIDE."""
    heads = list(_threaded(_header, files))
    sound = [head for head in heads if not isinstance(head, str)]
    sizes = {size for size, _ in sound}
    width, height = next(iter(sizes), (SIDE, SIDE))
    own = width if len(sizes) < 2 and width == height else None
    side = side or own or SIDE
    resized = "" if side == own else "several sizes" if len(sizes) > 1 else f"{width}x{height} pixels"
    damaged = {index: head for index, head in enumerate(heads) if isinstance(head, str)}
    return Plan(side, 1 if sound and all(grey for _, grey in sound) else 3, resized, damaged)


def decode_into(
    images: np.ndarray, files: Sequence[Source], plan: Plan, names: Sequence[str], where: str, tick: Tick | None
) -> Damaged:
    """Decode ``files`` [N] into the rows of ``images`` uint8 [N, H, H, c], WORKERS at once.

    Return the files that cannot be read; their rows are undefined. ``tick`` receives the progress. Raise RequestError
    if more than one percent of the files, and more than ten, cannot be read; it names them by their ``names`` [N] in
    ``where``.
    """
    damaged = dict(plan.damaged)

    def decode(index: int) -> str:
        if index in plan.damaged:
            return plan.damaged[index]
        try:
            images[index] = decode_image(files[index], plan.side, plan.channels)
        except Exception as error:  # Pillow raises almost any exception for damaged files
            return _explain(error, files[index])
        return ""

    for index, why in enumerate(_threaded(decode, range(len(files)))):
        if why:
            damaged[index] = why
        if len(damaged) > max(10, len(files) // 100):
            raise RequestError(
                f"{len(damaged)} or more of the {len(files)} image files in {where} cannot be read, such as "
                f"{list_damaged(damaged, names)}: repair or remove them"
            )
        if tick is not None:
            tick(index + 1, len(files))
    return damaged


def list_damaged(damaged: Damaged, names: Sequence[str]) -> str:
    """Return the names of the first three damaged files, with the reasons why they cannot be read."""
    few = [f"{names[index]} ({damaged[index]})" for index in sorted(damaged)[:3]]
    return ", ".join([*few, "..."] if len(damaged) > 3 else few)


def decode_image(file: Source, side: int, channels: int) -> np.ndarray:
    """Return the image as uint8 [side, side, c]: upright, without transparency, resized and cropped."""
    with _opened(file) as image:
        # A JPEG decoder can shrink up to eight times at no cost. Twice the side is kept for an antialiased resize.
        image.draft(None, (2 * side, 2 * side))
        ImageOps.exif_transpose(image, in_place=True)
        mode = "L" if channels == 1 else "RGB"
        image = _eight_bits(image)
        image = resize_and_crop(image if image.mode == mode else image.convert(mode), side)
        return np.asarray(image).reshape(side, side, channels)


def resize_and_crop(image: Image.Image, side: int) -> Image.Image:
    """Resize the shorter side to ``side`` (bilinear, antialiased) and return the central [side, side]."""
    scale = side / min(image.size)
    width, height = (max(side, round(scale * length)) for length in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - side) // 2, (height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _threaded(function: Callable[[Any], T], items: Sequence[Any]) -> Iterator[T]:
    """Map ``function`` over ``items`` in threads, in order. Decoding releases the interpreter lock."""
    with warnings.catch_warnings(), ThreadPoolExecutor(WORKERS) as pool:
        warnings.simplefilter("ignore")  # Pillow warns about odd metadata, which no pixel depends on
        yield from pool.map(function, items)


def _opened(file: Source) -> Image.Image:
    return Image.open(io.BytesIO(file) if isinstance(file, bytes) else file)


def _header(file: Source) -> tuple[tuple[int, int], bool] | str:
    """Return (width, height) and whether the image is grey, or the reason why the file cannot be read."""
    try:
        with _opened(file) as image:
            return image.size, image.mode in GREY or image.mode.startswith("I;16")
    except Exception as error:
        return _explain(error, file)


def _explain(error: Exception, file: Source) -> str:
    """Return the reason without the file, which every message names."""
    return re.sub(r" <_io.BytesIO[^>]*>", "", reason(error).replace(f" {str(file)!r}", "").rstrip(":"))


def _eight_bits(image: Image.Image) -> Image.Image:
    """Convert ``image`` to 8 bits per channel without a palette."""
    if image.mode.startswith("I"):  # grey, 0 to 65535; Pillow reads 16-bit colour images with 8 bits
        return Image.fromarray(np.rint(np.clip(np.asarray(image), 0, 65535) / 257).astype(np.uint8))
    return image.convert("RGBA") if image.mode == "P" else image  # a palette may hold transparency
