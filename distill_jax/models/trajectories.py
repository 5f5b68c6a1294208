"""Expert trajectories: the parameters of networks trained on real data, kept after every epoch (MTT)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from distill_jax.augment import Siamese
from distill_jax.models.early_stage import train_many
from distill_jax.models.perturb import Drawn
from distill_jax.train import Regime
from distill_jax.types import Array, Augmentation, Model, Net, RealData, RequestError, Tick


@dataclass(frozen=True)
class ExpertTrajectories(Drawn):
    """Networks where an expert was after a random early epoch, with where it was some epochs later as target (MTT).

    Only the epochs that can be drawn are trained: ``start - 1 + ahead``. With ``perturb`` the start point is moved, the
    target is not.
    """

    gives_target: ClassVar[bool] = True

    size: int = 100
    """E: experts; they differ by seed"""
    start: int = 20
    """T+: trajectories start at an epoch below this"""
    ahead: int = 2
    """M: epochs from the start to the target"""
    batch: int = 256
    augment: Augmentation = Siamese("color_crop_cutout_flip_scale_rotate", "one")
    """of the real images, drawn per image"""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("size", "start", "ahead"):
            if getattr(self, name) < 1:
                raise RequestError(f"models.{name} is {getattr(self, name)}: it must be at least 1")
        Regime(self.batch)

    def pretrain(self, net: Net, data: RealData, hyper: Any, key: Array, tick: Tick) -> Model:
        """Model[E, T]: after 0, 1, ..., T - 1 = start - 1 + ahead epochs of SGD at the constant rate hyper.model_lr."""
        epochs = self.start - 1 + self.ahead
        regime = Regime(self.batch, 0.0, self.augment)
        snapshots = train_many(net, data, self.size, epochs, regime, hyper, key, tick, falling=False)
        return jax.tree.map(lambda *epochs: jnp.stack(epochs, axis=1), *snapshots)

    def sample(self, net: Net, pool: Model, hyper: Any, key: Array) -> Model:
        """Model[K] with targets: experts and start epochs drawn with replacement, then perturbed."""
        expert_key, epoch_key, perturb_key = jax.random.split(key, 3)
        experts = jax.random.randint(expert_key, (self.live,), 0, jax.tree.leaves(pool)[0].shape[0])
        epochs = jax.random.randint(epoch_key, (self.live,), 0, self.start)
        models = jax.tree.map(lambda a: a[experts, epochs], pool)
        target = jax.tree.map(lambda a: a[experts, epochs + self.ahead], pool.params)
        return self.perturbed(models._replace(target=target), hyper, perturb_key)

    def teachers(self, pool: Model) -> Model:
        """Model[E]: the experts after their last epoch."""
        return jax.tree.map(lambda a: a[:, -1], pool)
