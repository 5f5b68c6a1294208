"""One contract per axis of a method: the functions that a choice must have, and a default for all it may have besides.

A choice, ours or yours, inherits its contract and is made with ``@choice``. Shapes are in the letters of ``types.py``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax

from distill_jax.types import (
    Array,
    Choice,
    Feed,
    MemberStore,
    Model,
    Net,
    PyTree,
    RealData,
    Shape,
    Synthetic,
    Tick,
    TrainSet,
)


class Architecture(Choice):
    """The network axis: a family member before the data is known, e.g. ``ConvNet(depth=3, width=128)``."""

    axis = "net"

    @abstractmethod
    def build(self, shape: Shape, classes: int) -> Net:
        """A net for images of ``shape`` (H, W, c). Raises RequestError where the shape does not fit."""


class ModelSource(Choice):
    """Where the models of an outer iteration come from."""

    axis = "models"

    size: int = 0
    """P; 0 for sources without a pool"""

    @property
    def gives_target(self) -> bool:
        """Whether each model comes with parameters that it should be led to."""
        return False

    def pretrain(self, net: Net, data: Feed, key: Array, tick: Tick, members: MemberStore | None = None) -> PyTree:
        """The pool [P, ...], trained on the host's schedule (``tick`` reports progress); None where size is 0.

        ``data.at(n)`` are the real images; an epoch goes through ``data.portions`` of them, nearly always 1.
        ``members``: where each is kept as soon as it is finished.
        """
        return None

    @abstractmethod
    def sample(self, net: Net, pool: PyTree, live: int, outer: Array | int, key: Array) -> Model:
        """Model[K], K = ``live``, drawn at the start of outer iteration ``outer`` (int32 [], from 0) from what
        ``pretrain`` returned."""

    def teachers(self, pool: PyTree) -> Model | None:
        """Model[P]: the trained networks in the pool, which can give soft labels; None where there are none."""
        return None


class Perturbation(Choice):
    """What is done to the models drawn, whatever source they come from."""

    axis = "perturb"

    @abstractmethod
    def perturb(self, models: Model, key: Array) -> Model:
        """Model[K] -> Model[K]; targets stay as they are."""


class Selector(Choice):
    """Which real images each class shows in an inner step."""

    axis = "selector"

    batch: int = 0
    """B"""
    every: int = 1
    """inner steps that share one selection, which is what the selection costs"""
    paired: ClassVar[bool] = False
    """whether image b of a class is the one that its decoded image b is compared with; ``init`` then has teachers"""

    def init(self, net: Net, teachers: Model | None, data: RealData) -> PyTree:
        """What the selector remembers from step to step. ``teachers``: Model[P], trained, of the pool, or None."""
        return ()

    @abstractmethod
    def select(
        self, net: Net, model: Model, data: RealData, memory: PyTree, inner: Array, key: Array
    ) -> tuple[Array, PyTree]:
        """(int32 [C, B] rows of ``data.index``, memory). ``inner``: number of the inner step in its outer iteration."""

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

    @property
    def init_uses_teachers(self) -> bool:
        """Whether ``init`` looks at the models of the pool."""
        return False

    def init(self, net: Net, teachers: Model | None, shown: TrainSet) -> PyTree:
        """float32 [C, D, C] logits that are learned, or None. ``shown``: the C*D images at the start of the run, sorted
        by class, with one-hot targets. ``teachers``: Model[P], the pool's trained networks, or None."""
        return None

    def optimiser(self) -> optax.GradientTransformation:
        """What moves the leaf."""
        return optax.identity()


class Augmentation(Choice):
    """A differentiable augmentation of images [N, H, W, c] in network space, of any floating dtype. Drawing and
    applying are apart, so that a training loop can draw the numbers of all its steps before the first."""

    axis = "augment"

    def draw(self, key: Array, n: int) -> PyTree:
        """The random numbers of ``n`` draws, each array with a leading axis n; by default a key for each."""
        return jax.random.split(key, n)

    def draw_batches(self, key: Array, batches: int, n: int) -> PyTree:
        """Those of ``n`` draws for each of so many batches, leading axes [batches, n], from one call of ``draw``."""
        draws = self.draw(key, batches * n)
        return jax.tree.map(lambda a: a.reshape(batches, n, *a.shape[1:]), draws)

    @abstractmethod
    def apply(self, x: Array, draws: PyTree) -> Array:
        """All N images of ``x`` transformed alike, by the numbers of one draw, without the axis n."""

    def __call__(self, key: Array, x: Array) -> Array:
        """One draw shared by all N images (siamese)."""
        return self.apply(x, jax.tree.map(lambda a: a[0], self.draw(key, 1)))

    def each(self, key: Array, x: Array) -> Array:
        """One draw per image (training)."""
        return self.apply_each(x, self.draw(key, len(x)))

    def apply_each(self, x: Array, draws: PyTree) -> Array:
        """Image i of ``x`` transformed by draw i of ``draws``."""
        return jax.vmap(lambda image, draws: self.apply(image[None], draws)[0])(x, draws)


class Objective(Choice):
    """How far what the synthetic images teach is from what the real ones teach. Inherit one of the two kinds below."""

    axis = "objective"

    needs_target: ClassVar[bool] = False
    """whether models must come with parameters to lead them to"""
    uses_labels: ClassVar[bool] = False
    """whether the loss has a gradient with respect to ``Synthetic.labels``"""
    paired: ClassVar[bool] = False
    """whether real image b of a class is compared with its decoded image b, for which a selector must be ``paired``"""

    def learnable(self) -> PyTree:
        """First values of what is learned along with the images; None: nothing."""
        return None

    def learnable_optimiser(self) -> optax.GradientTransformation:
        """What moves ``Synthetic.learnable``."""
        return optax.identity()

    @property
    def skips(self) -> bool:
        """Whether ``skip`` can leave a step out."""
        return False

    def skip(self, loss: Array) -> Array:
        """bool []: after this ``loss`` neither images, labels nor what is learned besides move, nor their momentum."""
        return jnp.zeros((), bool)

    def check(self, net: Net, shape: Shape) -> None:
        """Raise RequestError, naming two fields, where ``net`` for images of ``shape`` (H, W, c) lacks something."""


class ClassObjective(Objective):
    """A matching objective that sees one class at a time, so classes can be visited in chunks of any size."""

    @abstractmethod
    def class_loss(self, net: Net, model: Model, real: Array, syn: Array, c: Array, key: Array) -> Array:
        """Scalar. ``real`` [B, H, W, c], ``syn`` [D, H, W, c] (network space, augmented), ``c`` the class."""


class SetObjective(Objective):
    """A matching objective that needs all classes at once."""

    @abstractmethod
    def set_loss(self, net: Net, model: Model, real: Array, syn: Synthetic, key: Array) -> Array:
        """Scalar. ``real`` [C, B, H, W, c]; ``syn.images`` [C, D, H, W, c] decoded, network space, augmented."""


class Optimiser(Choice):
    """How the synthetic images [C, I, H, W, c] move; networks have ``train.NetworkSGD``. ``scale`` multiplies the
    learning rate, as the choice's own ``schedule`` says."""

    axis = "optimiser"

    def schedule(self, outer: Array, outer_steps: int) -> Array | float:
        """What the learning rate is multiplied by in outer iteration ``outer`` (counted from 0) of ``outer_steps``."""
        return 1.0

    @abstractmethod
    def init(self, images: Array) -> PyTree:
        """The optimiser's state."""

    def before(self, images: Array, state: PyTree, scale: Array | float) -> tuple[Array, PyTree]:
        """(the images at which each class takes its gradient, state); by default the images as they are."""
        return images, state

    @abstractmethod
    def after(self, gradients: Array, images: Array, state: PyTree, scale: Array | float) -> tuple[Array, PyTree]:
        """(images, state) at the end of the step."""


class ModelUpdate(Choice):
    """What happens to a live model between two inner steps. Its state is its own, and begins anew with each model."""

    axis = "update"

    images: int = 0
    """real images that one update of a model looks at"""
    uses_synthetic: ClassVar[bool] = False
    """whether ``update`` looks at the synthetic set, which must then be that of all classes"""
    leaves_early: ClassVar[bool] = False
    """whether ``leave`` can end an outer iteration before its last inner step"""

    def begin(self, net: Net, model: Model, data: RealData, key: Array) -> tuple[Model, PyTree]:
        """The model and the state at the beginning of an outer iteration."""
        return model, ()

    @abstractmethod
    def update(
        self, net: Net, model: Model, state: PyTree, data: RealData, syn: TrainSet, key: Array
    ) -> tuple[Model, PyTree]:
        """The model and the state after one inner step; ``syn`` is the synthetic set as it stands."""

    def leave(self, state: PyTree) -> Array:
        """bool []: this model has had enough; the outer iteration ends when all K have."""
        return jnp.zeros((), bool)


class Initialisation(Choice):
    """Where synthetic images start."""

    axis = "init"

    uses_teacher: ClassVar[bool] = False
    """whether ``model`` is the first trained network of the pool, not one as an outer iteration begins with"""

    @abstractmethod
    def images(self, net: Net, model: Model, data: RealData, ipc: int, factor: int, key: Array) -> Array:
        """float32 [C, I, H, W, c], pixel space. ``model`` is one fresh or pretrained model (used by k-means)."""

    def check(self, counts: Sequence[int], ipc: int, factor: int) -> None:
        """Raise RequestError, naming two fields, where classes of ``counts`` real images are too small."""
