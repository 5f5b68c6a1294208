"""Which data a distilled set belongs to: what its card says, against what it is to be scored on."""

from __future__ import annotations

import sys
from pathlib import Path

from distill_jax.data import Dataset
from distill_jax.distilled import DistilledSet
from distill_jax.types import RequestError


def dataset_of(distilled: DistilledSet, path: Path) -> tuple[str, tuple[str, ...] | None]:
    """The data set that the card of the set in ``path`` names, and its ``--subset``. Raises RequestError for none."""
    card = distilled.card
    if not card.get("dataset"):
        raise RequestError(f"the card of {path} names no data set: give --dataset")
    return card["dataset"], tuple(card.get("subset", ())) or None


def check_same_data(distilled: DistilledSet, path: Path, data: Dataset, dataset: str) -> None:
    """Refuse test images that the set in ``path`` cannot be meant for, and warn where they are others than its own.
    ``dataset``: what ``data`` is called on the command line."""
    if data.shape != distilled.shape:
        sizes = ["x".join(map(str, shape)) for shape in (data.shape, distilled.shape)]
        raise RequestError(f"{dataset} has images {sizes[0]}, {path} has {sizes[1]}: give its own --dataset")
    if distilled.zca is not None and data.whitening is None:
        raise RequestError(f"{path} stands for whitened images, {dataset} is not: give --dataset zca:{dataset}")
    if distilled.zca is None and data.whitening is not None:
        raise RequestError(f"{dataset} is whitened, and the images that {path} stands for are not: leave out zca:")
    meant = distilled.card["class_names"]
    if list(data.class_names) == distilled.card.get("part_of"):
        raise RequestError(
            f"{path} holds {len(meant)} of the {data.classes} classes of {dataset}: join it with the "
            "others first (experiments.join), or add their names after --subset"
        )
    if list(data.class_names) != list(meant):
        have, want = (f"{len(names)}: {', '.join(map(str, names[:3]))}, ..." for names in (data.class_names, meant))
        raise RequestError(
            f"{data.name} has other classes ({have}) than {path} ({want}): give its own --dataset and --subset"
        )
    made_from = distilled.card.get("data", data.fingerprint)
    if made_from != data.fingerprint and "part_of" not in distilled.card:
        said = f"{path} was distilled from other images than {dataset}"
        print(f"warning: {said} (fingerprints {made_from} and {data.fingerprint})", file=sys.stderr)
