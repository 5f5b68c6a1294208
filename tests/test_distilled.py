"""Tests distilled sets: they carry all that their use needs, round trips are exact, and wrong files are refused."""

import json
import pickle
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax.axes.parameterisation import MultiFormation, Pixels, decoded_set
from distill_jax.cli.session.optimise import rounded
from distill_jax.contracts import Parameterisation
from distill_jax.distilled import DistilledSet, content_hash
from distill_jax.types import Array, Normaliser, RealData, RequestError, Synthetic, choice

C, IPC, SIDE = 3, 2, 8
NAMES = ("cat", "dog", "crème brûlée")
MEAN, STD = np.array([0.5, 0.25], np.float32), np.array([0.1, 0.3], np.float32)

NORMALISER = Normaliser(jnp.asarray(MEAN), jnp.asarray(STD))


PACKED = MultiFormation(2)


@choice
class Halved(Parameterisation):
    """A user-defined parameterisation."""

    def decoded(self, ipc: int) -> int:
        return 2 * ipc

    def decode(self, images: Array) -> Array:
        return jnp.concatenate([images / 2, images])


@choice
class Inverted(MultiFormation):
    """A parameterisation that inherits from the library's."""

    def decode(self, images: Array) -> Array:
        return 1 - super().decode(images)


def make_set(parameterisation: Any = PACKED, **about: object) -> DistilledSet:
    images = jax.random.uniform(jax.random.key(0), (C, IPC, SIDE, SIDE, 2))
    return DistilledSet.of(parameterisation, images, NAMES, NORMALISER, about)


@pytest.mark.parametrize(
    "parameterisation", [Pixels(), Pixels("normalised"), MultiFormation(2), MultiFormation(2, "multi")]
)
def test_round_trip(tmp_path: Path, parameterisation: Any) -> None:
    before = make_set(parameterisation, method="acc_dd", score=None)
    before.save(tmp_path / "set.npz")
    after = DistilledSet.load(tmp_path / "set.npz")
    assert after.card == before.card and after.parameterisation == parameterisation
    assert (after.shape, after.classes) == ((SIDE, SIDE, 2), C)
    for one, other in zip(before.arrays(), after.arrays(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert (before.images.dtype, before.labels.dtype) == (np.float32, np.int32)
    np.testing.assert_array_equal(after.labels, np.repeat(np.arange(C), IPC))


def test_the_card_says_how_to_use_it() -> None:
    card = make_set(method="acc_dd", seed=7).card
    expected = {"schema": 1, "space": "pixel", "range": [0.0, 1.0], "labels": "hard", "ipc": IPC}
    expected |= {"factor": 2, "decode": "single", "packed": True}
    assert {name: card[name] for name in expected} == expected
    assert (card["class_names"], card["method"], card["seed"]) == (list(NAMES), "acc_dd", 7)
    np.testing.assert_array_equal(np.float32(card["mean"]), MEAN)
    assert not make_set(Pixels()).card["packed"]
    assert make_set(Pixels("normalised")).card["range"] is None


@pytest.mark.parametrize(
    "parameterisation", [Pixels(), Pixels("normalised"), MultiFormation(2), MultiFormation(2, "multi")]
)
def test_arrays_are_what_distillation_trained_on(parameterisation: Any) -> None:
    distilled = make_set(parameterisation)
    counts = jnp.zeros(C, jnp.int32)
    data = RealData(counts, counts, counts, counts, NORMALISER)
    packed = jnp.asarray(distilled.images).reshape(C, IPC, SIDE, SIDE, 2)
    expected = decoded_set(parameterisation, Synthetic(packed), data)
    images, labels = distilled.arrays()
    np.testing.assert_allclose(images, expected.images, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(labels, np.argmax(expected.targets, axis=1))
    assert images.dtype == np.float32 and labels.dtype == np.int32


def test_the_bound_on_decoded_images_ends_with_the_run() -> None:
    """Networks train on all cells (IDC)."""
    distilled = make_set(MultiFormation(2, "bound", IPC + 4))
    assert distilled.card["decode"] == "single" and distilled.decoded_count == C * IPC * 4
    np.testing.assert_array_equal(distilled.arrays()[0], make_set().arrays()[0])


def test_pixels_and_network_space() -> None:
    distilled = make_set(Pixels("normalised"))
    np.testing.assert_array_equal(distilled.arrays()[0], distilled.images)
    np.testing.assert_allclose(distilled.arrays(normalised=False)[0], distilled.images * STD + MEAN, rtol=1e-6)
    distilled = make_set(Pixels())
    np.testing.assert_array_equal(distilled.arrays(normalised=False)[0], distilled.images)
    np.testing.assert_allclose(distilled.arrays()[0], (distilled.images - MEAN) / STD, rtol=1e-5)


def test_the_factor_can_be_changed() -> None:
    assert make_set(Pixels()).with_factor(2).decoded()[0].shape == (C * IPC * 4, SIDE, SIDE, 2)
    assert make_set().with_factor(1).decoded()[0].shape == (C * IPC, SIDE, SIDE, 2)


def test_a_parameterisation_from_outside_is_kept_decoded(tmp_path: Path) -> None:
    distilled = make_set(Halved())
    assert len(distilled.images) == 2 * C * IPC and distilled.card["ipc"] == 2 * IPC
    distilled.save(tmp_path / "set.npz")
    np.testing.assert_array_equal(DistilledSet.load(tmp_path / "set.npz").decoded()[0], distilled.images)


def test_the_score_does_not_change_the_hash_but_an_image_does() -> None:
    distilled = make_set()
    scored = distilled.with_card(score={"mean": 90.0})
    assert scored.card["hash"] == distilled.card["hash"] and scored.card["score"] == {"mean": 90.0}
    assert content_hash(distilled.images + 1, distilled.labels) != distilled.card["hash"]


def test_pixels_are_rounded_to_the_nearest_of_eight_bits() -> None:
    distilled = make_set()
    of_bytes = rounded(distilled)
    np.testing.assert_allclose(of_bytes.images, distilled.images, atol=0.5 / 255 + 1e-6)
    np.testing.assert_allclose(of_bytes.images * 255, np.rint(of_bytes.images * 255), atol=1e-4)
    assert of_bytes.card["bits"] == 8 and of_bytes.card["hash"] == content_hash(of_bytes.images, distilled.labels)


# ------------------------------------------------------------------ wrong files


def write(path: Path, **changes: object) -> Path:
    """Write a distilled set with some arrays, or fields of its card, replaced (None: left out)."""
    distilled = make_set()
    card = {
        **distilled.card,
        **{name: value for name, value in changes.items() if name not in ("images", "labels", "card")},
    }
    card = {name: value for name, value in card.items() if value is not None}
    arrays = {"images": distilled.images, "labels": distilled.labels, "card": np.array(json.dumps(card))}
    arrays |= {name: value for name, value in changes.items() if name in arrays}
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})  # type: ignore[arg-type]
    return path


IMAGES = make_set().images


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"images": None}, "images"),
        ({"card": None}, "card"),
        ({"card": np.array("{")}, "card"),
        ({"card": np.array("[1]")}, "card"),
        ({"card": np.array(3)}, "card"),
        ({"images": IMAGES.astype(np.float64)}, "float64"),
        ({"images": IMAGES[0]}, "float32"),
        ({"images": IMAGES[:-1]}, "5 images"),
        ({"images": np.where(IMAGES > 0.5, np.nan, IMAGES).astype(np.float32)}, "finite"),
        ({"images": IMAGES + 1}, "hash"),
        ({"labels": np.arange(C * IPC, dtype=np.int32)}, "labels"),
        ({"labels": np.repeat(np.arange(C), IPC)}, "labels"),
        ({"hash": None}, "hash"),
        ({"hash": "0"}, "hash"),
        ({"schema": 2}, "update"),
        ({"schema": "one"}, "schema"),
        ({"class_names": 3}, "card"),
        ({"class_names": "abc"}, "class_names is the text 'abc', not a list"),
        ({"class_names": []}, "classes"),
        ({"space": "elsewhere"}, "space"),
        ({"factor": 0}, "factor"),
        ({"factor": "two"}, "factor"),
        ({"mean": [0.5]}, "mean"),
        ({"mean": 0.5}, "card"),
        ({"mean": "x"}, "card"),
        ({"mean": ["a", "b"]}, "card"),
        ({"std": [0.5, 0.0]}, "std above 0"),
        ({"std": [0.5, float("inf")]}, "std above 0"),
        ({"decode": "spiral"}, "decode_type is 'spiral'"),
        ({"bound": "few"}, "card"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(RequestError, match=message) as refused:
        DistilledSet.load(write(tmp_path / "set.npz", **changes))
    assert "\n" not in str(refused.value)


def test_fields_of_the_future_are_kept(tmp_path: Path) -> None:
    distilled = DistilledSet.load(write(tmp_path / "set.npz", tiling=[1, 2]))
    assert distilled.card["tiling"] == [1, 2]


def test_a_missing_or_foreign_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="give a file, a workdir"):
        DistilledSet.load(tmp_path / "nothing.npz")
    for name, content in (("empty", b""), ("text", b"hello"), ("pickle", pickle.dumps({"images": [1]}))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(RequestError, match="damaged or not an npz"):
            DistilledSet.load(tmp_path / name)
    with pytest.raises(RequestError, match="no distilled set"):
        DistilledSet.load(tmp_path)
    write(tmp_path / "distilled.npz")
    assert DistilledSet.load(tmp_path).card["schema"] == 1, "the set in a workdir"


def test_real_images_must_fit_the_set() -> None:
    distilled = make_set()
    real = np.random.default_rng(0).integers(0, 256, (2, *distilled.shape), np.uint8)
    np.testing.assert_allclose(distilled.prepared(real), distilled.prepared(real / 255), rtol=1e-5, atol=1e-5)
    for wrong in (real.astype(int), real[0], real[:, :-1], real[..., None], real.tolist()):
        with pytest.raises(RequestError, match=r"images are .*, not \[N, .*\] of uint8 or of floats from 0 to 1"):
            distilled.prepared(wrong)


def test_pickles_are_never_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", images=np.array([{}], object), labels=np.zeros(1), card=np.array("{}"))
    with pytest.raises(RequestError):
        DistilledSet.load(tmp_path / "set.npz")


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    whole = write(tmp_path / "set.npz").read_bytes()
    rng = np.random.default_rng(0)
    damaged = [whole[:size] for size in rng.integers(1, len(whole), 30)]
    for place in rng.integers(0, len(whole), 60):
        damaged.append(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
    expected = make_set()
    for content in damaged:
        (tmp_path / "damaged.npz").write_bytes(content)
        try:
            loaded = DistilledSet.load(tmp_path / "damaged.npz")
        except RequestError:
            continue
        # A byte without meaning, such as a time stamp in the archive.
        assert loaded.card == expected.card and loaded.images.tobytes() == expected.images.tobytes()


def test_a_parameterisation_that_inherits_from_ours_is_stored_decoded() -> None:
    plain, inverted = make_set(), make_set(Inverted(2))
    assert inverted.card["factor"] == 1
    np.testing.assert_allclose(inverted.arrays(normalised=False)[0], 1 - plain.arrays(normalised=False)[0], atol=1e-6)
