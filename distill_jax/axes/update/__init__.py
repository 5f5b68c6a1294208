"""Model updates, what happens to a live model between two inner steps."""

from distill_jax.axes.update.between import Frozen, TrainOnReal, TrainOnSynthetic
from distill_jax.axes.update.dynamic import DynamicTraining, Watcher, accuracy

__all__ = ["DynamicTraining", "Frozen", "TrainOnReal", "TrainOnSynthetic", "Watcher", "accuracy"]
