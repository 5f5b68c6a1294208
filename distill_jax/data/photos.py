"""Photographs as they come, brought to one size and one number of channels."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from PIL import Image, ImageOps

from distill_jax.data.dataset import reason
from distill_jax.types import RequestError, Tick

SIDE = 224
"""what images of several sizes are cropped to where nothing else is asked for"""
GREY = {"1", "L", "LA", "La", "I"}
"""modes without colour, besides I;16"""
WORKERS = min(8, os.cpu_count() or 1)
"""images that are decoded at once, each of which may need hundreds of megabytes"""
Damaged = Mapping[int, str]
"""{place of a file among the others: why it cannot be read}"""
T = TypeVar("T")


class Plan(NamedTuple):
    """How N image files become one array, as far as their headers say."""

    side: int
    """H"""
    channels: int
    """c: 1 where all files are grey, else 3"""
    resized: str
    """the sizes that become H x H; empty where all images stay as they are"""
    damaged: Damaged


def planned(paths: Sequence[Path], side: int | None = None) -> Plan:
    """What the headers of ``paths`` [N] say. H is ``side``; where that is None the images' own, if all are square and
    equal, else SIDE."""
    heads = list(_threaded(_header, paths))
    sound = [head for head in heads if not isinstance(head, str)]
    sizes = {size for size, _ in sound}
    width, height = next(iter(sizes), (SIDE, SIDE))
    own = width if len(sizes) < 2 and width == height else None
    side = side or own or SIDE
    resized = "" if side == own else "several sizes" if len(sizes) > 1 else f"{width}x{height} pixels"
    damaged = {place: head for place, head in enumerate(heads) if isinstance(head, str)}
    return Plan(side, 1 if sound and all(grey for _, grey in sound) else 3, resized, damaged)


def decode_into(images: np.ndarray, paths: Sequence[Path], plan: Plan, root: Path, tick: Tick | None) -> Damaged:
    """Decode ``paths`` [N], files below ``root``, into ``images`` uint8 [N, H, H, c], each into its own row and WORKERS
    at once. Returns which cannot be read; their rows hold anything. ``tick`` is told of the progress.

    Raises RequestError where more than a hundredth of the files, and more than ten, cannot be read.
    """
    damaged = dict(plan.damaged)

    def one(place: int) -> str:
        if place in plan.damaged:
            return plan.damaged[place]
        try:
            images[place] = decoded(paths[place], plan.side, plan.channels)
        except Exception as error:  # damaged files make Pillow raise nearly anything
            return _why(error, paths[place])
        return ""

    for place, why in enumerate(_threaded(one, range(len(paths)))):
        if why:
            damaged[place] = why
        if len(damaged) > max(10, len(paths) // 100):
            raise RequestError(
                f"{len(damaged)} or more of the {len(paths)} image files in {root} cannot be read, such as "
                f"{some(damaged, paths, root)}: mend or remove them"
            )
        if tick is not None:
            tick(place + 1, len(paths))
    return damaged


def some(damaged: Damaged, paths: Sequence[Path], root: Path) -> str:
    """The first few damaged files, and why they cannot be read."""
    few = [f"{paths[place].relative_to(root)} ({damaged[place]})" for place in sorted(damaged)[:3]]
    return ", ".join([*few, "..."] if len(damaged) > 3 else few)


def decoded(path: Path, side: int, channels: int) -> np.ndarray:
    """uint8 [side, side, c]: upright, 8 bits per channel, without transparency, resized and cropped."""
    with Image.open(path) as image:
        # JPEG decodes to an eighth of its size at no cost. Twice what is wanted is left to be averaged.
        image.draft(None, (2 * side, 2 * side))
        ImageOps.exif_transpose(image, in_place=True)
        mode = "L" if channels == 1 else "RGB"
        image = _eight_bits(image)
        image = cropped(image if image.mode == mode else image.convert(mode), side)
        return np.asarray(image).reshape(side, side, channels)


def cropped(image: Image.Image, side: int) -> Image.Image:
    """[side, side]: the shorter side resized to ``side`` (bilinear, antialiased), then the centre."""
    scale = side / min(image.size)
    width, height = (max(side, round(scale * length)) for length in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - side) // 2, (height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _threaded(function: Callable[[Any], T], each: Sequence[Any]) -> Iterator[T]:
    """``function`` of each, in order. Decoding releases the interpreter lock."""
    with warnings.catch_warnings(), ThreadPoolExecutor(WORKERS) as pool:
        warnings.simplefilter("ignore")  # Pillow warns of odd metadata, which matter to nobody here
        yield from pool.map(function, each)


def _header(path: Path) -> tuple[tuple[int, int], bool] | str:
    """(width, height) and whether the image is grey; or why it cannot be read."""
    try:
        with Image.open(path) as image:
            return image.size, image.mode in GREY or image.mode.startswith("I;16")
    except Exception as error:
        return _why(error, path)


def _why(error: Exception, path: Path) -> str:
    return reason(error).replace(f" {str(path)!r}", "")  # the path is named anyway


def _eight_bits(image: Image.Image) -> Image.Image:
    """``image`` with 8 bits per channel and no palette."""
    if image.mode.startswith("I"):  # grey, 0 to 65535; Pillow reads coloured ones with 8 bits
        return Image.fromarray(np.rint(np.clip(np.asarray(image), 0, 65535) / 257).astype(np.uint8))
    return image.convert("RGBA") if image.mode == "P" else image  # a palette may hold transparency
