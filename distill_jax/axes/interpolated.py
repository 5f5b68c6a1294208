"""The pool of NCFM: networks between their beginning and the end of their training."""

from __future__ import annotations

import jax

from distill_jax import tree
from distill_jax.augment import Siamese
from distill_jax.axes.models import train_pool
from distill_jax.contracts import Augmentation, ModelSource
from distill_jax.train import NetworkSGD, Pipeline
from distill_jax.types import Array, Members, Model, Net, PyTree, RealData, RequestError, Tick, choice, static


@choice
class InterpolatedPool(ModelSource):
    """Networks on the line between where the members of a pool began and where their training ended (NCFM): a model is
    lambda times the initial plus (1 - lambda) times the final parameters, lambda uniform in [0, 1]."""

    size: int = 20
    """P: networks in the pool; they differ by seed"""
    epochs: int = 60
    optimiser: NetworkSGD = NetworkSGD()
    batch: int = 128
    cutmix: float = static(default=0.5)
    """probability per step"""
    augment: Augmentation = Siamese("color_crop")
    """drawn per image"""
    trained: bool = False
    """each model comes with its line's final parameters as target, for the objective 'calibrated'"""

    @property
    def gives_target(self) -> bool:
        return self.trained

    def validate(self) -> None:
        for name in ("size", "epochs"):
            if getattr(self, name) < 1:
                raise RequestError(f"models.{name} is {getattr(self, name)}: it must be at least 1")
        Pipeline(self.batch, self.cutmix).validate()

    def pretrain(self, net: Net, data: RealData, key: Array, tick: Tick, members: Members | None = None) -> Model:
        """Model[P, 2]: before and after training, whose rate falls as in evaluation."""
        pipeline, ends = Pipeline(self.batch, self.cutmix, self.augment), (0, self.epochs)
        return train_pool(net, data, self.size, self.epochs, pipeline, self.optimiser, key, tick, members, True, ends)

    def sample(self, net: Net, pool: Model, live: int, key: Array) -> Model:
        """Model[K]: a member and a place on its line each; running statistics are those after training."""
        member_key, place_key = jax.random.split(key)
        drawn = tree.take(pool, jax.random.randint(member_key, (live,), 0, jax.tree.leaves(pool)[0].shape[0]))
        shares = jax.random.uniform(place_key, (live,))
        params = jax.vmap(interpolated)(drawn.params, shares)
        end = self.teachers(drawn)
        return Model(params, end.stats, end.params if self.trained else None)

    def teachers(self, pool: Model) -> Model:
        """Model[P]: the pool after training."""
        return jax.tree.map(lambda a: a[:, 1], pool)


def interpolated(ends: PyTree, share: Array) -> PyTree:
    """Parameters [2, ...] -> ``share`` of the first and the rest of the second."""
    return jax.tree.map(lambda a: share * a[0] + (1 - share) * a[1], ends)
