"""The contract of each axis of a method, with defaults for its optional parts. A choice, ours or yours, inherits its
contract and is made with ``@choice``. ``types.py`` defines the letters in shapes."""

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
)  # fmt: skip


class Architecture(Choice):
    """The network axis: an architecture whose input is not known yet, such as ``ConvNet(depth=3, width=128)``."""

    axis = "net"

    @abstractmethod
    def build(self, shape: Shape, classes: int) -> Net:
        """Return the network for images of ``shape`` (H, W, c). Raise RequestError if the shape does not fit."""


class ModelSource(Choice):
    """The source of the models of an outer iteration."""

    axis = "models"

    size: int = 0
    """P: number of models in the pool; 0 for sources without a pool"""

    @property
    def gives_target(self) -> bool:
        """Whether models come with target parameters (``Model.target``)."""
        return False

    def pretrain(self, net: Net, data: Feed, key: Array, tick: Tick, members: MemberStore | None = None) -> PyTree:
        """Train and return the pool [P, ...], or None if ``size`` is 0. ``data.at(n)`` returns the real images; one
        epoch covers ``data.portions`` portions, which is 1 for most runs. ``tick`` reports progress, and ``members``
        stores each member as soon as it is trained."""
        return None

    @abstractmethod
    def sample(self, net: Net, pool: PyTree, live: int, outer: Array | int, key: Array) -> Model:
        """Return Model[K], K = ``live``, for outer iteration ``outer`` (int32 [], from 0)."""

    def teachers(self, pool: PyTree) -> Model | None:
        """Return the trained networks of the pool, Model[P], which can give soft labels, or None if there are none."""
        return None


class Perturbation(Choice):
    """The perturbation of sampled models, which works with every model source."""

    axis = "perturb"

    @abstractmethod
    def perturb(self, models: Model, key: Array) -> Model:
        """Return the perturbed models, Model[K]. Targets do not change."""


class Selector(Choice):
    """Chooses the real images of each class for an inner step."""

    axis = "selector"

    batch: int = 0
    """B: number of real images per class"""
    every: int = 1
    """number of inner steps that share one selection, which the selector keeps in its state"""
    paired: ClassVar[bool] = False
    """whether real image b of a class is paired with decoded image b; then ``init`` needs teachers"""

    def init(self, net: Net, teachers: Model | None, data: RealData) -> PyTree:
        """Return the initial state. ``teachers`` are the trained networks of the pool, Model[P], or None."""
        return ()

    @abstractmethod
    def select(
        self, net: Net, model: Model, data: RealData, memory: PyTree, inner: Array, key: Array
    ) -> tuple[Array, PyTree]:
        """Return (int32 [C, B] columns of ``data.index``, new state). ``memory`` is the state; ``inner`` is the number
        of the inner step within its outer iteration."""

    def check(self, counts: Sequence[int], ipc: int, factor: int) -> None:
        """Raise RequestError, naming two fields, if classes with ``counts`` real images are too small."""


class Parameterisation(Choice):
    """Decodes stored images into the images that networks see."""

    axis = "parameterisation"

    space: str = "pixel"
    """'pixel' (clamped to [0, 1] at each outer iteration and when saved) or 'normalised'"""
    factor: int = 1
    """number of cells per side of a stored image"""

    def decoded(self, ipc: int) -> int:
        """Return D, the number of decoded images per class, for I = ``ipc``."""
        return ipc

    def decode(self, images: Array) -> Array:
        """Decode the images of one class: [I, H, W, c] -> [D, H, W, c]."""
        return images

    def check(self, shape: Shape) -> None:
        """Raise RequestError if images of ``shape`` (H, W, c) do not fit."""


class Labels(Choice):
    """The labels of the synthetic images."""

    axis = "labels"

    from_teachers: ClassVar[bool] = False
    """whether the trained networks of the pool label the final images"""
    learned: ClassVar[bool] = False
    """whether ``init`` returns learnable logits; the objective must then give them a gradient"""

    @property
    def init_uses_teachers(self) -> bool:
        """Whether ``init`` needs the trained networks of the pool."""
        return False

    def init(self, net: Net, teachers: Model | None, initial: TrainSet) -> PyTree:
        """Return the initial learnable logits, float32 [C, D, C], or None. ``initial`` has the C*D initial decoded
        images, sorted by class, with one-hot targets. ``teachers`` are the pool's trained networks or None."""
        return None

    def optimiser(self) -> optax.GradientTransformation:
        """Return the optimiser of the logits."""
        return optax.identity()


class Augmentation(Choice):
    """A differentiable augmentation of images [N, H, W, c] in network space, of any floating dtype. Drawing and
    applying are separate, so that a training loop can draw the random numbers of all its steps at once."""

    axis = "augment"

    def draw(self, key: Array, n: int) -> PyTree:
        """Return the random numbers of ``n`` draws, arrays with a leading axis n. The default is one key per draw."""
        return jax.random.split(key, n)

    def draw_batches(self, key: Array, batches: int, n: int) -> PyTree:
        """Return ``n`` draws for each batch, arrays with leading axes [batches, n], from one call of ``draw``."""
        draws = self.draw(key, batches * n)
        return jax.tree.map(lambda a: a.reshape(batches, n, *a.shape[1:]), draws)

    def check(self, shape: Shape) -> None:
        """Raise RequestError if the augmentation does not suit images of ``shape`` (H, W, c)."""

    @abstractmethod
    def apply(self, x: Array, draws: PyTree) -> Array:
        """Apply the same transformation to all N images of ``x``. ``draws`` is one draw, without the axis n."""

    def __call__(self, key: Array, x: Array) -> Array:
        """Augment all N images with one shared draw (siamese augmentation)."""
        return self.apply(x, jax.tree.map(lambda a: a[0], self.draw(key, 1)))

    def each(self, key: Array, x: Array) -> Array:
        """Augment each image with its own draw, as in training."""
        return self.apply_each(x, self.draw(key, len(x)))

    def apply_each(self, x: Array, draws: PyTree) -> Array:
        """Apply draw i of ``draws`` to image i of ``x``."""
        return jax.vmap(lambda image, draws: self.apply(image[None], draws)[0])(x, draws)


class Objective(Choice):
    """A loss that compares what networks learn from synthetic and real images: a ClassObjective or SetObjective."""

    axis = "objective"

    needs_target: ClassVar[bool] = False
    """whether models must come with target parameters"""
    uses_labels: ClassVar[bool] = False
    """whether the loss has a gradient with respect to ``Synthetic.labels``"""
    uses_real: ClassVar[bool] = True
    """whether the loss uses real images; the selector must then select some"""
    paired: ClassVar[bool] = False
    """whether real image b of a class is compared with decoded image b, which needs a ``paired`` selector"""

    def learnable(self) -> PyTree:
        """Return the initial value of ``Synthetic.learnable``; None if the objective learns nothing but images."""
        return None

    def learnable_optimiser(self) -> optax.GradientTransformation:
        """Return the optimiser of ``Synthetic.learnable``."""
        return optax.identity()

    def learned_rate(self, learnable: PyTree) -> Array | None:
        """Return the learning rate for training on the set, float32 [], if ``learnable`` contains it; else None."""
        return None

    def skip(self, loss: Array) -> Array | None:
        """Return bool []: whether to discard the step with this ``loss``, the change of optimiser states included; None
        if no step is ever discarded."""
        return None

    def check(self, net: Net, shape: Shape) -> None:
        """Raise RequestError, naming two fields, if ``net`` or ``shape`` (H, W, c) does not suit the objective."""


class ClassObjective(Objective):
    """A matching objective that sees one class at a time, so that classes can be visited in chunks of any size."""

    @abstractmethod
    def class_loss(self, net: Net, model: Model, real: Array, syn: Array, c: Array, key: Array) -> Array:
        """Return the scalar loss of class ``c``. ``real`` [B, H, W, c] and ``syn`` [D, H, W, c] are augmented."""


class SetObjective(Objective):
    """A matching objective that needs all classes at once."""

    @abstractmethod
    def set_loss(self, net: Net, model: Model, real: Array, syn: Synthetic, key: Array) -> Array:
        """Return the scalar loss. ``real`` [C, B, H, W, c] and ``syn.images`` [C, D, H, W, c] are augmented."""


class Optimiser(Choice):
    """Optimiser of the synthetic images [C, I, H, W, c]. ``scale``, from ``schedule``, multiplies its learning rate."""

    axis = "optimiser"

    def schedule(self, outer: Array, outer_steps: Array | int) -> Array | float:
        """Return the factor on the learning rate in outer iteration ``outer``, from 0 to ``outer_steps`` - 1."""
        return 1.0

    @abstractmethod
    def init(self, images: Array) -> PyTree:
        """Return the initial state of the optimiser."""

    def before(self, images: Array, state: PyTree, scale: Array | float) -> tuple[Array, PyTree]:
        """Return (images, state) before the gradient is taken, at these images. The default changes nothing."""
        return images, state

    @abstractmethod
    def after(self, gradients: Array, images: Array, state: PyTree, scale: Array | float) -> tuple[Array, PyTree]:
        """Return (images, state) after the step along ``gradients``."""


class ModelUpdate(Choice):
    """The training of a live model between two inner steps. Each new model gets a new state."""

    axis = "update"

    images: int = 0
    """number of real images that one update of a model uses"""
    uses_synthetic: ClassVar[bool] = False
    """whether ``update`` uses the synthetic set, which must then contain all classes"""
    leaves_early: ClassVar[bool] = False
    """whether ``leave`` can end an outer iteration before its last inner step"""

    def begin(self, net: Net, model: Model, data: RealData, key: Array) -> tuple[Model, PyTree]:
        """Return the model and the state of the update at the beginning of an outer iteration."""
        return model, ()

    @abstractmethod
    def update(
        self, net: Net, model: Model, state: PyTree, data: RealData, syn: TrainSet, key: Array
    ) -> tuple[Model, PyTree]:
        """Return the model and the state after one inner step. ``syn`` is the current synthetic set."""

    def leave(self, state: PyTree) -> Array:
        """Return bool []: whether this model is done. The outer iteration ends when all K models are done."""
        return jnp.zeros((), bool)


class Initialisation(Choice):
    """The initial synthetic images."""

    axis = "init"

    uses_teacher: ClassVar[bool] = False
    """whether ``images`` gets the first trained network of the pool, instead of a model of an outer iteration"""

    @abstractmethod
    def images(self, net: Net, model: Model, data: RealData, ipc: int, factor: int, key: Array) -> Array:
        """Return float32 [C, I, H, W, c] in pixel space. ``model``, one model, embeds images for some choices."""

    def check(self, counts: Sequence[int], ipc: int, factor: int) -> None:
        """Raise RequestError, naming two fields, if classes with ``counts`` real images are too small."""
