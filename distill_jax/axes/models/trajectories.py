"""Expert trajectories: the parameters of networks trained on real data, kept after every epoch (MTT)."""

from __future__ import annotations

import jax

from distill_jax.augment import Siamese
from distill_jax.axes.models.pool import train_pool
from distill_jax.contracts import Augmentation, ModelSource
from distill_jax.train import NetworkSGD, Pipeline
from distill_jax.types import Array, Members, Model, Net, RealData, RequestError, Tick, choice


@choice
class ExpertTrajectories(ModelSource):
    """Networks where an expert was after a random early epoch, with where it was some epochs later as target (MTT).

    Only the epochs that can be drawn are trained: ``start - 1 + ahead``.
    """

    size: int = 100
    """P: experts; they differ by seed"""
    start: int = 20
    """T+: trajectories start at an epoch below this"""
    ahead: int = 2
    """M: epochs from the start to the target"""
    optimiser: NetworkSGD = NetworkSGD(momentum=0.0, weight_decay=0.0)
    batch: int = 256
    augment: Augmentation = Siamese("color_crop_cutout_flip_scale_rotate", "one")
    """of the real images, drawn per image"""

    @property
    def gives_target(self) -> bool:
        return True

    def validate(self) -> None:
        for name, value in (("size", self.size), ("start", self.start), ("ahead", self.ahead)):
            if value < 1:
                raise RequestError(f"models.{name} is {value}: it must be at least 1")
        Pipeline(self.batch).validate()

    def pretrain(self, net: Net, data: RealData, key: Array, tick: Tick, members: Members | None = None) -> Model:
        """Model[P, T]: after 0, 1, ..., T - 1 = start - 1 + ahead epochs of SGD at a constant rate."""
        epochs = self.start - 1 + self.ahead
        pipeline = Pipeline(self.batch, 0.0, self.augment)
        return train_pool(net, data, self.size, epochs, pipeline, self.optimiser, key, tick, members, falling=False)

    def sample(self, net: Net, pool: Model, live: int, key: Array) -> Model:
        """Model[K] with targets: experts and start epochs drawn with replacement."""
        expert_key, epoch_key = jax.random.split(key)
        experts = jax.random.randint(expert_key, (live,), 0, jax.tree.leaves(pool)[0].shape[0])
        epochs = jax.random.randint(epoch_key, (live,), 0, self.start)
        target = jax.tree.map(lambda a: a[experts, epochs + self.ahead], pool.params)
        return jax.tree.map(lambda a: a[experts, epochs], pool)._replace(target=target)

    def teachers(self, pool: Model) -> Model:
        """Model[P]: the experts after their last epoch."""
        return jax.tree.map(lambda a: a[:, -1], pool)
