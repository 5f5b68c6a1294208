"""The initialisation axis: where synthetic images start. Coresets without distillation serve as baselines."""

from distill_jax.axes.init.first_images import (
    CorrectlyClassified,
    Herding,
    KCenter,
    KMeansInit,
    Mix,
    Noise,
    RandomReal,
    tile,
    unit_length,
)
from distill_jax.axes.init.patches import AnchorMosaics, RealPatches

__all__ = [
    "AnchorMosaics",
    "CorrectlyClassified",
    "Herding",
    "KCenter",
    "KMeansInit",
    "Mix",
    "Noise",
    "RandomReal",
    "RealPatches",
    "tile",
    "unit_length",
]
