"""Check that a distilled set and a data set belong together, from the card of the set."""

from __future__ import annotations

from pathlib import Path

from distill_jax.data import READ_HERE, Dataset
from distill_jax.distilled import DistilledSet
from distill_jax.types import RequestError


def dataset_of(distilled: DistilledSet, path: Path | str) -> tuple[str, tuple[str, ...] | None]:
    """Return the data set that the card of the set in ``path`` names, and its ``--subset``. Raises RequestError if the
    card names no data set, or a file that is not here."""
    card = distilled.card
    name = card.get("dataset")
    if not name:
        raise RequestError(f"the card of {path} names no data set: give --dataset")
    source, _, file = name.removeprefix("zca:").partition(":")
    if source in READ_HERE and not Path(file).expanduser().exists():
        raise RequestError(f"{path} was distilled from {name}, and there is no {file} here: give --dataset")
    return name, tuple(card.get("subset", ())) or None


def check_same_data(distilled: DistilledSet, path: Path | str, data: Dataset, dataset: str) -> str:
    """Raise RequestError if the set in ``path`` does not fit ``data``, whose name on the command line is ``dataset``.
    Return a warning if the set was distilled from other images, else an empty string."""
    if data.shape != distilled.shape:
        sizes = ["x".join(map(str, shape)) for shape in (data.shape, distilled.shape)]
        raise RequestError(
            f"{dataset} has images {sizes[0]}, but {path} has {sizes[1]}: give the --dataset that the set was made from"
        )
    if distilled.zca is not None and data.whitening is None:
        raise RequestError(
            f"{path} was distilled from whitened images, but {dataset} is not whitened: give --dataset zca:{dataset}"
        )
    if distilled.zca is None and data.whitening is not None:
        raise RequestError(f"{dataset} is whitened, but {path} was not distilled from whitened images: leave out zca:")
    class_names = distilled.card["class_names"]
    if list(data.class_names) == distilled.card.get("part_of"):
        raise RequestError(
            f"{path} holds {len(class_names)} of the {data.classes} classes of {dataset}: first join it with the other "
            "parts (experiments.join), or add the names of its classes after --subset"
        )
    if list(data.class_names) != list(class_names):
        both = (data.class_names, class_names)
        ours, its = (f"{len(names)}: {', '.join(map(str, names[:3]))}, ..." for names in both)
        raise RequestError(
            f"{data.name} has other classes ({ours}) than {path} ({its}): give the --dataset and --subset that the set "
            "was made from"
        )
    fingerprint = distilled.card.get("data", data.fingerprint)
    if fingerprint != data.fingerprint and "part_of" not in distilled.card:
        warning = f"{path} was distilled from other images than {dataset}"
        return f"{warning} (fingerprints {fingerprint} and {data.fingerprint})"
    return ""
