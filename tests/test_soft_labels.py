"""Tests soft labels as part of a distilled set, and their checks."""

import json
from pathlib import Path

import numpy as np
import pytest

from distill_jax.distilled import DistilledSet
from distill_jax.types import RequestError
from tests.sets import C, equal, made, softened


def test_soft_labels_are_part_of_the_set(tmp_path: Path) -> None:
    hard = made()
    np.testing.assert_array_equal(hard.targets(), np.eye(C)[hard.decoded()[1]])
    distilled = softened(hard)
    assert distilled.card["labels"] == "soft" and distilled.card["hash"] != hard.card["hash"]
    distilled.save(tmp_path / "set.npz")
    equal(DistilledSet.load(tmp_path / "set.npz"), distilled)
    equal(distilled.with_soft(None), hard)
    scored = distilled.with_card(score={"mean": 50.0})
    assert scored.with_soft(scored.soft).card == scored.card and scored.with_soft(None).card["score"] is None
    with pytest.raises(RequestError, match="factor 2"):
        distilled.with_factor(1)
    assert distilled.with_factor(2).soft is distilled.soft


@pytest.mark.parametrize("wrong", [np.ones((3, C)), np.ones((30, C)), np.full((30, C), np.nan), -np.eye(C)[[0] * 30]])
def test_soft_labels_are_probabilities_of_decoded_images(wrong: np.ndarray) -> None:
    with pytest.raises(RequestError, match="soft labels are .*: give probabilities of 30 decoded images"):
        made().with_soft(wrong)


def test_soft_labels_that_do_not_match_the_card_are_refused(tmp_path: Path) -> None:
    distilled = softened(made())
    distilled.save(tmp_path / "set.npz")
    with np.load(tmp_path / "set.npz") as arrays:
        arrays = dict(arrays)
    hard = json.dumps({**distilled.card, "labels": "hard"})
    for changes in ({"soft": arrays["soft"][::-1]}, {"soft": arrays["soft"][:-1]}, {"card": np.array(hard)}):
        np.savez(tmp_path / "other.npz", **{**arrays, **changes})
        with pytest.raises(RequestError, match="other.npz"):
            DistilledSet.load(tmp_path / "other.npz")
    np.savez(tmp_path / "other.npz", **{key: arrays[key] for key in ("images", "labels", "card")})
    with pytest.raises(RequestError, match="hash"):
        DistilledSet.load(tmp_path / "other.npz")
