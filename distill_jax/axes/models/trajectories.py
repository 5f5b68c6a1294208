"""Expert trajectories: networks trained on real data and recorded epoch by epoch (MTT, DATM)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from distill_jax.augment import Siamese
from distill_jax.axes.models.pools import train_pool
from distill_jax.contracts import Augmentation, ModelSource
from distill_jax.draws import below
from distill_jax.train import PLAIN_SGD, NetworkSGD, Pipeline
from distill_jax.types import Array, Feed, MemberStore, Model, Net, RequestError, Tick, choice, require_at_least


@choice
class ExpertTrajectories(ModelSource):
    """Samples an expert after a random early epoch, with its parameters some epochs later as target (MTT).

    Start epochs are uniform from ``first`` to below ``start``. This end may grow during the run, from easy to hard
    (DATM section 3.2). Only the epochs that can be drawn are trained, ``start - 1 + ahead``, unless ``epochs`` is
    larger, which gives fully trained teachers.
    """

    size: int = 100
    """P: number of experts; they differ by seed"""
    start: int = 20
    """T+: trajectories start at an epoch below this"""
    ahead: int = 2
    """M: number of epochs from the start to the target"""
    optimiser: NetworkSGD = PLAIN_SGD
    batch: int = 256
    augment: Augmentation = Siamese("color_crop_cutout_flip_scale_rotate", "one")
    """augmentation of the real images, drawn per image"""
    first: int = 0
    """T-: trajectories start at this epoch or later"""
    grows_from: int = 0
    """T: the end of the range of start epochs in the first outer iteration, which grows to T+; 0: always T+"""
    grows_over: int = 1000
    """number of outer iterations over which that end grows"""
    epochs: int = 0
    """number of epochs that each expert trains; 0 or too few: the epochs that can be drawn"""

    @property
    def gives_target(self) -> bool:
        return True

    @property
    def kept(self) -> tuple[int, ...]:
        """Return the epochs after which an expert is recorded: all that can be drawn, and the last."""
        epochs = range(self.first, self.start + self.ahead)
        return (*epochs, *range(max(self.epochs, epochs[-1]), epochs[-1], -1)[:1])

    def validate(self) -> None:
        require_at_least(1, self, "size", "start", "ahead", "grows_over")
        require_at_least(0, self, "epochs")
        if not 0 <= self.first < self.start:
            raise RequestError(f"models.first is {self.first}: it must be from 0 to below models.start, {self.start}")
        if self.grows_from and not self.first < self.grows_from <= self.start:
            raise RequestError(
                f"models.grows_from is {self.grows_from}: it must be 0, or above models.first, {self.first}, and at "
                f"most models.start, {self.start}"
            )
        Pipeline(self.batch).validate()

    def pretrain(self, net: Net, data: Feed, key: Array, tick: Tick, members: MemberStore | None = None) -> Model:
        """Return Model[P, T]: after each of the T epochs in ``kept``, trained by SGD at a constant learning rate."""
        pipeline, keep = Pipeline(self.batch, 0.0, self.augment), self.kept
        return train_pool(net, data, self.size, keep[-1], pipeline, self.optimiser, key, tick, members, False, keep)

    def end(self, outer: Array | int) -> Array | int:
        """Return the end of the range of start epochs in outer iteration ``outer``, from 0: int32 [] or an int."""
        if not self.grows_from:
            return self.start
        outer = jnp.minimum(outer, self.grows_over)
        return self.grows_from + (self.start - self.grows_from) * outer // self.grows_over

    def sample(self, net: Net, pool: Model, live: int, outer: Array | int, key: Array) -> Model:
        """Return Model[K] with targets: experts and start epochs in the current range, drawn with replacement."""
        u = jax.random.uniform(key, (2 * live,))
        experts = below(u[:live], jax.tree.leaves(pool)[0].shape[0])
        epochs = below(u[live:], self.end(outer) - self.first)
        target = jax.tree.map(lambda a: a[experts, epochs + self.ahead], pool.params)
        return jax.tree.map(lambda a: a[experts, epochs], pool)._replace(target=target)

    def teachers(self, pool: Model) -> Model:
        """Return Model[P]: the experts after their last epoch."""
        return jax.tree.map(lambda a: a[:, -1], pool)
