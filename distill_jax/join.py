"""Joins sets that were distilled separately for some classes of a data set (``distill --classes``) into one set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distill_jax.distilled import DistilledSet, content_hash
from distill_jax.types import RequestError

OWN = ("class_names", "class_numbers", "hash", "score", "seed", "library", "dataset")
"""card fields that may differ between parts; all other fields must agree. ``data`` identifies the data set, whose file
may have other paths on other machines."""


def joined(parts: Sequence[DistilledSet]) -> DistilledSet:
    """Return the whole set: classes in the order of the data set, with the card of the parts except their scores.

    Raise RequestError if the sets are not parts, do not fit together, or leave a class out.
    """
    if not parts:
        raise RequestError("no part is given: name the sets of the parts, or their workdirs")
    first, *rest = parts
    if "part_of" not in first.card:
        raise RequestError("the first set has all classes: make parts with experiments.distill --classes 0:5")
    for other in rest:
        _check_fit(first, other)
    if any(part.soft is not None for part in parts):
        raise RequestError("a part has soft labels: join the parts with hard labels, as distill writes them")
    names = first.card["part_of"]
    images_of: dict[int, np.ndarray] = {}
    for part in parts:
        by_class = part.images.reshape(part.classes, -1, *part.shape)
        # Older parts have no numbers.
        numbers = part.card.get("class_numbers") or map(names.index, part.card["class_names"])
        for number, images in zip(numbers, by_class, strict=True):
            if number in images_of:
                raise RequestError(f"class {names[number]} is in two parts: drop one of these parts")
            images_of[number] = images
    missing = [str(number) for number in range(len(names)) if number not in images_of]
    if missing:
        raise RequestError(f"{len(missing)} classes are in no part: distill them with --classes {' '.join(missing)}")
    images = np.concatenate([images_of[number] for number in range(len(names))])
    labels = np.repeat(np.arange(len(names), dtype=np.int32), len(images) // len(names))
    seeds = list(dict.fromkeys(part.card.get("seed") for part in parts))
    card = {name: value for name, value in first.card.items() if name not in ("part_of", "class_numbers")}
    card |= {"class_names": names, "hash": content_hash(images, labels, None, first.zca), "score": None}
    card |= {"seed": seeds[0] if len(seeds) == 1 else seeds, "parts": [part.card["hash"] for part in parts]}
    return DistilledSet(images, labels, card, None, first.zca)


def _check_fit(one: DistilledSet, other: DistilledSet) -> None:
    """Raise RequestError with the name of the field if two parts do not belong to one set."""
    for name in {**one.card, **other.card}:
        if name not in OWN and one.card.get(name) != other.card.get(name):
            raise RequestError(
                f"the parts do not fit: {name} is {one.card.get(name)} in one and {other.card.get(name)} in another; "
                "distill both with the same options except --classes"
            )
    if one.shape != other.shape:
        raise RequestError("the parts do not fit: their images differ in size")
