"""DistilledSet: the artefact of a run. Images, labels, and a card that says everything needed to use them.

distilled = DistilledSet.load("runs/demo/distilled.npz")
images, labels = distilled.arrays()          # decoded and normalised: train on these
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from distill_jax import __version__, sets
from distill_jax.axes.parameterisation import MultiFormation, Pixels
from distill_jax.contracts import Parameterisation
from distill_jax.data import whiten
from distill_jax.types import Array, Normaliser, RequestError

SCHEMA = 1
"""version of the card; a reader keeps fields it does not know"""

REQUIRED = ("schema", "class_names", "space", "mean", "std", "factor", "hash")


@dataclass(frozen=True, eq=False)
class DistilledSet:
    """I images per class of C classes, class-major, as they are stored: with a factor above 1, several in one."""

    images: np.ndarray = field(repr=False)
    """float32 [C*I, H, W, c]; in [0, 1] where the card's space is 'pixel', else ``(pixel - mean) / std``"""
    labels: np.ndarray = field(repr=False)
    """int32 [C*I]: 0, ..., 0, 1, ..., 1, ..., C-1"""
    card: Mapping[str, Any]
    """schema, class_names [C], space, range, mean and std [c] of pixel values, factor, decode, bound, packed, labels,
    zca, ipc, hash, library; and what the maker of the set added: method, dataset, recipe, seed, protocol, score, bits
    (8: pixels are multiples of 1/255), ..."""
    soft: np.ndarray | None = field(default=None, repr=False)
    """float32 [M, C]: class probabilities of the decoded images (``with_soft``); None where labels are hard"""
    zca: np.ndarray | None = field(default=None, repr=False)
    """float32 [d + 1, d], d = H*W*c: where the set stands for whitened images, the matrix that whitens real ones
    (``data.Whitening``). Pixels of the set, and their mean and std, are whitened ones then"""

    @classmethod
    def of(
        cls,
        parameterisation: Parameterisation,
        images: Array,
        class_names: tuple[str, ...],
        normaliser: Normaliser,
        about: Mapping[str, Any],
    ) -> DistilledSet:
        """The set of ``images`` [C, I, H, W, c] in the parameterisation's space; ``about`` (JSON) joins the card.

        A parameterisation from outside this library is not known where the set is loaded: then decoded images are kept.
        """
        if isinstance(parameterisation, MultiFormation):
            # The bound spares the matching; networks are trained on all cells, as in IDC's own test.
            kind = "multi" if parameterisation.decode_type == "multi" else "single"
            decode = {"factor": parameterisation.factor, "decode": kind, "bound": parameterisation.bound}
        else:
            images = jnp.stack([parameterisation.decode(of_class) for of_class in images])
            decode = {"factor": 1, "decode": "single", "bound": None}
        classes, ipc = images.shape[:2]
        flat = np.asarray(images, np.float32).reshape(-1, *images.shape[2:])
        labels = np.repeat(np.arange(classes, dtype=np.int32), ipc)
        pixel = parameterisation.space == "pixel"
        card = {
            "schema": SCHEMA,
            "class_names": list(class_names),
            "space": parameterisation.space,
            "range": [0.0, 1.0] if pixel else None,
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
        """C"""
        return len(self.card["class_names"])

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, c)"""
        _, height, width, channels = self.images.shape
        return height, width, channels

    @property
    def mean(self) -> np.ndarray:
        """float32 [c], of the pixel values of the real training images"""
        return np.asarray(self.card["mean"], np.float32)

    @property
    def std(self) -> np.ndarray:
        """float32 [c]"""
        return np.asarray(self.card["std"], np.float32)

    @property
    def normaliser(self) -> Normaliser:
        """The map to and from network space."""
        return Normaliser(jnp.asarray(self.mean), jnp.asarray(self.std))

    @property
    def parameterisation(self) -> Pixels | MultiFormation:
        """How stored images are decoded."""
        card = self.card
        if card["factor"] == 1:
            return Pixels(card["space"])
        return MultiFormation(card["factor"], card.get("decode", "single"), card.get("bound") or 128, card["space"])

    def with_factor(self, factor: int) -> DistilledSet:
        """The same images, decoded with another factor than the card says. RequestError where each decoded image has a
        soft label of its own."""
        if self.soft is not None and factor != self.card["factor"]:
            raise RequestError(
                f"the soft labels are of images decoded with factor {self.card['factor']}, not {factor}: keep it"
            )
        changed = {"factor": factor, "decode": self.card.get("decode", "single"), "packed": factor > 1}
        return replace(self, card={**self.card, **changed})

    def with_card(self, **fields: Any) -> DistilledSet:
        """The same images, with these fields (JSON values) of the card set."""
        return replace(self, card=json.loads(json.dumps({**self.card, **fields})))

    def with_soft(self, soft: np.ndarray | None) -> DistilledSet:
        """The same images with class probabilities ``soft`` [M, C], in the order of ``decoded``; None: with their hard
        labels. Raises RequestError for what are no probabilities of each decoded image."""
        soft = None if soft is None else np.asarray(soft, np.float32)
        wrong = None if soft is None else _wrong_soft(soft, self.decoded_count, self.classes)
        if wrong:
            raise RequestError(f"{wrong}: give probabilities of {self.decoded_count} decoded images")
        content = content_hash(self.images, self.labels, soft, self.zca)
        return replace(
            self, soft=soft, card={**self.card, "labels": "hard" if soft is None else "soft", "hash": content}
        )

    def with_zca(self, matrix: np.ndarray | None) -> DistilledSet:
        """The same images, which stand for real ones whitened by ``matrix`` [d + 1, d]; None: for real ones as they
        are. Raises RequestError for a matrix of another shape."""
        matrix = None if matrix is None else np.asarray(matrix, np.float32)
        wrong = None if matrix is None else _wrong_zca(matrix, self.shape)
        if wrong:
            raise RequestError(f"{wrong}: give the matrix that whitens these images")
        content = content_hash(self.images, self.labels, self.soft, matrix)
        return replace(self, zca=matrix, card={**self.card, "zca": matrix is not None, "hash": content})

    @property
    def decoded_count(self) -> int:
        """M = C*D"""
        return self.classes * self.parameterisation.decoded(len(self.images) // self.classes)

    @property
    def nbytes(self) -> dict[str, int]:
        """What the arrays take: ``images``, and ``labels``, soft ones where the set has them."""
        return {"images": self.images.nbytes, "labels": (self.labels if self.soft is None else self.soft).nbytes}

    def targets(self) -> np.ndarray:
        """float32 [M, C]: what to train the decoded images towards, soft labels or else one-hot ones."""
        if self.soft is not None:
            return self.soft
        return np.repeat(np.eye(self.classes, dtype=np.float32), self.decoded_count // self.classes, axis=0)

    def decoded(self) -> tuple[np.ndarray, np.ndarray]:
        """float32 [M, H, W, c] in the card's space, class-major, and int32 labels [M]; M = C*D."""
        by_class = self.images.reshape(self.classes, -1, *self.shape)
        images = np.concatenate([np.asarray(self.parameterisation.decode(jnp.asarray(each))) for each in by_class])
        return images, np.repeat(np.arange(self.classes, dtype=np.int32), len(images) // self.classes)

    def arrays(self, normalised: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """Decoded images float32 [M, H, W, c] and labels int32 [M]. ``normalised``: as a network is trained on them,
        ``(pixel - mean) / std``; else pixels, in [0, 1] where the set was optimised in pixel space. Where the card says
        ``zca`` they are whitened either way."""
        images, labels = self.decoded()
        if normalised == (self.card["space"] == "normalised"):
            return images, labels
        normaliser = Normaliser._make([self.mean, self.std])  # of NumPy arrays: nothing to compile
        change: Any = normaliser.to_network if normalised else normaliser.to_pixel
        return change(images), labels

    def prepared(self, pixels: np.ndarray) -> np.ndarray:
        """Real images as a network that is trained on this set must be shown them: ``pixels`` [N, H, W, c], uint8
        or in [0, 1], whitened where the card says ``zca`` and normalised. float32."""
        pixels = np.asarray(pixels, np.float32) / (255 if pixels.dtype == np.uint8 else 1)
        pixels = pixels if self.zca is None else whiten(pixels, self.zca)
        return (pixels - self.mean) / self.std

    def save(self, path: Path | str) -> None:
        """Write an npz file with ``images``, ``labels``, ``card``, a 0-d JSON string, and ``soft`` and ``zca``
        where the set has them. Nothing in it is pickled; rounded images are compressed, to about a third."""
        arrays = {"images": self.images, "labels": self.labels, "card": np.array(json.dumps(dict(self.card)))}
        arrays |= {name: a for name, a in (("soft", self.soft), ("zca", self.zca)) if a is not None}
        with Path(path).open("wb") as file:
            (np.savez_compressed if "bits" in self.card else np.savez)(file, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path | str) -> DistilledSet:
        """Read what ``save`` wrote, or a set that comes with the library, such as ``digits-ipc1``. Raises RequestError
        for a file that is missing, damaged or something else."""
        try:
            with sets.located(Path(path)).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                images, labels, card = (arrays[key] for key in ("images", "labels", "card"))
                soft, zca = (arrays[key] if key in arrays.files else None for key in ("soft", "zca"))
        except FileNotFoundError:
            known = ", ".join(sets.names())
            raise RequestError(
                f"no distilled set in {path}: give a distilled.npz, the workdir that it is in, or one of {known}"
            ) from None
        except KeyError as error:
            raise RequestError(f"{path} is no distilled set: {error.args[0]}") from error
        except Exception as error:  # numpy and zipfile raise many types on damaged files
            raise RequestError(f"{path} is damaged or no npz file: distil it again, or copy it again") from error
        try:
            wrong = _wrong(images, labels, card, soft, zca)
        except (TypeError, ValueError) as error:
            wrong = f"the card makes no sense ({error})"
        if wrong:
            raise RequestError(f"{path} is no distilled set, or a damaged one: {wrong}")
        return cls(images, labels, json.loads(str(card)), soft, zca)


def content_hash(
    images: np.ndarray, labels: np.ndarray, soft: np.ndarray | None = None, zca: np.ndarray | None = None
) -> str:
    """SHA-256 over shapes, images, labels and, where they are there, soft labels and whitening, hexadecimal."""
    digest = hashlib.sha256()
    for array in (images, labels, *(a for a in (soft, zca) if a is not None)):
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _wrong_soft(soft: np.ndarray, images: int, classes: int) -> str | None:
    """What is wrong with soft labels, in a few words."""
    if soft.dtype != np.float32 or soft.shape != (images, classes):
        return f"soft labels are {soft.dtype}{list(soft.shape)}, not float32 [{images}, {classes}]"
    if not (np.isfinite(soft).all() and (soft >= 0).all() and np.allclose(soft.sum(1), 1, atol=1e-3)):
        return "soft labels are not rows of probabilities"
    return None


def _wrong_zca(matrix: np.ndarray, shape: tuple[int, int, int]) -> str | None:
    """What is wrong with the whitening of images of ``shape`` (H, W, c), in a few words."""
    values = shape[0] * shape[1] * shape[2]
    if matrix.dtype != np.float32 or matrix.shape != (values + 1, values):
        return f"zca is {matrix.dtype}{list(matrix.shape)}, not float32 [{values + 1}, {values}]"
    return None if np.isfinite(matrix).all() else "zca is not finite"


def _wrong(
    images: np.ndarray, labels: np.ndarray, text: np.ndarray, soft: np.ndarray | None, zca: np.ndarray | None
) -> str | None:
    """What is wrong with the content of a file, in a few words."""
    try:
        card = json.loads(str(text)) if text.dtype.kind == "U" and text.ndim == 0 else None
    except ValueError:
        card = None
    if not isinstance(card, dict):
        return "card is not a JSON object"
    missing = [key for key in REQUIRED if key not in card]
    if missing:
        return f"the card lacks {missing[0]}"
    if not isinstance(card["schema"], int) or card["schema"] > SCHEMA:
        return f"the card has schema {card['schema']}, and this version of distill_jax reads up to {SCHEMA}: update it"
    if images.dtype != np.float32 or images.ndim != 4 or 0 in images.shape:
        return f"images are {images.dtype}{list(images.shape)}, not float32 [C*I, H, W, c]"
    if not np.isfinite(images).all():
        return "images are not finite"
    classes = len(card["class_names"])
    if classes < 1 or len(images) % classes:
        return f"{len(images)} images cannot be shared out to {classes} classes"
    if labels.dtype != np.int32 or not np.array_equal(labels, np.repeat(np.arange(classes), len(images) // classes)):
        return "labels are not int32 0, ..., 0, 1, ..., C-1"
    if card["space"] not in ("pixel", "normalised") or not isinstance(card["factor"], int) or card["factor"] < 1:
        return "the card's space or factor make no sense"
    mean, std = (np.asarray(card[key], np.float32) for key in ("mean", "std"))
    if not (mean.shape == std.shape == images.shape[3:] and np.isfinite(mean).all() and (std > 0).all()):
        return f"the card's mean and std are not numbers for each of {images.shape[3]} channels, std above 0"
    if card["hash"] != content_hash(images, labels, soft, zca):
        return "the content does not match the card's hash"
    if (soft is not None) != (card.get("labels", "hard") == "soft"):
        return "the card says otherwise of soft labels"
    if (zca is not None) != card.get("zca", False):
        return "the card says otherwise of whitening"
    if zca is not None and (wrong := _wrong_zca(zca, (images.shape[1], images.shape[2], images.shape[3]))):
        return wrong
    return None if soft is None else _wrong_soft(soft, DistilledSet(images, labels, card).decoded_count, classes)
