"""Files of distilled sets that commands read and write."""

from __future__ import annotations

import re
from pathlib import Path

from distill_jax.cli.session.atomic import replaced
from distill_jax.cli.session.workdir import CONFIG, DISTILLED, RESULT
from distill_jax.data import Dataset
from distill_jax.distilled import DistilledSet
from distill_jax.formats import FORMATS, read, recognised
from distill_jax.types import RequestError, lookup


def set_in(path: Path) -> DistilledSet:
    """Load the set in ``path``, a file or a workdir. Raise RequestError if there is none."""
    if path.is_dir() and not (path / DISTILLED).exists():
        if (path / RESULT).exists():
            raise RequestError(f"the run in {path} kept no images: give a run of another method")
        if (path / CONFIG).exists():
            raise RequestError(
                f"the run in {path} has no distilled set: continue it with --resume, or give another run"
            )
        if name := recognised(path):
            raise RequestError(f"{path} has a set in the format {name}: read it with experiments.import_set")
    return DistilledSet.load(path)


def foreign_set(path: Path, name: str, factor: int | None, data: Dataset | None) -> DistilledSet:
    """Read the set of another codebase in ``path``, of the format ``name``. ``data``, the real data, provides what its
    files lack. Raise RequestError if something is missing or wrong."""
    form = lookup("format", name, FORMATS)
    beside = path.parent if path.is_file() and len(form.files) > 1 else path
    try:
        return read(form, beside, factor=factor, dataset=data)
    except RequestError as error:  # the message names fields, not options
        if str(error).endswith("give class_names"):
            raise RequestError(f"{path} lacks the names of its classes: give --dataset") from error
        if str(error).endswith(("give mean", "give std", "give the space, normalised or pixel")):
            mend = "convert it with experiments.import_set, which takes --mean, --std and --space"
            raise RequestError(f"{path}: {str(error).rpartition(':')[0]}: {mend}") from error
        raise RequestError(re.sub(r"\bgive factor\b", "give --factor", str(error))) from error


def saved(distilled: DistilledSet, out: Path) -> None:
    """Write a set to a new file. Raise RequestError if the file exists or cannot be written."""
    if out.exists():
        raise RequestError(f"{out} exists: give another --out")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with replaced(out) as temporary:
            distilled.save(temporary)
    except OSError as error:
        raise RequestError(f"cannot write {out} ({error.strerror}): give another --out") from error
