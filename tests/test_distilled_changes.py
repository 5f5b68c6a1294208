"""Tests distilled sets with another factor, soft labels or a whitening matrix, and what their hash and files say."""

import json
import zipfile
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax.axes.parameterisation import MultiFormation, Pixels
from distill_jax.cli.session.optimise import rounded
from distill_jax.distilled import DistilledSet, content_hash
from distill_jax.types import RequestError
from tests.test_distilled import IPC, NAMES, NORMALISER, SIDE, C, make_set


def test_a_set_with_another_factor_says_so_in_its_card() -> None:
    unpacked, packed = make_set().with_factor(1), make_set(Pixels()).with_factor(2)
    assert (unpacked.card["packed"], packed.card["packed"]) == (False, True)
    scored = make_set().with_card(score={"mean": 50.0})
    assert scored.with_factor(2).card["score"] and scored.with_factor(1).card["score"] is None
    assert make_set(MultiFormation(2, "multi")).with_factor(2).decoded_count == C * IPC * (1 + 4)
    with pytest.raises(RequestError, match="factor is 0"):
        make_set().with_factor(0)
    soft = make_set().with_soft(make_set().targets())
    assert soft.with_factor(2).soft is not None
    with pytest.raises(RequestError, match="the soft labels belong to factor 2, not 1"):
        soft.with_factor(1)


def test_soft_labels_are_probabilities_of_the_decoded_images() -> None:
    distilled = make_set()
    even = np.full((C * IPC * 4, C), 1 / C, np.float32)
    assert distilled.with_soft(even).card["labels"] == "soft"
    assert distilled.with_soft(even).with_soft(None).card == distilled.card
    some = even.copy()
    some[3] = [-0.5, 0.5, 1.0]
    for wrong in (even[:-1], even[:, :2], even * 1.01, some, np.where(even > 1, even, np.nan)):
        with pytest.raises(RequestError, match="soft labels are .*: give probabilities of 24 decoded images"):
            distilled.with_soft(wrong)


def test_the_hash_is_of_all_that_networks_train_on() -> None:
    distilled, even = make_set(Pixels()), np.full((C * IPC, C), 1 / C, np.float32)
    matrix = np.eye(SIDE * SIDE * 2 + 1, SIDE * SIDE * 2, dtype=np.float32)
    made = [distilled, distilled.with_soft(even), distilled.with_zca(matrix)]
    made += [made[1].with_zca(matrix), made[1].with_zca(matrix + 1)]
    assert len({one.card["hash"] for one in made}) == len(made)
    assert made[3].card == distilled.with_zca(matrix).with_soft(even).card, "in either order"


def test_pixels_outside_zero_to_one_have_no_range() -> None:
    for low, high in ((-0.1, 0.9), (0.1, 1.1)):
        images = jnp.linspace(low, high, C * SIDE * SIDE * 2).reshape(C, 1, SIDE, SIDE, 2)
        assert DistilledSet.of(Pixels(), images, NAMES, NORMALISER, {}).card["range"] is None


def test_only_images_rounded_to_bytes_are_compressed(tmp_path: Path) -> None:
    for distilled, method in ((make_set(), zipfile.ZIP_STORED), (rounded(make_set()), zipfile.ZIP_DEFLATED)):
        distilled.save(tmp_path / "set.npz")
        with zipfile.ZipFile(tmp_path / "set.npz") as archive:
            assert {entry.compress_type for entry in archive.infolist()} == {method}


def test_a_file_whose_card_contradicts_its_soft_labels_is_refused(tmp_path: Path) -> None:
    soft = make_set().with_soft(make_set().targets())
    arrays = {"images": soft.images, "labels": soft.labels}
    half: dict[str, Any] = {"soft": soft.targets() / 2}
    hashed = {name: content_hash(soft.images, soft.labels, of) for name, of in (("no", None), ("half", half["soft"]))}
    for card, more, said in (
        ({**soft.card, "labels": "hard"}, {"soft": soft.targets()}, "contradicts the soft labels"),
        ({**soft.card, "hash": hashed["no"]}, {}, "contradicts the soft labels"),
        ({**soft.card, "hash": hashed["half"]}, half, "not rows of probabilities"),
    ):
        np.savez(tmp_path / "set.npz", card=np.array(json.dumps(card)), **arrays, **more)  # type: ignore[arg-type]
        with pytest.raises(RequestError, match=said):
            DistilledSet.load(tmp_path / "set.npz")
