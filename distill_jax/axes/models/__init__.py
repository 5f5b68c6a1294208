"""The models axis: where the networks come from that gradients are matched on."""

from distill_jax.axes.models.pools import EarlyStagePool, InterpolatedPool, RandomInit, interpolated, train_pool
from distill_jax.axes.models.trajectories import ExpertTrajectories

__all__ = ["EarlyStagePool", "ExpertTrajectories", "InterpolatedPool", "RandomInit", "interpolated", "train_pool"]
