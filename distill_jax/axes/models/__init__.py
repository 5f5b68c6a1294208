"""The models axis: where the networks come from that gradients are matched on."""

from distill_jax.axes.models.early_stage import EarlyStagePool
from distill_jax.axes.models.pool import train_pool
from distill_jax.axes.models.random import RandomInit
from distill_jax.axes.models.trajectories import ExpertTrajectories

__all__ = ["EarlyStagePool", "ExpertTrajectories", "RandomInit", "train_pool"]
