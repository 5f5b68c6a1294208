"""The vocabulary of the library: choices, and the structs that every module passes around. Read this file first.

Letters in shapes, everywhere:
    C classes               I stored images per class (ipc)     D decoded images per class
    B real images per class K models live in one step           P models in the pool
    R evaluation repeats    S sweep points                      N, M any number of images
    H W c                   height, width, channels (images are NHWC)

A *method* is a **Spec** (``spec.py``) with one choice on each axis. A choice is a frozen dataclass made with
``@choice``, which also registers it as a pytree. Its numbers (fields annotated ``float``, and ``outer_steps``) are
leaves, which ``jit`` traces and sweeps stack. All other fields are structure, which is compiled in. A **State**
(``distill.py``) holds the arrays that change during a run.

Each axis has a contract (``contracts.py``): a base class that declares the required functions and has defaults for the
optional ones. A choice inherits only its contract, so you can plug in your own class from any module.

Images are in *pixel* space, [0, 1], or in *network* space, ``(pixel - mean) / std``, the input of networks.
"""

from __future__ import annotations

import dataclasses
import difflib
from abc import ABC
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, NamedTuple, Protocol, TypeAlias, TypeVar, dataclass_transform, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np

from distill_jax.pytrees import register

Array: TypeAlias = jax.Array
PyTree: TypeAlias = Any
Shape: TypeAlias = tuple[int, int, int]
"""(H, W, c)"""

T = TypeVar("T")


class RequestError(ValueError):
    """A wrong request. The message is one line that says what is wrong and how to fix it. Runners exit with code 2."""


def near_miss(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown ``name``: the nearest known name, or all known names."""
    near = difflib.get_close_matches(name, known := list(known), n=1, cutoff=0.4)
    return f"did you mean {near[0]}?" if near else f"choose one of {' '.join(known)}"


def lookup(what: str, name: str, known: Mapping[str, T]) -> T:
    """Return ``known[name]``. Raise RequestError, suggesting the nearest name, if there is no such ``name``."""
    if name in known:
        return known[name]
    raise RequestError(f"unknown {what} {name!r}: {near_miss(name, known)}")


def require_at_least(least: int, of: Any, *names: str, zero: str = "") -> None:
    """Raise RequestError if a field in ``names`` of ``of``, a choice or a runner's options, is below ``least``. If
    ``least`` is 0, ``zero`` tells the message what 0 means."""
    for name in names:
        value = getattr(of, name)
        if value < least:
            said = f"{value:g}" if isinstance(value, float) else value
            bound = f"at least {least}" if least else f"0 ({zero}) or more" if zero else "0 or more"
            raise RequestError(f"{_path(of, name)} is {said}: it must be {bound}")


def require_optimiser(of: Any, rate: str, *decays: str) -> None:
    """Raise RequestError unless ``rate`` of ``of`` is above 0, and its ``decays``, such as betas, from 0 to below 1."""
    if getattr(of, rate) <= 0:
        raise RequestError(f"{_path(of, rate)} is {getattr(of, rate):g}: a learning rate must be above 0")
    for name in decays:
        if not 0 <= getattr(of, name) < 1:
            raise RequestError(f"{_path(of, name)} is {getattr(of, name):g}: it must be from 0 to below 1")


def _path(of: Any, name: str) -> str:
    return f"{of.axis}.{name}" if isinstance(of, Choice) and of.axis else name


def accumulator_dtype(dtype: Any) -> Any:
    """Return the dtype for sums over ``dtype`` and for coordinates in images: float64 for float64, else float32."""
    return jnp.dtype(jnp.float64 if jnp.dtype(dtype) == jnp.float64 else jnp.float32)


# ------------------------------------------------------------------ choices


class Choice(ABC):
    """Base class of all choices."""

    __dataclass_fields__: ClassVar[dict[str, Any]]
    axis: ClassVar[str] = ""
    """name of the field of Spec that holds the choice"""

    def validate(self) -> None:
        """Raise RequestError for an invalid field. Infinite numbers and NaN are refused elsewhere, for every choice.

        It is called when a spec is resolved and never by a constructor, because inside ``jit`` numbers are tracers.
        """


def static(*, default: Any) -> Any:
    """Declare a ``float`` field that is compiled in instead of traced, because the program branches on it."""
    return dataclasses.field(default=default, metadata={"static": True})


def traced(*, default: int) -> Any:
    """Declare an ``int`` field of Spec that is traced (``spec.as_arrays``), so that programs do not depend on it."""
    return dataclasses.field(default=default, metadata={"traced": True})


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field, static, traced))
def choice(cls: type[T]) -> type[T]:
    """Make ``cls`` a frozen dataclass and a pytree whose data fields are its ``float`` fields, ``traced`` fields and
    nested choices. All other fields are static. Raise RequestError for a field without a type or an allowed default."""
    try:
        made = dataclasses.dataclass(frozen=True)(cls)
        hints = get_type_hints(made)
    except (NameError, TypeError, ValueError) as error:
        mend = "annotate each field with a type, and give it a number, string, boolean, None, tuple or choice"
        raise RequestError(f"{cls.__name__} cannot be a choice ({error}): {mend} as default") from error
    numbers, nested, structure = [], [], []
    for field in dataclasses.fields(made):  # type: ignore[arg-type]
        hint, marks = hints[field.name], field.metadata
        is_choice = isinstance(hint, type) and issubclass(hint, Choice)
        is_number = marks.get("traced") or (hint is float and not marks.get("static"))
        (nested if is_choice else numbers if is_number else structure).append(field.name)
    register(made, (*numbers, *nested), tuple(structure))
    return made


# ------------------------------------------------------------------ structs


class Model(NamedTuple):
    """The arrays of one network, or of K networks if every leaf has a leading K axis."""

    params: PyTree
    """float32 parameters with flax's names"""
    stats: PyTree
    """running statistics of batch norm; an empty dict for every other norm"""
    target: PyTree = None
    """parameters that the model should reach (trajectory matching), or its trained parameters (NCFM's calibration);
    None for other objectives"""


class NetBlock(NamedTuple):
    """The output of one block of a network, after its activation."""

    before: Array
    """[N, h, w, k] before pooling"""
    after: Array
    """[N, h', w', k] after pooling (equal to ``before`` where the block does not pool)"""


class NetOutput(NamedTuple):
    """The result of a forward pass."""

    logits: Array
    """[N, C]"""
    blocks: tuple[NetBlock, ...]
    """the blocks, from shallow to deep"""
    embedding: Array
    """[N, E]: the flattened input of the classifier"""


class Net(Protocol):
    """A network for one image shape and number of classes; hashable, and static under ``jit``."""

    def init(self, key: Array) -> Model: ...

    def apply(self, model: Model, x: Array, train: bool) -> tuple[NetOutput, PyTree]:
        """Return the outputs for ``x`` [N, H, W, c] in network space, and the new running statistics. Without running
        statistics, the output for an image must not depend on other images (``micro_batches.py``)."""
        ...


class Normaliser(NamedTuple):
    """The map between pixel space and network space."""

    mean: Array
    """float32 [c]: mean of the pixel values"""
    std: Array
    """float32 [c]: standard deviation of the pixel values"""

    def to_network(self, images: Array) -> Array:
        """Convert ``images`` [..., c], floating in [0, 1] or uint8 from 0 to 255, from pixel to network space."""
        pixels = as_pixels(images)
        return (pixels - _per_channel(self.mean, pixels)) / _per_channel(self.std, pixels)

    def to_pixel(self, x: Array) -> Array:
        """Convert ``x`` [..., c], floating, from network to pixel space, without clipping."""
        return x * _per_channel(self.std, x) + _per_channel(self.mean, x)


def as_pixels(images: Array) -> Array:
    """Convert uint8 images from 0 to 255 to float32 in [0, 1]. Floating images are returned unchanged."""
    return images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images


def _per_channel(statistic: Array, like: Array) -> Array:
    return statistic.astype(like.dtype).reshape((1,) * (like.ndim - 1) + (-1,))


class RealData(NamedTuple):
    """The real training set on the device."""

    images: Array
    """uint8 [N, H, W, c]"""
    labels: Array
    """int32 [N]"""
    index: Array
    """int32 [C, max count]: positions of the images of each class in data-set order, padded by repetition"""
    counts: Array
    """int32 [C]: number of images per class"""
    normaliser: Normaliser

    @classmethod
    def from_arrays(cls, images: Any, labels: Any, mean: Any, std: Any) -> RealData:
        """Build from uint8 ``images`` [N, H, W, c], ``labels`` [N] that take every value in 0..C-1, and the ``mean``
        and ``std`` [c] that normalise pixels."""
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

    portions = 1
    """1, because all images are on the device"""

    def at(self, n: int) -> RealData:
        return self

    def of_classes(self, classes: tuple[int, ...]) -> RealData:
        """Return a view of ``classes`` in the given order, or of all classes if it is empty. Labels do not change."""
        rows = np.asarray(classes, np.int32)
        return self._replace(index=self.index[rows], counts=self.counts[rows]) if classes else self


class Feed(Protocol):
    """A source of real images for the device: the whole training set (RealData), or portions of it with equal shapes
    (``data.Buffer``)."""

    @property
    def portions(self) -> int:
        """Number of portions that make up the training set."""
        ...

    @property
    def normaliser(self) -> Normaliser: ...

    def at(self, n: int) -> RealData:
        """Return portion ``n`` (0, 1, ..., without end) on the device. It replaces the previous portion."""
        ...


class Synthetic(NamedTuple):
    """The variables that distillation optimises."""

    images: Array
    """float32 [C, I, H, W, c], in the space that the parameterisation's ``space`` names"""
    labels: PyTree = None
    """float32 [C, D, C]: learned logits of the decoded images; None if labels are not learned"""
    learnable: PyTree = None
    """further variables of the objective (MTT: the student's learning rate); None for most objectives"""


class TrainSet(NamedTuple):
    """Labelled images that networks train on."""

    images: Array
    """float32 [M, H, W, c] in network space, or uint8, which the training loop normalises batch by batch"""
    targets: Array
    """float32 [M, C]: class probabilities"""


Tick: TypeAlias = Callable[[int, int], None]
"""``tick(done, total)`` reports the progress of a long host loop."""


class MemberStore(Protocol):
    """A store for finished members of a pool while other members train, so that a killed run does not lose them."""

    def get(self, first: int, like: PyTree) -> PyTree | None:
        """Return what was stored under ``first``, in the structure of ``like``, or None."""
        ...

    def put(self, first: int, member: PyTree) -> None: ...
