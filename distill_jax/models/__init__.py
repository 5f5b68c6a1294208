"""Model sources, one a file: where the networks come from that gradients are matched on.

Model augmentation (Acc-DD) is two choices here: an early-stage pool instead of random networks, and a perturbation of
every network drawn.
"""

from distill_jax.models.early_stage import EarlyStagePool, train_many
from distill_jax.models.perturb import NORMS, Drawn, direction, move, perturb
from distill_jax.models.random import RandomInit
from distill_jax.models.trajectories import ExpertTrajectories

__all__ = [
    "NORMS",
    "Drawn",
    "EarlyStagePool",
    "ExpertTrajectories",
    "RandomInit",
    "direction",
    "move",
    "perturb",
    "train_many",
]
