"""The vocabulary of the library: what a choice is, and the structs that travel through it. Read this first.

Letters in shapes, everywhere:
    C classes               I stored images per class (ipc)     D decoded images per class
    B real images per class K models live in one step           P models in the pool
    R evaluation repeats    S sweep points                      N, M any number of images
    H W c                   height, width, channels (images are NHWC)

A *method* is a **Spec** (``spec.py``): one choice on each axis below. A choice is a frozen dataclass made with
``@choice``,
which also makes it a pytree: its numbers (fields annotated ``float``) are leaves, which ``jit`` traces and sweeps
stack; everything else is structure, which is compiled in. A **State** holds the arrays that change (``distill.py``).

Every axis has a contract (``contracts.py``): a class with the functions that a choice on it must have, and with a
default for everything that it may have besides. A choice inherits its contract and nothing else, so a class of your own
plugs in from any module.

Two spaces for images: *pixel* space is [0, 1]; *network* space is ``(pixel - mean) / std``, what networks see.
"""

from __future__ import annotations

import dataclasses
import difflib
from abc import ABC
from collections.abc import Callable, Iterable, Mapping
from typing import (
    Any,
    ClassVar,
    NamedTuple,
    Protocol,
    TypeAlias,
    TypeVar,
    dataclass_transform,
    get_type_hints,
    runtime_checkable,
)

import jax
import jax.numpy as jnp
import numpy as np

Array: TypeAlias = jax.Array
PyTree: TypeAlias = Any
Shape: TypeAlias = tuple[int, int, int]
"""(H, W, c)"""

T = TypeVar("T")


class RequestError(ValueError):
    """The request is wrong. The message is one line: what is wrong and how to mend it. Runners exit with code 2."""


def near_miss(name: str, known: Iterable[str]) -> str:
    """How a message about an unknown ``name`` ends: the nearest known one, or all of them."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return f"did you mean {near[0]}?" if near else f"choose one of {' '.join(known)}"


def lookup(what: str, name: str, known: Mapping[str, T]) -> T:
    """``known[name]``, or a RequestError that names the nearest known one."""
    if name in known:
        return known[name]
    raise RequestError(f"unknown {what} {name!r}: {near_miss(name, known)}")


def require_at_least(least: int, of: Any, *names: str, zero: str = "") -> None:
    """Raise RequestError where one of the fields ``names`` of ``of``, a choice or the options of a runner, is below
    ``least``. ``zero``: what 0 means, where that is the least."""
    for name in names:
        value = getattr(of, name)
        if value < least:
            path = f"{of.axis}.{name}" if isinstance(of, Choice) and of.axis else name
            said = f"{value:g}" if isinstance(value, float) else value
            bound = f"at least {least}" if least else f"0 ({zero}) or more" if zero else "0 or more"
            raise RequestError(f"{path} is {said}: it must be {bound}")


def accumulator_dtype(dtype: Any) -> Any:
    """What sums over ``dtype``, and positions in images of it, are kept in: float32, or float64 for float64."""
    return jnp.dtype(jnp.float64 if jnp.dtype(dtype) == jnp.float64 else jnp.float32)


# ------------------------------------------------------------------ choices


class Choice(ABC):
    """One choice on one axis."""

    __dataclass_fields__: ClassVar[dict[str, Any]]
    axis: ClassVar[str] = ""
    """the field of Spec that it stands in"""

    def validate(self) -> None:
        """Raise RequestError for a field whose value makes no sense; numbers must be finite whatever this says.

        Called where a spec is resolved, never by a constructor: inside ``jit`` the numbers are tracers.
        """


def static(*, default: Any) -> Any:
    """A field that is compiled in although its annotation is ``float``: it decides what the program does."""
    return dataclasses.field(default=default, metadata={"static": True})


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field, static))
def choice(cls: type[T]) -> type[T]:
    """Make ``cls`` a frozen dataclass and a pytree: ``float`` fields and choices within it are data, the rest is
    static."""
    made = dataclasses.dataclass(frozen=True)(cls)
    hints = get_type_hints(made)
    numbers, nested, structure = [], [], []
    for field in dataclasses.fields(made):  # type: ignore[arg-type]
        hint = hints[field.name]
        if isinstance(hint, type) and issubclass(hint, Choice):
            nested.append(field.name)
        elif hint is float and not field.metadata.get("static"):
            numbers.append(field.name)
        else:
            structure.append(field.name)
    jax.tree_util.register_dataclass(made, data_fields=[*numbers, *nested], meta_fields=structure)
    return made


# ------------------------------------------------------------------ structs


class Model(NamedTuple):
    """One network's arrays, or K of them when every leaf has a leading K axis."""

    params: PyTree
    """float32 parameters, as flax names them."""
    stats: PyTree
    """running statistics of batch norm; an empty dict for every other norm."""
    target: PyTree = None
    """parameters this model should be led to (trajectory matching) or ended at (NCFM's calibration); None elsewhere."""


class NetBlock(NamedTuple):
    """The output of one block of a network, after its activation."""

    before: Array
    """[N, h, w, k] before pooling"""
    after: Array
    """[N, h', w', k] after pooling (equal to ``before`` where the block does not pool)"""


class NetOutput(NamedTuple):
    """What a forward pass returns."""

    logits: Array
    """[N, C]"""
    blocks: tuple[NetBlock, ...]
    """shallow to deep"""
    embedding: Array
    """[N, E]: the flattened features that enter the classifier"""


@runtime_checkable
class Net(Protocol):
    """A network for one image shape and number of classes. Hashable: static under ``jit``."""

    def init(self, key: Array) -> Model: ...

    def apply(self, model: Model, x: Array, train: bool) -> tuple[NetOutput, PyTree]:
        """Forward ``x`` [N, H, W, c] (network space); returns the outputs and the new running statistics. Of a model
        without such statistics, what becomes of an image does not depend on the others (``micro_batches.py``)."""
        ...


class Normaliser(NamedTuple):
    """The map between pixel space and network space."""

    mean: Array
    """float32 [c], of pixel values"""
    std: Array
    """float32 [c], of pixel values"""

    def to_network(self, images: Array) -> Array:
        """Pixel to network space. ``images`` [..., c] floating in [0, 1], or uint8 from 0 to 255."""
        pixels = as_pixels(images)
        return (pixels - _per_channel(self.mean, pixels)) / _per_channel(self.std, pixels)

    def to_pixel(self, x: Array) -> Array:
        """Network to pixel space, not clipped. ``x`` [..., c] floating."""
        return x * _per_channel(self.std, x) + _per_channel(self.mean, x)


def as_pixels(images: Array) -> Array:
    """uint8 from 0 to 255 as float32 in [0, 1]; floating images as they are."""
    return images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images


def _per_channel(statistic: Array, like: Array) -> Array:
    return statistic.astype(like.dtype).reshape((1,) * (like.ndim - 1) + (-1,))


class RealData(NamedTuple):
    """The real training set, resident on the device."""

    images: Array
    """uint8 [N, H, W, c]"""
    labels: Array
    """int32 [N]"""
    index: Array
    """int32 [C, max count]: positions of each class's images in data-set order, padded by cycling"""
    counts: Array
    """int32 [C]: images per class"""
    normaliser: Normaliser

    @classmethod
    def from_arrays(cls, images: Any, labels: Any, mean: Any, std: Any) -> RealData:
        """From uint8 [N, H, W, c], integers [N] that are exactly 0..C-1, and the statistics [c] to normalise with."""
        labels = np.asarray(labels)
        counts = np.bincount(labels)
        index = np.stack([np.resize(np.flatnonzero(labels == c), counts.max()) for c in range(len(counts))])
        return cls(
            images=jnp.asarray(images, jnp.uint8),
            labels=jnp.asarray(labels, jnp.int32),
            index=jnp.asarray(index, jnp.int32),
            counts=jnp.asarray(counts, jnp.int32),
            normaliser=Normaliser(jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32)),
        )

    @property
    def classes(self) -> int:
        return self.counts.shape[0]

    @property
    def portions(self) -> int:
        """All images are there at once."""
        return 1

    def at(self, n: int) -> RealData:
        return self

    def of_classes(self, classes: tuple[int, ...]) -> RealData:
        """A view in which only ``classes`` are shown, in that order; all where it is empty. Labels stay."""
        rows = np.asarray(classes, np.int32)
        return self._replace(index=self.index[rows], counts=self.counts[rows]) if classes else self


class Feed(Protocol):
    """The real training set as it comes to the device: whole (RealData), or in portions of equal shapes, each a
    training set of its own (``data.Buffer``)."""

    @property
    def portions(self) -> int:
        """how many of them make up the training set"""
        ...

    @property
    def normaliser(self) -> Normaliser: ...

    def at(self, n: int) -> RealData:
        """Portion ``n``, any number from 0, on the device. It takes the place of the one before."""
        ...


class Synthetic(NamedTuple):
    """What distillation optimises."""

    images: Array
    """float32 [C, I, H, W, c]; pixel or network space, as the parameterisation's ``space`` says"""
    labels: PyTree = None
    """float32 [C, D, C]: learned logits of the decoded images; None where labels are not learned"""
    learnable: PyTree = None
    """what the objective learns along with the images (MTT: its learning rate); None for most"""


class TrainSet(NamedTuple):
    """Labelled images ready for a network."""

    images: Array
    """float32 [M, H, W, c], network space; or uint8, which the training loop normalises batch by batch"""
    targets: Array
    """float32 [M, C] class probabilities"""


Tick: TypeAlias = Callable[[int, int], None]
"""``tick(done, total)``: progress of a long host loop"""


class MemberStore(Protocol):
    """Where finished members of a pool are kept while the others are trained, so that a killed run does not lose
    them."""

    def get(self, first: int, like: PyTree) -> PyTree | None:
        """What was kept under ``first``, or None."""
        ...

    def put(self, first: int, member: PyTree) -> None: ...
