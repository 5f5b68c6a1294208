"""Writes a distilled set in the format of another codebase, with a PyTorch script that trains on it.

python -m experiments.export runs/demo idc exports/idc                     # data.pt, packed
python -m experiments.export runs/demo png exports/png --images decoded
python exports/png/use_in_pytorch.py                                       # or import it from your own training
"""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from tyro.conf import FlagCreatePairsOff, Positional, arg

from distill_jax.cli.process.run_command import run_command
from distill_jax.cli.request.parser import parsed
from distill_jax.cli.session.set_files import set_in
from distill_jax.distilled import DistilledSet
from distill_jax.formats import FORMATS, Format, write
from distill_jax.types import lookup

FORMATS_TABLE = "\n".join(f"- {name}: {form.about}" for name, form in FORMATS.items())


@dataclass(frozen=True)
class Export:
    """Write a distilled set into a new folder, in the format of another codebase."""

    path: Positional[Annotated[Path, arg(metavar="PATH", help="a distilled.npz, or the workdir of a run")]]
    format: Positional[Annotated[str, arg(metavar="FORMAT", help="one of the formats above")]]
    out: Positional[Annotated[Path, arg(metavar="OUT", help="the folder to create")]]
    images: Literal["packed", "decoded"] | None = None
    """stored images, which may pack several, or decoded images; default: the convention of the format"""
    hard: FlagCreatePairsOff[bool] = False
    """write hard labels even if the set has soft labels"""


def run(argv: list[str]) -> None:
    description = f"{inspect.getdoc(Export)}\n\n{FORMATS_TABLE}"
    options = parsed(Export, argv, "export", description)
    form = lookup("format", options.format, FORMATS)
    distilled = set_in(options.path)
    if options.hard:
        distilled = distilled.with_soft(None)
    packed = None if options.images is None else options.images == "packed"
    print(f"{options.out}: {summary(write(distilled, form, options.out, packed), form)}")
    pixels = distilled.arrays(normalised=False)[0]
    # A normalised 0 or 1 comes back with an error of float32. Values within half a step of 8 bits are only rounded.
    outside = float(np.mean(np.abs(pixels - 0.5) > 0.5 + 0.5 / 255))
    if outside and not form.lossless:
        print(f"{100 * outside:.2g} % of the pixel values were outside [0, 1] and are clipped", file=sys.stderr)


def summary(distilled: DistilledSet, form: Format) -> str:
    """Describe a set in one line."""
    card, images = distilled.card, distilled.images
    pixels = "pixels in [0, 1]" if card["range"] else f"pixels from {images.min():.3g} to {images.max():.3g}"
    size = "x".join(map(str, distilled.shape))
    parts = [f"{len(distilled.images)} images {size} of {distilled.classes} classes"]
    parts += [f"packed, {distilled.decoded_count} when decoded" if card["packed"] else "decoded"]
    parts += [pixels if card["space"] == "pixel" else "normalised", f"{card['labels']} labels"]
    return ", ".join(parts + ([] if form.lossless else ["rounded to 8 bits per channel"]))


main = partial(run_command, run)
