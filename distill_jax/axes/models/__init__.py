"""The models axis: the source of the networks that each outer iteration matches on."""

from distill_jax.axes.models.pools import EarlyStagePool, InterpolatedPool, RandomInit, interpolated, train_pool
from distill_jax.axes.models.trajectories import ExpertTrajectories

__all__ = ["EarlyStagePool", "ExpertTrajectories", "InterpolatedPool", "RandomInit", "interpolated", "train_pool"]
