"""Read a set that another codebase distilled, so that ``evaluate`` and ``export`` take it.

python -m experiments.import_set idc data_best.pt --dataset cifar10 --factor 2 --out idc.npz
python -m experiments.import_set mtt images_best.pt labels_best.pt --dataset cifar10 --out mtt.npz \\
    --mean 0.4914 0.4822 0.4465 --std 0.2023 0.1994 0.2010

Normalised images must come with the mean and std that their codebase normalises with. Many use the ones above for
CIFAR-10 (and some for CIFAR-100 too), which are not those of the pixels.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from distill_jax.cli.arguments import Subset, chosen_classes
from distill_jax.cli.export import FORMATS_TABLE, saved, summary
from distill_jax.cli.parser import parsed
from distill_jax.cli.process import run_command
from distill_jax.cli.read_data import read as read_data
from distill_jax.formats import FORMATS, read
from distill_jax.types import RequestError, lookup


@dataclass(frozen=True)
class ImportSet:
    """Read a distilled set in the format of another codebase. What its files do not say is asked for."""

    format: Positional[Annotated[str, arg(metavar="FORMAT", help="one of those above")]]
    paths: Positional[Annotated[tuple[Path, ...], arg(metavar="PATH", help="a folder, or the files in their order")]]
    out: Annotated[Path, arg(metavar="OUT.npz")]
    """the file to write"""
    dataset: Annotated[str | None, arg(metavar="DATASET")] = None
    """the real data that the set stands for: it tells the names of the classes and, for pixels, mean and std"""
    subset: Subset = None
    class_names: Annotated[tuple[str, ...] | None, arg(metavar="NAME [NAME ...]")] = None
    """in the order of the labels"""
    mean: Annotated[tuple[float, ...] | None, arg(metavar="FLOAT [FLOAT ...]")] = None
    """of pixels in [0, 1], each channel, as the codebase normalises them"""
    std: Annotated[tuple[float, ...] | None, arg(metavar="FLOAT [FLOAT ...]")] = None
    factor: Annotated[int | None, arg(metavar="INT")] = None
    """stored images are grids of factor x factor; 1: they are not packed"""
    space: Literal["pixel", "normalised"] | None = None
    """default: as is the custom of the format"""


def run(argv: list[str]) -> None:
    description = f"{inspect.getdoc(ImportSet)}\n\n{FORMATS_TABLE}"
    options = parsed(ImportSet, argv, "import_set", description)
    form = lookup("format", options.format, FORMATS)
    if options.out.exists():
        raise RequestError(f"{options.out} exists: give another --out")
    if not options.paths:
        raise RequestError(f"no file is given: name {' '.join(form.files)}, or the folder that they are in")
    only = chosen_classes(options.subset)
    if only and not options.dataset:
        raise RequestError("--subset is of a data set: add --dataset, or give the names as --class-names")
    told = {key: getattr(options, key) for key in ("class_names", "mean", "std", "factor", "space")}
    data = read_data(options.dataset, only=only) if options.dataset else None
    try:
        distilled = read(form, *options.paths, **told, dataset=data)
    except RequestError as error:  # which names fields
        said = re.sub(r"\bgive (?:the )?(mean|std|factor|space)\b", r"give --\1", str(error))
        raise RequestError(said.replace("class_names", "--class-names")) from error
    about = {"imported": options.format} | ({"dataset": options.dataset} if options.dataset else {})
    about |= {"subset": list(only)} if only else {}
    distilled = distilled.with_card(**{**about, **distilled.card})
    saved(distilled, options.out)
    print(f"{options.out}: {summary(distilled, form)}")


main = partial(run_command, run)
