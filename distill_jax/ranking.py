"""DD-Ranking's scores of a distilled set (Li et al. 2025, arXiv 2505.13300).

Accuracy alone rewards the soft labels and the augmentation of a set as much as its images. These scores compare it with
random real images that get the same labels and augmentation. All arguments are accuracies as FRACTIONS, floats or
arrays [R] with one value per repeat; a published mean is the mean of the R scores. The released code passes percentages
to the exponential, which gives meaningless numbers. Hence all functions raise RequestError for an accuracy above 1.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from distill_jax.types import RequestError


def hard_label_recovery(full: ArrayLike, distilled: ArrayLike) -> np.ndarray:
    """Return HLR, the accuracy lost against all training data, both with hard labels. Smaller is better."""
    return _fractions(full) - _fractions(distilled)


def improvement_over_random(distilled: ArrayLike, random: ArrayLike) -> np.ndarray:
    """Return IOR, the accuracy gained over as many random images with the labels (and augmentation) of the set."""
    return _fractions(distilled) - _fractions(random)


def label_robust_score(hlr: ArrayLike, ior: ArrayLike, weight: float = 0.5) -> np.ndarray:
    """Return LRS in [0, 1]: ``mapped(weight * IOR - (1 - weight) * HLR)``. An argument of 0 gives 0.269."""
    return mapped(weight * np.asarray(ior) - (1 - weight) * np.asarray(hlr))


def augmentation_robust_score(ior_augmented: ArrayLike, ior_plain: ArrayLike, weight: float = 0.5) -> np.ndarray:
    """Return ARS in [0, 1]: the improvements over random images with and without augmentation, weighted and mapped."""
    return mapped(weight * np.asarray(ior_augmented) + (1 - weight) * np.asarray(ior_plain))


def mapped(alpha: ArrayLike) -> np.ndarray:
    """Return ``(e^alpha - e^-1) / (e - e^-1)``, which maps [-1, 1] to [0, 1]."""
    return (np.exp(np.asarray(alpha)) - math.exp(-1)) / (math.e - math.exp(-1))


def _fractions(accuracy: ArrayLike) -> np.ndarray:
    accuracy = np.asarray(accuracy, np.float64)
    if not np.all((accuracy >= 0) & (accuracy <= 1)):
        raise RequestError(f"accuracy is {accuracy}, but must be a fraction from 0 to 1: divide percentages by 100")
    return accuracy
