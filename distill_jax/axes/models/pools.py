"""Model sources of random networks and of pools of trained networks, and the training of a pool."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from distill_jax import mesh, tree
from distill_jax.augment import Siamese
from distill_jax.contracts import Augmentation, ModelSource
from distill_jax.draws import below, split
from distill_jax.train import NetworkSGD, Pipeline
from distill_jax.train_many import Course, Networks, begin, models_of, networks_at_once, train_epochs
from distill_jax.types import (
    Array,
    Feed,
    MemberStore,
    Model,
    Net,
    PyTree,
    RequestError,
    Tick,
    choice,
    require_at_least,
    static,
)

AT_ONCE = 8
"""maximum number of networks that an accelerator trains at once, so that progress is shown and saved often"""


@choice
class RandomInit(ModelSource):
    """Initialises new networks in every outer iteration: DC, DSA, DM, CAFE, IDC, DREAM."""

    def sample(self, net: Net, pool: None, live: int, outer: Array | int, key: Array) -> Model:
        """Return Model[K]."""
        return tree.map_chunks(net.init, split(key, live), live)


@choice
class EarlyStagePool(ModelSource):
    """Trains a few networks for a few epochs on the real data and samples them uniformly (Acc-DD section 3.2)."""

    size: int = 5
    """P: number of networks in the pool; they differ by seed"""
    epochs: int = 2
    optimiser: NetworkSGD = NetworkSGD()
    batch: int = 64
    cutmix: float = static(default=0.5)
    """probability of cutmix in each step"""
    augment: Augmentation = Siamese("color_crop")
    """augmentation of the real images, drawn per image"""
    schedule: str = "thirds"
    """learning rate schedule: 'thirds' drops it as in evaluation if ``epochs`` is long enough; 'constant'"""
    ahead: int = 0
    """number of epochs that each network trains further to become the target in trajectory matching; 0: no target"""

    @property
    def gives_target(self) -> bool:
        return self.ahead > 0

    def validate(self) -> None:
        if self.size < 1:
            raise RequestError(f"models.size is {self.size}: an early-stage pool needs at least one network")
        require_at_least(0, self, "epochs", "ahead")
        if self.schedule not in ("thirds", "constant"):
            raise RequestError(f"models.schedule is {self.schedule!r}: it must be 'thirds' or 'constant'")
        Pipeline(self.batch, self.cutmix).validate()

    def pretrain(self, net: Net, data: Feed, key: Array, tick: Tick, members: MemberStore | None = None) -> Model:
        """Return Model[P]. With ``ahead`` the learning rate is constant and the pool has targets."""
        keep = tuple(sorted({self.epochs, self.epochs + self.ahead}))
        pipeline = Pipeline(self.batch, self.cutmix, self.augment)
        falling = self.ahead == 0 and self.schedule == "thirds"
        pool = train_pool(net, data, self.size, keep[-1], pipeline, self.optimiser, key, tick, members, falling, keep)
        start, end = _first_and_last(pool)
        return start._replace(target=end.params) if self.ahead else start

    def sample(self, net: Net, pool: Model, live: int, outer: Array | int, key: Array) -> Model:
        """Return Model[K]: members of the pool, drawn with replacement."""
        members = jax.tree.leaves(pool)[0].shape[0]
        return tree.take(pool, below(jax.random.uniform(key, (live,)), members))

    def teachers(self, pool: Model) -> Model:
        """Return Model[P]: the pool."""
        return pool._replace(target=None)


@choice
class InterpolatedPool(ModelSource):
    """Samples networks on the lines between the initial and the trained members of a pool (NCFM).

    A model is lambda times the initial plus (1 - lambda) times the final parameters, with lambda uniform in [0, 1].
    """

    size: int = 20
    """P: number of networks in the pool; they differ by seed"""
    epochs: int = 60
    optimiser: NetworkSGD = NetworkSGD()
    batch: int = 128
    cutmix: float = static(default=0.5)
    """probability of cutmix in each step"""
    augment: Augmentation = Siamese("color_crop")
    """augmentation of the real images, drawn per image"""
    trained: bool = False
    """give each model the final parameters of its line as target, for the objective 'calibrated'"""

    @property
    def gives_target(self) -> bool:
        return self.trained

    def validate(self) -> None:
        require_at_least(1, self, "size", "epochs")
        Pipeline(self.batch, self.cutmix).validate()

    def pretrain(self, net: Net, data: Feed, key: Array, tick: Tick, members: MemberStore | None = None) -> Model:
        """Return Model[P, 2]: before and after training, in which the learning rate drops as in evaluation."""
        pipeline, ends = Pipeline(self.batch, self.cutmix, self.augment), (0, self.epochs)
        return train_pool(net, data, self.size, self.epochs, pipeline, self.optimiser, key, tick, members, True, ends)

    def sample(self, net: Net, pool: Model, live: int, outer: Array | int, key: Array) -> Model:
        """Return Model[K]: random members at random places on their lines, with the statistics after training."""
        u = jax.random.uniform(key, (2 * live,))
        drawn, shares = tree.take(pool, below(u[:live], jax.tree.leaves(pool)[0].shape[0])), u[live:]
        params = jax.vmap(interpolated)(drawn.params, shares)
        end = self.teachers(drawn)
        return Model(params, end.stats, end.params if self.trained else None)

    def teachers(self, pool: Model) -> Model:
        """Return Model[P]: the pool after training."""
        return jax.tree.map(lambda a: a[:, 1], pool)


def interpolated(ends: PyTree, share: Array) -> PyTree:
    """Return ``share * first + (1 - share) * second`` for parameters [2, ...]."""
    return jax.tree.map(lambda a: share * a[0] + (1 - share) * a[1], ends)


# ------------------------------------------------------------------ training a pool


def train_pool(
    net: Net,
    data: Feed,
    size: int,
    epochs: int,
    pipeline: Pipeline,
    optimiser: NetworkSGD,
    key: Array,
    tick: Tick,
    members: MemberStore | None = None,
    falling: bool = True,
    keep: tuple[int, ...] | None = None,
) -> Model:
    """Train ``size`` networks from different seeds and return Model[P, T], after each epoch in ``keep``.

    ``keep`` defaults to 0, 1, ..., ``epochs``. A call of a compiled epoch trains ``networks_at_once`` networks on
    each device, but at most AT_ONCE. ``falling`` drops the learning rate towards the end as in evaluation; otherwise it
    is constant. ``members`` stores each group as soon as it is finished. If ``data`` comes in portions, an epoch visits
    as many of them, in order, as make up the data.
    """
    at_once = min(AT_ONCE, networks_at_once(size, pipeline.batch, data.at(0).images.shape[1:])) * mesh.size()
    # The released code drops the rate over one epoch more than it trains.
    course = Course(pipeline, epochs + 1, "thirds" if falling else "constant")
    keep = tuple(range(epochs + 1)) if keep is None else keep
    pool: Any = None
    for group in _groups(size, at_once):
        first, count = group.start, len(group)
        networks = begin(net, optimiser, _fold_in(key, np.asarray(group)))
        if pool is None:
            pool = mesh.replicated(_empty_pool(net, networks, size, len(keep)))
        like = jax.eval_shape(partial(jax.tree.map, lambda a, count=count: a[:count]), pool)
        trained_group = None if members is None else members.get(first, like)
        if trained_group is None:
            for epoch in range(epochs + 1):
                for n in range((epoch - 1) * data.portions, epoch * data.portions) if epoch else ():
                    portion = data.at(n)
                    networks = train_epochs(
                        net, course, -(-count // mesh.size()), networks, optimiser, portion, portion.normaliser,
                        n + 1, None, data.portions,
                    )  # fmt: skip
                if epoch in keep:
                    pool = _write(net, pool, networks, first, keep.index(epoch))
                if epoch:
                    # Calls return before they are computed: without a wait, progress would run ahead and nothing could
                    # stop it.
                    jax.block_until_ready((networks, pool))
                    tick(first * epochs + epoch * count, size * epochs)
            if members is not None:
                members.put(first, _read(pool, count, first))
        else:
            pool = _write(net, pool, mesh.replicated(trained_group), first, 0)
    return pool


def _groups(size: int, at_once: int) -> list[range]:
    """Split range(``size``) into groups of equal length, at most ``at_once``, which the devices divide unless it is the
    whole. The last group may overlap the one before it: a shorter one would need another program, and its devices would
    take as long."""
    longest = -(-size // -(-size // at_once))
    length = min(size, longest + -longest % mesh.size())
    starts = range(0, size - length + 1, length)
    return [range(first, first + length) for first in sorted({*starts, size - length})]


@partial(jax.jit, static_argnums=(0, 2, 3))
def _empty_pool(net: Net, networks: Networks, size: int, epochs: int) -> Model:
    return jax.tree.map(lambda a: jnp.zeros((size, epochs, *a.shape[1:]), a.dtype), models_of(net, networks))


@partial(jax.jit, donate_argnums=1, static_argnums=0)
def _write(net: Net, pool: Model, group: Networks | Model, first: Array | int, epoch: Array | int) -> Model:
    """Write ``group``, after one epoch or all, into ``pool`` [P, T, ...] from member ``first``. The result takes the
    memory of ``pool``: joining the groups at the end would need that of two pools."""

    def write(a: Array, b: Array) -> Array:
        b = b.reshape(b.shape[0], -1, *a.shape[2:])
        return jax.lax.dynamic_update_slice(a, b, (first, epoch, *[0] * (a.ndim - 2)))

    models = models_of(net, group) if isinstance(group, Networks) else group
    return jax.tree.map(write, pool, mesh.replicated(models))


@partial(jax.jit, static_argnums=1)
def _read(pool: Model, count: int, first: Array | int) -> Model:
    return jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, first, count), pool)


@jax.jit
def _first_and_last(pool: Model) -> tuple[Model, Model]:
    first, last = (jax.tree.map(lambda a, t=t: a[:, t], pool) for t in (0, -1))
    return first, last


_fold_in = jax.jit(jax.vmap(jax.random.fold_in, in_axes=(None, 0)))
