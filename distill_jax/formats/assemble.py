"""Converts between a DistilledSet and the contents of a format's files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from distill_jax.axes.parameterisation import MultiFormation, Pixels
from distill_jax.data.dataset import Dataset, reason, wrong_names
from distill_jax.distilled import DistilledSet
from distill_jax.formats.format import Contents, Format
from distill_jax.types import Normaliser, RequestError

NEEDED = {
    "class_names": "the names of its classes",
    "mean": "the mean that pixels are normalised with",
    "std": "the standard deviation that pixels are normalised with",
    "factor": "the factor it is packed with (1: not packed)",
}
"""{field of the card: its description} of the fields that training needs besides images and labels"""


def as_stored(distilled: DistilledSet, space: str, packed: bool) -> DistilledSet:
    """Return ``distilled`` in the ``space`` of a format, decoded unless ``packed``."""
    card = distilled.card
    if not packed:
        images, labels = distilled.arrays(normalised=space == "normalised")
        if card["factor"] > 1 or card["space"] != space:  # enlarged cells are not multiples of 1/255
            card = {name: value for name, value in card.items() if name != "bits"}
        return _build(images, labels, distilled.soft, {**card, "space": space, "factor": 1}, distilled.zca)
    if card["space"] == space:
        return distilled
    if any(side % card["factor"] for side in distilled.shape[:2]):
        raise RequestError("the factor does not divide the sides, and only pixels can be padded: export decoded images")
    # Packed formats hold pixels.
    images = distilled.normaliser.to_pixel(jnp.asarray(distilled.images))
    return _build(np.asarray(images), distilled.labels, None, {**card, "space": space}, distilled.zca)


def assemble(
    contents: Contents,
    known: Mapping[str, Any],
    form: Format,
    dataset: Dataset | None = None,
    zca: np.ndarray | None = None,
) -> DistilledSet:
    """Return the set of ``contents``.

    ``known`` has fields of the card, which take precedence over those in the files. ``dataset``, the real data, gives
    the fields that are still missing. ``zca`` is the matrix that whitens real images. Raise RequestError if something
    is missing or wrong.
    """
    given = {**contents.card, **known}
    card = {"space": form.space, **({} if form.packed else {"factor": 1}), **given}
    if dataset is not None:
        card = {"class_names": dataset.class_names, **card}
        if card["space"] == "pixel":
            card = {"mean": dataset.mean.tolist(), "std": dataset.std.tolist(), **card}
        elif dataset.whitening is not None:
            # MTT's networks receive whitened values without further normalisation.
            channels = dataset.shape[2]
            card = {"mean": [0.5] * channels, "std": [dataset.whitening.unit] * channels, **card}
    for key, what in NEEDED.items():
        if card.get(key) is None:
            raise RequestError(f"the files lack {what}: give {key}")
    try:
        distilled = _check_and_build(contents, card, zca)
    except RequestError:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        raise RequestError(
            f"the files or their card are invalid ({reason(error)}): mend or export them again"
        ) from error
    low, high = float(distilled.images.min()), float(distilled.images.max())
    if "space" not in given and card["space"] == "pixel" and (low < -0.5 or high > 1.5):  # some codebases do not clip
        raise RequestError(
            f"images range from {low:.3g} to {high:.3g}, not 0 to 1: give the space, normalised or pixel"
        )
    return distilled


def _check_and_build(contents: Contents, card: dict[str, Any], zca: np.ndarray | None) -> DistilledSet:
    images, labels, soft, _ = contents
    if wrong := wrong_names(card["class_names"]):
        raise RequestError(f"{wrong}: correct class_names")
    classes, factor = len(card["class_names"]), card["factor"]
    if images.ndim != 4 or 0 in images.shape or images.dtype.kind not in "fV":  # bfloat16 has kind V
        raise RequestError(f"images are {images.dtype}{list(images.shape)}: give at least one image of a floating type")
    if not isinstance(factor, int) or factor < 1 or card["space"] not in ("pixel", "normalised"):
        raise RequestError(f"factor is {factor!r} and space {card['space']!r}: give 1 or more, and pixel or normalised")
    for key in ("mean", "std"):
        with np.errstate(over="ignore"):
            values = np.asarray(card[key], np.float32)  # the precision of the normaliser
        if values.shape != images.shape[3:] or not np.isfinite(values).all() or (key == "std" and (values <= 0).any()):
            number = "a number above 0" if key == "std" else "a number"
            raise RequestError(f"{key} is {card[key]}: give {number} for each of {images.shape[3]} channels")
    with np.errstate(over="ignore"):
        images = images.astype(np.float32)
    if not np.isfinite(images).all():
        raise RequestError("images are not finite (the run diverged, or the file is damaged): export another run")
    if not classes or len(images) % classes:
        raise RequestError(f"{len(images)} images cannot be divided among {classes} classes: correct class_names")
    if labels is None:
        labels = np.repeat(np.arange(classes), len(images) // classes)
    if labels.shape != images.shape[:1]:
        raise RequestError(f"{len(images)} images have {len(labels)} labels: give files of one export")
    if labels.min() < 0 or labels.max() >= classes:
        raise RequestError(
            f"labels run from {labels.min()} to {labels.max()}, class_names has {classes}: give one per class"
        )
    counts = np.bincount(labels.astype(np.int64), minlength=classes)
    if len(set(counts.tolist())) > 1:
        raise RequestError(
            f"classes have from {counts.min()} to {counts.max()} images: give equally many of each class"
        )
    if soft is not None and factor > 1:
        raise RequestError("soft labels belong to decoded images, not to packed ones: give factor 1")
    order = np.argsort(labels, kind="stable")
    return _build(images[order], labels[order], None if soft is None else soft[order], card, zca)


def _build(
    images: np.ndarray, labels: np.ndarray, soft: np.ndarray | None, card: Mapping[str, Any], zca: np.ndarray | None
) -> DistilledSet:
    """Return the set of class-major ``images`` [N, H, W, c], with the storage and the other fields of ``card``."""
    classes, factor, space = len(card["class_names"]), card["factor"], card["space"]
    multi = MultiFormation(factor, card.get("decode") or "single", card.get("bound") or 128, space)
    parameterisation = multi if factor > 1 else Pixels(space)
    parameterisation.validate()
    parameterisation.check((images.shape[1], images.shape[2], images.shape[3]))
    by_class = images.reshape(classes, -1, *images.shape[1:])
    names = tuple(map(str, card["class_names"]))
    normaliser = Normaliser(*(jnp.asarray(card[key]) for key in ("mean", "std")))
    distilled = DistilledSet.of(parameterisation, jnp.asarray(by_class), names, normaliser, {})
    fields = {key: value for key, value in card.items() if key not in distilled.card or key == "library"}
    return distilled.with_soft(soft).with_zca(zca).with_card(**fields)
