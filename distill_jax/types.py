"""The vocabulary of the library: the structs that travel through it and one contract per axis. Read this first.

Letters in shapes, everywhere:
    C classes               I stored images per class (ipc)     D decoded images per class
    B real images per class K models live in one step           P models in the pool
    R evaluation repeats    S sweep points                      N, M any number of images
    H W c                   height, width, channels (images are NHWC)

A *method* is a **Spec** (``spec.py``): one choice on each axis below. A choice is a frozen dataclass made with
``@choice``,
which also makes it a pytree: its numbers (fields annotated ``float``) are leaves, which ``jit`` traces and sweeps
stack; everything else is structure, which is compiled in. A **State** holds the arrays that change (``distill.py``).

Every axis has a contract: a class with the functions that a choice on it must have, and with a default for everything
that
it may have besides. A choice inherits its contract and nothing else, so a class of your own plugs in from any module.

Two spaces for images: *pixel* space is [0, 1]; *network* space is ``(pixel - mean) / std``, what networks see.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Sequence
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
import optax

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


# ------------------------------------------------------------------ choices


class Choice:
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
    """parameters this model should be led to (trajectory matching); None elsewhere."""


class NetBlock(NamedTuple):
    """The output of one block of a network, after its activation."""

    before: Array
    """[N, h, w, k] before pooling"""
    after: Array
    """[N, h', w', k] after pooling (equal to ``before`` where the block does not pool)"""


class Out(NamedTuple):
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

    def apply(self, model: Model, x: Array, train: bool) -> tuple[Out, PyTree]:
        """Forward ``x`` [N, H, W, c] (network space); returns the outputs and the new running statistics."""
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


class Members(Protocol):
    """Where finished members of a pool are kept while the others are trained, so that a killed run does not lose
    them."""

    def get(self, first: int, like: PyTree) -> PyTree | None:
        """What was kept under ``first``, or None."""
        ...

    def put(self, first: int, member: PyTree) -> None: ...


# ------------------------------------------------------------------ the axes


class Architecture(Choice):
    """The network axis: a family member before the data is known, e.g. ``ConvNet(depth=3, width=128)``."""

    axis = "net"

    def build(self, shape: Shape, classes: int) -> Net:
        """A net for images of ``shape`` (H, W, c). Raises RequestError where the shape does not fit."""
        raise NotImplementedError


class ModelSource(Choice):
    """Where the models of an outer iteration come from."""

    axis = "models"

    size: int = 0
    """P; 0 for sources without a pool"""

    @property
    def gives_target(self) -> bool:
        """Whether each model comes with parameters that it should be led to."""
        return False

    def pretrain(self, net: Net, data: RealData, key: Array, tick: Tick, members: Members | None = None) -> PyTree:
        """The pool [P, ...], trained on the host's schedule (``tick`` reports progress); None where size is 0.

        ``members``: where each is kept as soon as it is finished.
        """
        return None

    def sample(self, net: Net, pool: PyTree, live: int, key: Array) -> Model:
        """Model[K], K = ``live``, drawn at the start of each outer iteration from what ``pretrain`` returned."""
        raise NotImplementedError

    def teachers(self, pool: PyTree) -> Model | None:
        """Model[P]: the trained networks in the pool, which can give soft labels; None where there are none."""
        return None


class Perturbation(Choice):
    """What is done to the models drawn, whatever source they come from."""

    axis = "perturb"

    def perturb(self, models: Model, key: Array) -> Model:
        """Model[K] -> Model[K]; targets stay as they are."""
        raise NotImplementedError


class Selector(Choice):
    """Which real images each class shows in an inner step."""

    axis = "selector"

    batch: int = 0
    """B"""
    every: int = 1
    """inner steps that share one selection, which is what the selection costs"""

    def init(self, data: RealData) -> PyTree:
        """What the selector remembers from step to step; nothing by default."""
        return ()

    def select(
        self, net: Net, model: Model, data: RealData, memory: PyTree, inner: Array, key: Array
    ) -> tuple[Array, PyTree]:
        """(int32 [C, B] rows of ``data.index``, memory). ``inner``: number of the inner step in its outer iteration."""
        raise NotImplementedError

    def check(self, counts: Sequence[int], ipc: int, factor: int) -> None:
        """Raise RequestError, naming two fields, where classes of ``counts`` real images are too small."""


class Parameterisation(Choice):
    """How stored images become the images a network is shown."""

    axis = "parameterisation"

    space: str = "pixel"
    """'pixel' (clamped to [0, 1] at each outer iteration and when saved) or 'normalised'"""
    factor: int = 1
    """cells per side of a stored image"""

    def decoded(self, ipc: int) -> int:
        """D for I = ``ipc``."""
        return ipc

    def decode(self, images: Array) -> Array:
        """[I, H, W, c] -> [D, H, W, c], one class."""
        return images

    def check(self, shape: Shape) -> None:
        """Raise RequestError where images of ``shape`` (H, W, c) do not fit."""


class Labels(Choice):
    """The targets of the synthetic set."""

    axis = "labels"

    from_teachers: ClassVar[bool] = False
    """whether the finished images are labelled by the models of the pool"""
    learned: ClassVar[bool] = False
    """whether ``init`` returns a leaf, which the objective must then give a gradient"""

    def init(self, classes: int, decoded: int) -> PyTree:
        """float32 [C, D, C] logits that are learned, or None."""
        return None

    def optimiser(self) -> optax.GradientTransformation:
        """What moves the leaf."""
        return optax.identity()


class Augmentation(Choice):
    """A differentiable augmentation in network space."""

    axis = "augment"

    def __call__(self, key: Array, x: Array) -> Array:
        """[N, H, W, c] -> same shape, one draw shared by all N (siamese)."""
        raise NotImplementedError

    def each(self, key: Array, x: Array) -> Array:
        """[N, H, W, c] -> same shape, one draw per image (training)."""
        raise NotImplementedError


class Objective(Choice):
    """How far what the synthetic images teach is from what the real ones teach. Inherit one of the two kinds below."""

    axis = "objective"

    needs_target: ClassVar[bool] = False
    """whether models must come with parameters to lead them to"""
    uses_labels: ClassVar[bool] = False
    """whether the loss has a gradient with respect to ``Synthetic.labels``"""

    def learnable(self) -> PyTree:
        """First values of what is learned along with the images; None: nothing."""
        return None

    def learnable_optimiser(self) -> optax.GradientTransformation:
        """What moves ``Synthetic.learnable``."""
        return optax.identity()

    def check(self, net: Net, shape: Shape) -> None:
        """Raise RequestError, naming two fields, where ``net`` for images of ``shape`` (H, W, c) lacks something."""


class ClassObjective(Objective):
    """A matching objective that sees one class at a time, so classes can be visited in chunks of any size."""

    def class_loss(self, net: Net, model: Model, real: Array, syn: Array, c: Array, key: Array) -> Array:
        """Scalar. ``real`` [B, H, W, c], ``syn`` [D, H, W, c] (network space, augmented), ``c`` the class."""
        raise NotImplementedError


class SetObjective(Objective):
    """A matching objective that needs all classes at once."""

    def set_loss(self, net: Net, model: Model, real: Array, syn: Synthetic, key: Array) -> Array:
        """Scalar. ``real`` [C, B, H, W, c]; ``syn.images`` [C, D, H, W, c] decoded, network space, augmented."""
        raise NotImplementedError


class Optimiser(Choice):
    """How the synthetic images [C, I, H, W, c] move; ``TrainingOptimiser`` in ``train.py`` moves networks.

    ``scale`` multiplies the learning rate, as the choice's own ``schedule`` says.
    """

    axis = "optimiser"

    def schedule(self, outer: Array, outer_steps: int) -> Array | float:
        """What the learning rate is multiplied by in outer iteration ``outer`` (counted from 0) of ``outer_steps``."""
        return 1.0

    def init(self, images: Array) -> PyTree:
        """The optimiser's state."""
        raise NotImplementedError

    def before(self, images: Array, state: PyTree, scale: Array | float) -> tuple[Array, PyTree]:
        """(the images at which each class takes its gradient, state); by default the images as they are."""
        return images, state

    def after(self, gradients: Array, images: Array, state: PyTree, scale: Array | float) -> tuple[Array, PyTree]:
        """(images, state) at the end of the step."""
        raise NotImplementedError


class ModelUpdate(Choice):
    """What happens to a live model between two inner steps. Its state is its own, and begins anew with each model."""

    axis = "update"

    leaves_early: ClassVar[bool] = False
    """whether ``leave`` can end an outer iteration before its last inner step"""

    def init(self, model: Model) -> PyTree:
        """The state at the beginning of an outer iteration."""
        return ()

    def update(
        self, net: Net, model: Model, state: PyTree, data: RealData, syn: TrainSet, key: Array
    ) -> tuple[Model, PyTree]:
        """The model and the state after one inner step; ``syn`` is the synthetic set as it stands."""
        raise NotImplementedError

    def leave(self, state: PyTree) -> Array:
        """bool []: this model has had enough; the outer iteration ends when all K have."""
        return jnp.zeros((), bool)


class Initialisation(Choice):
    """Where synthetic images start."""

    axis = "init"

    def images(self, net: Net, model: Model, data: RealData, ipc: int, factor: int, key: Array) -> Array:
        """float32 [C, I, H, W, c], pixel space. ``model`` is one fresh or pretrained model (used by k-means)."""
        raise NotImplementedError

    def check(self, counts: Sequence[int], ipc: int, factor: int) -> None:
        """Raise RequestError, naming two fields, where classes of ``counts`` real images are too small."""
