"""Files of distilled sets that commands read and write."""

from __future__ import annotations

from pathlib import Path

from distill_jax.cli.session.atomic import replaced
from distill_jax.cli.session.workdir import CONFIG, DISTILLED, RESULT
from distill_jax.distilled import DistilledSet
from distill_jax.types import RequestError


def set_in(path: Path) -> DistilledSet:
    """Load the set in ``path``, a file or a workdir. Raise RequestError if there is none."""
    if path.is_dir() and not (path / DISTILLED).exists():
        if (path / RESULT).exists():
            raise RequestError(f"the run in {path} kept no images: give a run of another method")
        if (path / CONFIG).exists():
            raise RequestError(
                f"the run in {path} has no distilled set: continue it with --resume, or give another run"
            )
        if (path / "card.json").exists():
            raise RequestError(
                f"{path} is an export: give the set that it was made from, or use experiments.import_set"
            )
    return DistilledSet.load(path)


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
