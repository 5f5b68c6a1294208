"""DistilledSet, the result of a run: images, labels, and a card with all that is needed to use them.

distilled = DistilledSet.load("runs/demo/distilled.npz")
images, labels = distilled.arrays()          # decoded and normalised: train on these
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from distill_jax import __version__, sets
from distill_jax.axes.parameterisation import MultiFormation, Pixels, unbounded
from distill_jax.contracts import Parameterisation
from distill_jax.data import whiten
from distill_jax.data.dataset import digest_of, wrong_names
from distill_jax.types import Array, Normaliser, RequestError

SCHEMA = 1
"""version of the card; readers keep unknown fields"""

REQUIRED = ("schema", "class_names", "space", "mean", "std", "factor", "hash")


@dataclass(frozen=True, eq=False)
class DistilledSet:
    """The stored images of C classes, I per class, in class-major order, with their labels and card. If the factor is
    above 1, each stored image decodes to several images."""

    images: np.ndarray = field(repr=False)
    """float32 [C*I, H, W, c]; in [0, 1] where the card's space is 'pixel', else ``(pixel - mean) / std``"""
    labels: np.ndarray = field(repr=False)
    """int32 [C*I]: 0, ..., 0, 1, ..., 1, ..., C-1"""
    card: Mapping[str, Any]
    """schema, class_names [C], space, range, mean and std [c] of pixel values, factor, decode, bound, packed, labels,
    zca, ipc, hash, library; and fields that the creator added: method, dataset, recipe, seed, protocol, score, bits
    (8: pixels are multiples of 1/255), ..."""
    soft: np.ndarray | None = field(default=None, repr=False)
    """float32 [M, C]: class probabilities of the decoded images; None if labels are hard"""
    zca: np.ndarray | None = field(default=None, repr=False)
    """float32 [d + 1, d], d = H*W*c: the matrix that whitens real images (``data.Whitening``), if the set is whitened.
    The pixels of such a set, and their mean and std, are whitened too."""

    @classmethod
    def of(
        cls,
        parameterisation: Parameterisation,
        images: Array,
        class_names: tuple[str, ...],
        normaliser: Normaliser,
        about: Mapping[str, Any],
    ) -> DistilledSet:
        """Build the set of ``images`` [C, I, H, W, c] in the parameterisation's space and add ``about`` (JSON) to the
        card. A parameterisation from outside this library cannot be loaded, so its decoded images are stored."""
        if type(parameterisation) is MultiFormation:  # a subclass may decode in another way
            kind: Any = unbounded(parameterisation)
            decode = {"factor": kind.factor, "decode": kind.decode_type, "bound": kind.bound}
        else:
            images = jnp.stack([parameterisation.decode(of_class) for of_class in images])
            decode = {"factor": 1, "decode": "single", "bound": None}
        classes, ipc = images.shape[:2]
        flat = np.asarray(images, np.float32).reshape(-1, *images.shape[2:])
        labels = np.repeat(np.arange(classes, dtype=np.int32), ipc)
        card = {
            "schema": SCHEMA,
            "class_names": list(class_names),
            "space": parameterisation.space,
            "range": [0.0, 1.0] if parameterisation.space == "pixel" and flat.min() >= 0 and flat.max() <= 1 else None,
            "mean": np.asarray(normaliser.mean).tolist(),
            "std": np.asarray(normaliser.std).tolist(),
            **decode,
            "packed": decode["factor"] > 1,
            "labels": "hard",
            "zca": False,
            "ipc": ipc,
            "library": f"distill_jax {__version__}",
            "hash": content_hash(flat, labels),
            **about,
        }
        return cls(flat, labels, json.loads(json.dumps(card)))

    @property
    def classes(self) -> int:
        """C, the number of classes."""
        return len(self.card["class_names"])

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, c), the shape of one image."""
        _, height, width, channels = self.images.shape
        return height, width, channels

    @property
    def mean(self) -> np.ndarray:
        """float32 [c]: mean of the pixel values that images are normalised with."""
        return np.asarray(self.card["mean"], np.float32)

    @property
    def std(self) -> np.ndarray:
        """float32 [c]: standard deviation of the pixel values that images are normalised with."""
        return np.asarray(self.card["std"], np.float32)

    @property
    def normaliser(self) -> Normaliser:
        """The map between pixel space and network space."""
        return Normaliser(jnp.asarray(self.mean), jnp.asarray(self.std))

    @property
    def parameterisation(self) -> Pixels | MultiFormation:
        """The parameterisation that decodes the stored images."""
        card = self.card
        if card["factor"] == 1:
            return Pixels(card["space"])
        return MultiFormation(card["factor"], card.get("decode") or "single", card.get("bound") or 128, card["space"])

    def with_factor(self, factor: int) -> DistilledSet:
        """Return the set with another decoding factor, not scored. Raise RequestError if its labels are soft."""
        if factor < 1:
            raise RequestError(f"factor is {factor}: it must be at least 1")
        if factor == self.card["factor"]:
            return self
        if self.soft is not None:
            raise RequestError(f"the soft labels belong to factor {self.card['factor']}, not {factor}: keep it")
        changed = {"factor": factor, "decode": self.card.get("decode", "single"), "packed": factor > 1, "score": None}
        return replace(self, card={**self.card, **changed})

    def with_card(self, **fields: Any) -> DistilledSet:
        """Return the set with these fields (JSON values) of the card replaced."""
        return replace(self, card=json.loads(json.dumps({**self.card, **fields})))

    def with_soft(self, soft: np.ndarray | None) -> DistilledSet:
        """Return the set with the class probabilities ``soft`` [M, C], in the order of ``decoded``, or with hard labels
        if ``soft`` is None. The card keeps no score of other labels. Raise RequestError unless ``soft`` has
        probabilities for each decoded image."""
        soft = None if soft is None else np.asarray(soft, np.float32)
        if wrong := None if soft is None else _wrong_soft(soft, self.decoded_count, self.classes):
            raise RequestError(f"{wrong}: give probabilities of {self.decoded_count} decoded images")
        content = content_hash(self.images, self.labels, soft, self.zca)
        score = {"score": None} if "score" in self.card and content != self.card["hash"] else {}
        kind = "hard" if soft is None else "soft"
        return replace(self, soft=soft, card={**self.card, "labels": kind, "hash": content, **score})

    def with_zca(self, matrix: np.ndarray | None) -> DistilledSet:
        """Return the set marked as whitened by ``matrix`` [d + 1, d], or as not whitened if ``matrix`` is None. Raise
        RequestError if the matrix has another shape."""
        matrix = None if matrix is None else np.asarray(matrix, np.float32)
        if wrong := None if matrix is None else _wrong_zca(matrix, self.shape):
            raise RequestError(f"{wrong}: give the matrix that whitens these images")
        content = content_hash(self.images, self.labels, self.soft, matrix)
        return replace(self, zca=matrix, card={**self.card, "zca": matrix is not None, "hash": content})

    @property
    def decoded_count(self) -> int:
        """M = C*D, the number of decoded images."""
        return self.classes * self.parameterisation.decoded(len(self.images) // self.classes)

    @property
    def nbytes(self) -> dict[str, int]:
        """Size in bytes of the ``images`` and of the ``labels``, which are the soft labels if there are any."""
        return {"images": self.images.nbytes, "labels": (self.labels if self.soft is None else self.soft).nbytes}

    def targets(self) -> np.ndarray:
        """Return the training targets of the decoded images, float32 [M, C]: soft labels, or one-hot hard labels."""
        if self.soft is not None:
            return self.soft
        return np.repeat(np.eye(self.classes, dtype=np.float32), self.decoded_count // self.classes, axis=0)

    def decoded(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the decoded images, float32 [M, H, W, c] in the card's space, class-major, and labels, int32 [M]."""
        by_class = self.images.reshape(self.classes, -1, *self.shape)
        images = np.concatenate([np.asarray(self.parameterisation.decode(jnp.asarray(each))) for each in by_class])
        return images, np.repeat(np.arange(self.classes, dtype=np.int32), len(images) // self.classes)

    def arrays(self, normalised: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """Return the decoded images, float32 [M, H, W, c], and labels, int32 [M].

        If ``normalised``, images are in network space, ready for training. Otherwise they are pixels, which lie in
        [0, 1] if the set was optimised in pixel space. Images of a whitened set are whitened in both cases.
        """
        images, labels = self.decoded()
        if normalised == (self.card["space"] == "normalised"):
            return images, labels
        normaliser = Normaliser._make([self.mean, self.std])  # of NumPy arrays, so that nothing is compiled
        change: Any = normaliser.to_network if normalised else normaliser.to_pixel
        return change(images), labels

    def prepared(self, pixels: np.ndarray) -> np.ndarray:
        """Prepare real images, ``pixels`` [N, H, W, c] uint8 or in [0, 1], for networks trained on this set: whiten
        them if the set is whitened, and normalise them. Return float32. Raise RequestError for other arrays."""
        pixels = np.asarray(pixels)
        if pixels.shape[1:] != self.shape or not (pixels.dtype == np.uint8 or pixels.dtype.kind == "f"):
            what = f"images are {pixels.dtype}{list(pixels.shape)}, not [N, {', '.join(map(str, self.shape))}] of uint8"
            raise RequestError(f"{what} or of floats from 0 to 1: convert them")
        pixels = np.asarray(pixels, np.float32) / (255 if pixels.dtype == np.uint8 else 1)
        return ((pixels if self.zca is None else whiten(pixels, self.zca)) - self.mean) / self.std

    def save(self, path: Path | str) -> None:
        """Write an npz file, without pickled data: ``images``, ``labels``, ``card`` (a 0-d JSON string), and ``soft``
        and ``zca`` if the set has them. Images rounded to 8 bits are compressed to about a third."""
        arrays = {"images": self.images, "labels": self.labels, "card": np.array(json.dumps(dict(self.card)))}
        arrays |= {name: a for name, a in (("soft", self.soft), ("zca", self.zca)) if a is not None}
        with Path(path).open("wb") as file:
            (np.savez_compressed if "bits" in self.card else np.savez)(file, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path | str) -> DistilledSet:
        """Load a file written by ``save``, the set in the workdir of a run, or a set that comes with the library, such
        as ``digits-ipc1``. Raise RequestError if the file is missing, damaged or not a distilled set."""
        try:
            with sets.located(Path(path)).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                images, labels, card = (arrays[key] for key in ("images", "labels", "card"))
                soft, zca = (arrays[key] if key in arrays.files else None for key in ("soft", "zca"))
        except FileNotFoundError:
            known = ", ".join(sets.names())
            raise RequestError(f"no distilled set in {path}: give a file, a workdir, or one of {known}") from None
        except KeyError as error:
            raise RequestError(f"{path} is not a distilled set: {error.args[0]}") from error
        except MemoryError:
            raise
        except Exception as error:  # numpy and zipfile raise many types on damaged files
            raise RequestError(f"{path} is damaged or not an npz file: distil it again, or copy it again") from error
        try:
            wrong = _wrong(images, labels, card, soft, zca)
        except (TypeError, ValueError) as error:
            wrong = f"the card is invalid ({error})"
        if wrong:
            raise RequestError(f"{path} is damaged or not a distilled set: {wrong}")
        return cls(images, labels, json.loads(str(card)), soft, zca)


def content_hash(
    images: np.ndarray, labels: np.ndarray, soft: np.ndarray | None = None, zca: np.ndarray | None = None
) -> str:
    """Return the hexadecimal SHA-256 of shapes, images, labels, and of soft labels and whitening if given."""
    return digest_of(images, labels, *(a for a in (soft, zca) if a is not None))


def _wrong_soft(soft: np.ndarray, images: int, classes: int) -> str | None:
    """Describe what is wrong with soft labels; None if nothing is."""
    if soft.dtype != np.float32 or soft.shape != (images, classes):
        return f"soft labels are {soft.dtype}{list(soft.shape)}, not float32 [{images}, {classes}]"
    if not (np.isfinite(soft).all() and (soft >= 0).all() and np.allclose(soft.sum(1), 1, atol=1e-3)):
        return "soft labels are not rows of probabilities"
    return None


def _wrong_zca(matrix: np.ndarray, shape: tuple[int, int, int]) -> str | None:
    """Describe what is wrong with the whitening matrix of images of ``shape`` (H, W, c); None if nothing is."""
    values = shape[0] * shape[1] * shape[2]
    if matrix.dtype != np.float32 or matrix.shape != (values + 1, values):
        return f"zca is {matrix.dtype}{list(matrix.shape)}, not float32 [{values + 1}, {values}]"
    return None if np.isfinite(matrix).all() else "zca is not finite"


def _wrong(
    images: np.ndarray, labels: np.ndarray, text: np.ndarray, soft: np.ndarray | None, zca: np.ndarray | None
) -> str | None:
    """Describe what is wrong with the content of a file; None if nothing is."""
    card = json.loads(str(text)) if text.dtype.kind == "U" and text.ndim == 0 else None
    if not isinstance(card, dict):
        return "card is not a JSON object"
    if missing := [key for key in REQUIRED if key not in card]:
        return f"the card lacks {missing[0]}"
    if not isinstance(card["schema"], int) or card["schema"] > SCHEMA:
        return f"the card has schema {card['schema']}, and this version of distill_jax reads up to {SCHEMA}: update it"
    if images.dtype != np.float32 or images.ndim != 4 or 0 in images.shape:
        return f"images are {images.dtype}{list(images.shape)}, not float32 [C*I, H, W, c]"
    if not np.isfinite(images).all():
        return "images are not finite"
    if wrong := wrong_names(card["class_names"]):
        return f"in the card {wrong}"
    classes = len(card["class_names"])
    if classes < 1 or len(images) % classes:
        return f"{len(images)} images are not a multiple of {classes} classes"
    if labels.dtype != np.int32 or not np.array_equal(labels, np.repeat(np.arange(classes), len(images) // classes)):
        return "labels are not int32 0, ..., 0, 1, ..., C-1"
    if card["space"] not in ("pixel", "normalised") or not isinstance(card["factor"], int) or card["factor"] < 1:
        return "the card's space or factor is invalid"
    try:
        DistilledSet(images, labels, card).parameterisation.validate()
    except RequestError as error:
        return f"in the card {error}"
    mean, std = (np.asarray(card[key], np.float32) for key in ("mean", "std"))
    if not (mean.shape == std.shape == images.shape[3:] and np.isfinite([mean, std]).all() and (std > 0).all()):
        return f"the card's mean and std are not {images.shape[3]} numbers each, one per channel, with std above 0"
    if card["hash"] != content_hash(images, labels, soft, zca):
        return "the content does not match the card's hash"
    if (soft is not None) != (card.get("labels", "hard") == "soft"):
        return "the card contradicts the soft labels"
    if (zca is not None) != card.get("zca", False):
        return "the card contradicts the whitening"
    if zca is not None and (wrong := _wrong_zca(zca, (images.shape[1], images.shape[2], images.shape[3]))):
        return wrong
    return None if soft is None else _wrong_soft(soft, DistilledSet(images, labels, card).decoded_count, classes)
