"""Converts a set from another codebase to a distilled set for ``evaluate`` and ``export``.

python -m experiments.import_set idc data_best.pt --dataset cifar10 --factor 2 --out idc.npz
python -m experiments.import_set mtt images_best.pt labels_best.pt --dataset cifar10 --out mtt.npz \\
    --mean 0.4914 0.4822 0.4465 --std 0.2023 0.1994 0.2010

Normalised images need the mean and std of their codebase. Many codebases use the values above for CIFAR-10, and some
also for CIFAR-100, although they are not the statistics of the pixels.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from distill_jax.cli.export import FORMATS_TABLE, summary
from distill_jax.cli.process.run_command import run_command
from distill_jax.cli.request.arguments import Subset
from distill_jax.cli.request.parser import parsed
from distill_jax.cli.request.read_data import read as read_data
from distill_jax.cli.session.set_files import saved
from distill_jax.formats import FORMATS, read
from distill_jax.types import RequestError, lookup


@dataclass(frozen=True)
class ImportSet:
    """Read a distilled set in the format of another codebase. Options provide what its files do not contain."""

    format: Positional[Annotated[str, arg(metavar="FORMAT", help="one of the formats above")]]
    paths: Positional[Annotated[tuple[Path, ...], arg(metavar="PATH", help="a folder, or the files in order")]]
    out: Annotated[Path, arg(metavar="OUT.npz")]
    """file to write"""
    dataset: Annotated[str | None, arg(metavar="DATASET")] = None
    """real data set, which provides the class names and, for sets in pixel space, mean and std"""
    subset: Subset = None
    side: Annotated[int | None, arg(metavar="INT")] = None
    """side in pixels to which photographs of DATASET are resized and cropped"""
    class_names: Annotated[tuple[str, ...] | None, arg(metavar="NAME [NAME ...]")] = None
    """class names in the order of the labels"""
    mean: Annotated[tuple[float, ...] | None, arg(metavar="FLOAT [FLOAT ...]")] = None
    """mean of pixels in [0, 1] per channel with which the codebase normalises"""
    std: Annotated[tuple[float, ...] | None, arg(metavar="FLOAT [FLOAT ...]")] = None
    """standard deviation of pixels per channel with which the codebase normalises"""
    factor: Annotated[int | None, arg(metavar="INT")] = None
    """each stored image is a grid of factor x factor images; 1: images are not packed"""
    space: Literal["pixel", "normalised"] | None = None
    """space of the stored values; default: the convention of the format"""


def run(argv: list[str]) -> None:
    description = f"{inspect.getdoc(ImportSet)}\n\n{FORMATS_TABLE}"
    options = parsed(ImportSet, argv, "import_set", description)
    form = lookup("format", options.format, FORMATS)
    if options.out.exists():
        raise RequestError(f"{options.out} exists: give another --out")
    if not options.paths:
        raise RequestError(f"no file is given: give {' '.join(form.files)}, or their folder")
    only = options.subset or ()
    if only and not options.dataset:
        raise RequestError("--subset needs a data set: add --dataset, or give the names as --class-names")
    fields = {key: getattr(options, key) for key in ("class_names", "mean", "std", "factor", "space")}
    data = read_data(options.dataset, options.side, only) if options.dataset else None
    try:
        distilled = read(form, *options.paths, **fields, dataset=data)
    except RequestError as error:  # the message names fields, not options
        message = re.sub(r"\bgive (?:the )?(mean|std|factor|space)\b", r"give --\1", str(error))
        raise RequestError(message.replace("class_names", "--class-names")) from error
    if data is not None and data.shape != distilled.shape:
        real, ours = ("x".join(map(str, shape)) for shape in (data.shape, distilled.shape))
        raise RequestError(
            f"{options.dataset} has images {real}, but the set {ours}: add --side {distilled.shape[0]} for photographs "
            "or give the data set that the set was made from"
        )
    if data is not None and data.classes != distilled.classes and "part_of" not in distilled.card:
        raise RequestError(
            f"{options.dataset} has {data.classes} classes{' with this --subset' * bool(only)}, but the set "
            f"{distilled.classes}: give the data set that the set was made from, with its --subset"
        )
    about = {"imported": options.format} | ({"dataset": options.dataset} if options.dataset else {})
    about |= {"subset": list(only)} if only else {}
    distilled = distilled.with_card(**{**about, **distilled.card})
    saved(distilled, options.out)
    print(f"{options.out}: {summary(distilled, form)}")


main = partial(run_command, run)
