"""Model updates: how a live model changes between two inner steps."""

from distill_jax.axes.update.between import Frozen, TrainOnReal, TrainOnSynthetic
from distill_jax.axes.update.dynamic import DynamicTraining, Watcher, accuracy

__all__ = ["DynamicTraining", "Frozen", "TrainOnReal", "TrainOnSynthetic", "Watcher", "accuracy"]
