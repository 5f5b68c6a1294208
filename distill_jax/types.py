"""The vocabulary of the library: the structs that travel through it and one Protocol per axis. Read this first.

Letters in shapes, everywhere:
    C classes               I stored images per class (ipc)     D decoded images per class
    B real images per class K models live in one step           P models in the pool
    R evaluation repeats    S sweep points                      N, M any number of images
    H W c                   height, width, channels (images are NHWC)

Three kinds of values: a **Spec** says what program to build (frozen, hashable, static under ``jit``); a **Hyper** holds
the numbers that change no shapes (traced, can be vmapped); a **State** holds arrays (donated in, returned out).

A *method* is one choice on each axis below. Every choice is a frozen dataclass that satisfies the axis' Protocol, so a
class of your own plugs in from outside the package.

Two spaces for images: *pixel* space is [0, 1]; *network* space is ``(pixel - mean) / std``, what networks see.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax

Array: TypeAlias = jax.Array
PyTree: TypeAlias = Any


class RequestError(ValueError):
    """The request is wrong. The message is one line: what is wrong and how to mend it. Runners exit with code 2."""


class Model(NamedTuple):
    """One network's arrays, or K of them when every leaf has a leading K axis."""

    params: PyTree
    """float32 parameters, as flax names them."""
    stats: PyTree
    """running statistics of batch norm; an empty dict for every other norm."""
    target: PyTree = None
    """parameters this model should be led to (trajectory matching); None elsewhere."""


class Block(NamedTuple):
    """The output of one block of a network, after its activation."""

    before: Array
    """[N, h, w, k] before pooling"""
    after: Array
    """[N, h', w', k] after pooling (equal to ``before`` where the block does not pool)"""


class Out(NamedTuple):
    """What a forward pass returns."""

    logits: Array
    """[N, C]"""
    blocks: tuple[Block, ...]
    """shallow to deep"""
    embedding: Array
    """[N, E]: the flattened features that enter the classifier"""


@runtime_checkable
class Net(Protocol):
    """A network for one image shape and number of classes. Hashable: static under ``jit``."""

    def init(self, key: Array) -> Model: ...

    def apply(self, model: Model, x: Array, train: bool) -> tuple[Out, PyTree]:
        """Forward ``x`` [N, H, W, c] (network space); returns the outputs and the new running statistics."""
        ...


@runtime_checkable
class Architecture(Protocol):
    """The network axis: a family member before the data is known, e.g. ``ConvNet(depth=3, width=128)``."""

    def build(self, shape: tuple[int, int, int], classes: int) -> Net:
        """A net for images of ``shape`` (H, W, c). Raises RequestError where the shape does not fit."""
        ...


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
    mean: Array
    """float32 [c], of pixel values"""
    std: Array
    """float32 [c], of pixel values"""

    @property
    def classes(self) -> int:
        return self.counts.shape[0]


class Synthetic(NamedTuple):
    """What distillation optimises."""

    images: Array
    """float32 [C, I, H, W, c]; pixel or network space, as the parameterisation's ``space`` says"""
    rate: PyTree = None
    """float32 []: learnable learning rate (trajectory matching); else None"""


class TrainSet(NamedTuple):
    """Labelled images ready for a network."""

    images: Array
    """float32 [M, H, W, c], network space; or uint8, which the training loop normalises batch by batch"""
    targets: Array
    """float32 [M, C] class probabilities"""


Tick: TypeAlias = Callable[[int, int], None]
"""``tick(done, total)``: progress of a long host loop"""


# ------------------------------------------------------------------ the axes


@runtime_checkable
class ModelSource(Protocol):
    """Where the models of an outer iteration come from."""

    @property
    def live(self) -> int:
        """K."""
        ...

    @property
    def size(self) -> int:
        """P; 0 for sources without a pool."""
        ...

    def pretrain(self, net: Net, data: RealData, hyper: Any, key: Array, tick: Tick) -> PyTree:
        """The pool [P, ...], trained on the host's schedule (``tick`` reports progress); None where size is 0."""
        ...

    def sample(self, net: Net, pool: PyTree, hyper: Any, key: Array) -> Model:
        """Model[K], drawn at the start of each outer iteration from what ``pretrain`` returned."""
        ...


@runtime_checkable
class Selector(Protocol):
    """Which real images each class shows in an inner step."""

    @property
    def batch(self) -> int:
        """B."""
        ...

    def select(self, net: Net, model: Model, data: RealData, inner: Array, last: Array, key: Array) -> Array:
        """int32 [C, B] rows of ``data.index``. ``inner``: index of the inner step; ``last``: the previous selection."""
        ...


@runtime_checkable
class Parameterisation(Protocol):
    """How stored images become the images a network is shown."""

    @property
    def space(self) -> str:
        """'pixel' (clamped to [0, 1] at each outer iteration and when saved) or 'normalised'."""
        ...

    @property
    def factor(self) -> int:
        """Cells per side of a stored image."""
        ...

    def check(self, shape: tuple[int, int, int]) -> None:
        """Raises RequestError where images of ``shape`` (H, W, c) do not fit."""
        ...

    def decoded(self, ipc: int) -> int:
        """D for I = ``ipc``."""
        ...

    def decode(self, images: Array) -> Array:
        """[I, H, W, c] -> [D, H, W, c], one class."""
        ...


@runtime_checkable
class Augmentation(Protocol):
    """A differentiable augmentation in network space."""

    def __call__(self, key: Array, x: Array) -> Array:
        """[N, H, W, c] -> same shape, one draw shared by all N (siamese)."""
        ...

    def each(self, key: Array, x: Array) -> Array:
        """[N, H, W, c] -> same shape, one draw per image (training)."""
        ...


@runtime_checkable
class ClassObjective(Protocol):
    """A matching objective that sees one class at a time, so classes can be visited in chunks of any size."""

    def class_loss(self, net: Net, model: Model, real: Array, syn: Array, c: Array, hyper: Any, key: Array) -> Array:
        """Scalar. ``real`` [B, H, W, c], ``syn`` [D, H, W, c] (network space, augmented), ``c`` the class."""
        ...


@runtime_checkable
class SetObjective(Protocol):
    """A matching objective that needs all classes at once."""

    @property
    def learns_rate(self) -> bool:
        """Whether ``syn.rate`` is learned along with the images."""
        ...

    def set_loss(self, net: Net, model: Model, real: Array, syn: Synthetic, hyper: Any, key: Array) -> Array:
        """Scalar. ``real`` [C, B, H, W, c]; ``syn.images`` [C, D, H, W, c] decoded, network space, augmented."""
        ...


Objective: TypeAlias = ClassObjective | SetObjective


class Updated(NamedTuple):
    """What a model update returns."""

    model: Model
    optimiser: PyTree
    watch: PyTree
    """the update's own memory, reset at each outer iteration"""
    leave: Array
    """bool []: end this outer iteration early"""


@runtime_checkable
class ModelUpdate(Protocol):
    """What happens to a live model between two inner steps."""

    def start(self, model: Model, hyper: Any) -> tuple[PyTree, PyTree]:
        """(optimiser state, watch) at the beginning of an outer iteration."""
        ...

    def update(
        self,
        net: Net,
        model: Model,
        optimiser: PyTree,
        watch: PyTree,
        data: RealData,
        syn: TrainSet,
        hyper: Any,
        key: Array,
    ) -> Updated: ...


@runtime_checkable
class Initialisation(Protocol):
    """Where synthetic images start."""

    def images(self, net: Net, model: Model, data: RealData, ipc: int, factor: int, key: Array) -> Array:
        """float32 [C, I, H, W, c], pixel space. ``model`` is one fresh or pretrained model (used by k-means)."""
        ...


# ------------------------------------------------------------------ what a choice may have besides


@runtime_checkable
class ChecksCounts(Protocol):
    """A selector or an initialisation that does not suit every data set."""

    def check(self, counts: Sequence[int], ipc: int, factor: int) -> None:
        """Raises RequestError, naming two fields, where classes of ``counts`` real images are too small."""
        ...


@runtime_checkable
class Teaches(Protocol):
    """A model source whose pool can give soft labels."""

    def teachers(self, pool: PyTree) -> Model:
        """Model[P]: the trained networks in what ``pretrain`` returned."""
        ...


@runtime_checkable
class ChecksNet(Protocol):
    """An objective that does not suit every network."""

    def check(self, net: Net, shape: tuple[int, int, int]) -> None:
        """Raises RequestError, naming two fields, where ``net`` for images of ``shape`` (H, W, c) lacks something."""
        ...
