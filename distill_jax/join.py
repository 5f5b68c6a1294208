"""One set from parts that were made apart, each of some classes of the same data set (``distill --classes``)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distill_jax.distilled import DistilledSet, content_hash
from distill_jax.types import RequestError

OWN = ("class_names", "hash", "score", "seed", "library")
"""what parts may have each its own of; in all else they must agree"""


def joined(parts: Sequence[DistilledSet]) -> DistilledSet:
    """The whole set: classes in the data set's order, its card that of the parts less their scores.

    Raises RequestError where they are no parts, do not fit together, or leave a class out.
    """
    if not parts:
        raise RequestError("no part is given: name the sets, or the workdirs that they are in")
    first, *others = parts
    if "part_of" not in first.card:
        raise RequestError("this set holds all its classes: parts are made with experiments.distill --classes 0:5")
    for other in others:
        _check_fit(first, other)
    names = first.card["part_of"]
    made: dict[str, np.ndarray] = {}
    for part in parts:
        by_class = part.images.reshape(part.classes, -1, *part.shape)
        for name, images in zip(part.card["class_names"], by_class, strict=True):
            if name in made:
                raise RequestError(f"class {name} is in two of the parts: leave one of them out")
            made[name] = images
    missing = [str(number) for number, name in enumerate(names) if name not in made]
    if missing:
        raise RequestError(f"{len(missing)} classes are in no part: make them with --classes {' '.join(missing)}")
    images = np.concatenate([made[name] for name in names])
    labels = np.repeat(np.arange(len(names), dtype=np.int32), len(images) // len(names))
    seeds = list(dict.fromkeys(part.card.get("seed") for part in parts))
    card = {name: value for name, value in first.card.items() if name != "part_of"}
    card |= {"class_names": names, "hash": content_hash(images, labels, None, first.zca), "score": None}
    card |= {"seed": seeds[0] if len(seeds) == 1 else seeds, "parts": [part.card["hash"] for part in parts]}
    return DistilledSet(images, labels, card, None, first.zca)


def _check_fit(one: DistilledSet, other: DistilledSet) -> None:
    """Raise RequestError, naming the field, where two parts are not of one whole."""
    for name in {**one.card, **other.card}:
        if name not in OWN and one.card.get(name) != other.card.get(name):
            raise RequestError(
                f"the parts do not fit: {name} is {one.card.get(name)} in one and {other.card.get(name)} in another; "
                "make both with the same options but --classes"
            )
    if one.shape != other.shape:
        raise RequestError("the parts do not fit: their images differ in size")
