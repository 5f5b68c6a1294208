"""DD-Ranking's scores of a distilled set (Li et al. 2025, arXiv 2505.13300).

Accuracy alone rewards what comes with a set (soft labels, augmentation) as much as its images. These scores compare it
with random real images that were given the same. All arguments are accuracies as FRACTIONS, floats or arrays [R] of one
per repeat; a published mean is the mean of the R scores. The released code feeds percentages to the exponential, which
gives numbers that mean nothing: hence RequestError for an accuracy above 1.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from distill_jax.types import RequestError


def hard_label_recovery(full: ArrayLike, distilled: ArrayLike) -> np.ndarray:
    """HLR: what is lost against all training data, both with hard labels. Smaller is better."""
    return _fractions(full) - _fractions(distilled)


def improvement_over_random(distilled: ArrayLike, random: ArrayLike) -> np.ndarray:
    """IOR: what is gained over as many random images, both with the labels (and augmentation) of the set."""
    return _fractions(distilled) - _fractions(random)


def label_robust_score(hlr: ArrayLike, ior: ArrayLike, weight: float = 0.5) -> np.ndarray:
    """LRS in [0, 1]: ``alpha = weight * IOR - (1 - weight) * HLR``, mapped. An alpha of 0 is 0.269."""
    return mapped(weight * np.asarray(ior) - (1 - weight) * np.asarray(hlr))


def augmentation_robust_score(ior_augmented: ArrayLike, ior_plain: ArrayLike, weight: float = 0.5) -> np.ndarray:
    """ARS in [0, 1]: the improvement over random images in training with augmentation and without it, mapped."""
    return mapped(weight * np.asarray(ior_augmented) + (1 - weight) * np.asarray(ior_plain))


def mapped(alpha: ArrayLike) -> np.ndarray:
    """``(e^alpha - e^-1) / (e - e^-1)``: from [-1, 1] to [0, 1]."""
    return (np.exp(np.asarray(alpha)) - math.exp(-1)) / (math.e - math.exp(-1))


def _fractions(accuracy: ArrayLike) -> np.ndarray:
    accuracy = np.asarray(accuracy, np.float64)
    if not np.all((accuracy >= 0) & (accuracy <= 1)):
        raise RequestError(f"accuracies are fractions, from 0 to 1, not {accuracy}: divide percentages by 100")
    return accuracy
