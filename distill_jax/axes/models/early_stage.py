"""The early-stage pool (Acc-DD section 3.2)."""

from __future__ import annotations

import jax

from distill_jax import tree
from distill_jax.augment import NoAugment
from distill_jax.axes.models.pool import train_pool
from distill_jax.contracts import Augmentation, ModelSource
from distill_jax.train import NetworkSGD, Pipeline
from distill_jax.types import Array, Members, Model, Net, RealData, RequestError, Tick, choice, static


@choice
class EarlyStagePool(ModelSource):
    """A few networks trained for a few epochs on the real data, picked uniformly (Acc-DD section 3.2)."""

    size: int = 5
    """P: networks in the pool; they differ by seed"""
    epochs: int = 2
    optimiser: NetworkSGD = NetworkSGD()
    batch: int = 64
    cutmix: float = static(default=0.5)
    """probability per step"""
    augment: Augmentation = NoAugment()
    """drawn per image"""
    ahead: int = 0
    """epochs that each network is trained on for the parameters it should be led to (trajectory matching); 0: none"""

    @property
    def gives_target(self) -> bool:
        return self.ahead > 0

    def validate(self) -> None:
        if self.size < 1:
            raise RequestError(f"models.size is {self.size}: an early-stage pool needs at least one network")
        for name, value in (("epochs", self.epochs), ("ahead", self.ahead)):
            if value < 0:
                raise RequestError(f"models.{name} is {value}: it must be 0 or more")
        Pipeline(self.batch, self.cutmix).validate()

    def pretrain(self, net: Net, data: RealData, key: Array, tick: Tick, members: Members | None = None) -> Model:
        """Model[P]. With ``ahead`` the learning rate is constant and the pool has targets; else it drops as in
        evaluation if ``epochs`` is long enough."""
        keep = tuple(sorted({self.epochs, self.epochs + self.ahead}))
        pipeline, falling = Pipeline(self.batch, self.cutmix, self.augment), self.ahead == 0
        pool = train_pool(net, data, self.size, keep[-1], pipeline, self.optimiser, key, tick, members, falling, keep)
        start, end = (jax.tree.map(lambda a, t=t: a[:, t], pool) for t in (0, -1))
        return start._replace(target=end.params) if self.ahead else start

    def sample(self, net: Net, pool: Model, live: int, key: Array) -> Model:
        """Model[K]: members of the pool drawn with replacement."""
        members = jax.tree.leaves(pool)[0].shape[0]
        return tree.take(pool, jax.random.randint(key, (live,), 0, members))

    def teachers(self, pool: Model) -> Model:
        """Model[P]: the pool."""
        return pool._replace(target=None)
