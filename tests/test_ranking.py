"""Tests DD-Ranking's scores against the released formulas, with accuracies as fractions (golden README, section 12)."""

from __future__ import annotations

import numpy as np
import pytest

from distill_jax.ranking import (
    augmentation_robust_score,
    hard_label_recovery,
    improvement_over_random,
    label_robust_score,
    mapped,
)
from distill_jax.types import RequestError
from tests.golden_weights import GOLDEN


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "ddranking.npz") as file:
        return dict(file)


def test_label_robust_score_of_hard_labels_golden(golden: dict[str, np.ndarray]) -> None:
    for real, distilled, random, weight, *expected in golden["lrs_hard"]:
        hlr = hard_label_recovery(real / 100, distilled / 100)
        ior = improvement_over_random(distilled / 100, random / 100)
        np.testing.assert_allclose([hlr, ior, label_robust_score(hlr, ior, weight)], expected[:3], atol=1e-12)


def test_label_robust_score_of_soft_labels_golden(golden: dict[str, np.ndarray]) -> None:
    for real, hard, soft, random, weight, *expected in golden["lrs_soft"]:
        hlr = hard_label_recovery(real / 100, hard / 100)
        ior = improvement_over_random(soft / 100, random / 100)
        np.testing.assert_allclose([hlr, ior, label_robust_score(hlr, ior, weight)], expected[:3], atol=1e-12)


def test_augmentation_robust_score_golden(golden: dict[str, np.ndarray]) -> None:
    for *accuracies, weight, expected, _ in golden["ars"]:
        augmented, plain = (improvement_over_random(*pair) for pair in np.reshape(accuracies, (2, 2)) / 100)
        np.testing.assert_allclose(augmentation_robust_score(augmented, plain, weight), expected, atol=1e-12)


def test_the_published_mean_is_that_of_the_scores_golden(golden: dict[str, np.ndarray]) -> None:
    real, distilled, random = golden["lrs_hard_3runs_in"].T
    hlr, ior = hard_label_recovery(real, distilled), improvement_over_random(distilled, random)
    ours = [f(score) for score in (hlr, ior, label_robust_score(hlr, ior)) for f in (np.mean, np.std)]
    np.testing.assert_allclose(ours, golden["lrs_hard_3runs_out"], atol=1e-12)


def test_scores_are_mapped_to_0_to_1_golden(golden: dict[str, np.ndarray]) -> None:
    np.testing.assert_allclose(mapped(golden["alpha_grid"]), golden["score_grid"], atol=1e-12)
    np.testing.assert_allclose(mapped([-1, 1]), [0, 1], atol=1e-15)


def test_percentages_are_refused() -> None:
    with pytest.raises(RequestError, match="divide percentages by 100"):
        improvement_over_random([62.0, 61.0], [43.4, 43.5])
