"""Matching objectives: distances between the training signal of the synthetic images and that of the real images."""

from distill_jax.axes.objective.alignment import LayerwiseAlignment, Terms, alignment_terms
from distill_jax.axes.objective.characteristic import CalibratedCharacteristic, CharacteristicFunction
from distill_jax.axes.objective.feature import FeatureMatching
from distill_jax.axes.objective.gradient import METRICS, GradientMatching, class_gradient
from distill_jax.axes.objective.paired import PairedFeatures
from distill_jax.axes.objective.trajectory import TrajectoryMatching
from distill_jax.axes.objective.unrolled import InnerAdam, TruncatedBackprop, after_window

__all__ = [
    "METRICS",
    "CalibratedCharacteristic",
    "CharacteristicFunction",
    "FeatureMatching",
    "GradientMatching",
    "InnerAdam",
    "LayerwiseAlignment",
    "PairedFeatures",
    "Terms",
    "TrajectoryMatching",
    "TruncatedBackprop",
    "after_window",
    "alignment_terms",
    "class_gradient",
]
