"""Matching objectives, one a file: how far what the synthetic images teach is from what the real images teach."""

from distill_jax.objectives.alignment import LayerwiseAlignment, Terms, alignment_terms
from distill_jax.objectives.feature import FeatureMatching
from distill_jax.objectives.gradient import METRICS, GradientMatching, class_gradient
from distill_jax.objectives.trajectory import TrajectoryMatching

__all__ = [
    "METRICS",
    "FeatureMatching",
    "GradientMatching",
    "LayerwiseAlignment",
    "Terms",
    "TrajectoryMatching",
    "alignment_terms",
    "class_gradient",
]
