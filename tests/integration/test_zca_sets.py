"""Tests that a set of whitened images contains the matrix, so that test images can be whitened everywhere."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax.axes.parameterisation import Pixels
from distill_jax.cli import distill, evaluate
from distill_jax.data import Dataset, digits, whiten, whitened
from distill_jax.distilled import DistilledSet
from distill_jax.formats import FORMATS, read, write
from distill_jax.formats.torch_file import dumps
from distill_jax.types import RequestError
from tests.sets import equal
from tests.tiny import NET, PLAIN, SHORT


@pytest.fixture(scope="module")
def data() -> Dataset:
    return whitened(digits())


def white(data: Dataset, space: str = "normalised") -> DistilledSet:
    """Return a set of the first whitened image of each class."""
    assert data.whitening is not None
    first = np.stack([data.x_train[data.y_train == c][:1] for c in range(10)]) / np.float32(255)
    images = (first - data.mean) / data.std if space == "normalised" else first
    normaliser = data.real_data().normaliser
    made = DistilledSet.of(Pixels(space), jnp.asarray(images), data.class_names, normaliser, {"method": "mtt"})
    return made.with_zca(data.whitening.matrix)


def test_the_matrix_whitens_as_the_data_set(data: Dataset) -> None:
    assert data.whitening is not None and digits().whitening is None
    pixels = whiten(digits().x_test / np.float32(255), data.whitening.matrix)
    inside = (data.x_test > 0) & (data.x_test < 255)
    assert inside.mean() > 0.99
    # Half a byte of rounding.
    np.testing.assert_allclose(pixels[inside], data.x_test[inside] / 255, atol=0.51 / 255)
    # Networks see test images that are whitened with the matrix of the set.
    seen = (data.x_test / np.float32(255) - data.mean) / data.std
    prepared = white(data).prepared(digits().x_test)
    np.testing.assert_allclose(prepared[inside], seen[inside], atol=0.51 / 255 / float(data.std[0]))
    assert prepared.dtype == np.float32
    plain = white(data).with_zca(None)
    np.testing.assert_allclose(plain.prepared(data.x_test), seen, atol=1e-6)
    np.testing.assert_allclose(plain.prepared(data.x_test / np.float32(255)), seen, atol=1e-6)


@pytest.mark.parametrize("space", ["pixel", "normalised"])
def test_the_matrix_is_part_of_the_set(data: Dataset, space: str, tmp_path: Path) -> None:
    distilled = white(data, space)
    assert distilled.card["zca"] is True and distilled.card["hash"] != distilled.with_zca(None).card["hash"]
    distilled.save(tmp_path / "set.npz")
    back = DistilledSet.load(tmp_path / "set.npz")
    equal(back, distilled)
    np.testing.assert_array_equal(back.zca, distilled.zca)
    # decoded() is in the space of the card; arrays() are normalised or pixels. Both are of whitened images.
    shown, pixels = back.arrays()[0], back.arrays(normalised=False)[0]
    np.testing.assert_array_equal(back.decoded()[0], shown if space == "normalised" else pixels)
    np.testing.assert_allclose(shown, (pixels - data.mean) / data.std, atol=1e-5)
    first = np.stack([data.x_train[data.y_train == c][0] for c in range(10)]) / 255
    np.testing.assert_allclose(pixels, first, atol=1e-6)


def test_a_file_with_another_matrix_is_refused(data: Dataset, tmp_path: Path) -> None:
    white(data).save(tmp_path / "set.npz")
    with np.load(tmp_path / "set.npz") as arrays:
        arrays = dict(arrays)
    for changed in ({"zca": arrays["zca"] + 1}, {"zca": arrays["zca"][1:]}, {}):
        np.savez(tmp_path / "set.npz", **{k: a for k, a in arrays.items() if k != "zca"}, **changed)
        with pytest.raises(RequestError, match="not a distilled set"):
            DistilledSet.load(tmp_path / "set.npz")
    with pytest.raises(RequestError, match=r"zca is float32\[2, 2\], not float32 \[65, 64\]"):
        white(data).with_zca(np.eye(2))


@pytest.mark.parametrize("name", ["mtt", "idc", "kip", "dd-ranking"])
def test_the_matrix_is_exported(data: Dataset, name: str, tmp_path: Path) -> None:
    space = "pixel" if name == "idc" else "normalised"
    distilled = white(data, space)
    write(distilled, FORMATS[name], tmp_path / "out")
    equal(read(FORMATS[name], tmp_path / "out"), distilled)
    np.testing.assert_array_equal(read(FORMATS[name], tmp_path / "out").zca, distilled.zca)
    (tmp_path / "out" / "zca.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(RequestError, match="zca.npy, which must whiten test images, cannot be read"):
        read(FORMATS[name], tmp_path / "out")
    (tmp_path / "out" / "zca.npy").unlink()
    with pytest.raises(RequestError, match="zca.npy, which must whiten test images, cannot be read"):
        read(FORMATS[name], tmp_path / "out")


def test_an_imported_set_of_mtt_gets_its_matrix_from_the_data_set(data: Dataset, tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(10, 1, 8, 8)).astype(np.float32)
    (tmp_path / "images_best.pt").write_bytes(dumps(values))
    (tmp_path / "labels_best.pt").write_bytes(dumps(np.arange(10)))
    distilled = read(FORMATS["mtt"], tmp_path, dataset=data)
    np.testing.assert_array_equal(distilled.arrays()[0], values.transpose(0, 2, 3, 1))
    # Networks see whitened values unscaled: except for rounding, their covariance is the expected one for digits.
    plain = digits()
    rows = (plain.x_train / 255).reshape(len(plain.x_train), -1)
    shown = distilled.prepared(plain.x_train).reshape(len(rows), -1)
    variances = np.linalg.eigvalsh(np.cov(rows, rowvar=False))
    np.testing.assert_allclose(shown.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(
        np.linalg.eigvalsh(np.cov(shown, rowvar=False)), variances / (variances + 0.1), atol=1e-4
    )


def test_a_card_of_a_few_fields_does_not_hide_the_matrix(data: Dataset, tmp_path: Path) -> None:
    distilled, plain = white(data), white(data).with_zca(None)
    for made, folder in ((distilled, tmp_path / "white"), (plain, tmp_path / "plain")):
        write(made, FORMATS["mtt"], folder)
        card = json.loads((folder / "card.json").read_text())
        few = {key: card[key] for key in ("class_names", "mean", "std")}
        (folder / "card.json").write_text(json.dumps(few))
    equal(read(FORMATS["mtt"], tmp_path / "white").with_card(**distilled.card), distilled)
    assert read(FORMATS["mtt"], tmp_path / "white").zca is not None, "the file beside the set"
    assert read(FORMATS["mtt"], tmp_path / "plain").zca is None
    assert data.whitening is not None
    np.testing.assert_array_equal(read(FORMATS["mtt"], tmp_path / "plain", dataset=data).zca, data.whitening.matrix)
    (tmp_path / "plain" / "card.json").write_text(json.dumps({**few, "zca": False}))
    assert read(FORMATS["mtt"], tmp_path / "plain", dataset=data).zca is None, "the card says so"


def test_the_script_whitens(data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    write(white(data), FORMATS["mtt"], tmp_path / "out")
    monkeypatch.syspath_prepend(tmp_path / "out")
    monkeypatch.delitem(sys.modules, "use_in_pytorch", raising=False)
    import use_in_pytorch  # type: ignore[import-not-found]

    pixels = torch.from_numpy(digits().x_test[:5] / np.float32(255)).permute(0, 3, 1, 2)
    shown = use_in_pytorch.normalise(use_in_pytorch.whiten(pixels)).permute(0, 2, 3, 1)
    np.testing.assert_allclose(shown, white(data).prepared(digits().x_test[:5]), atol=1e-4)
    assert "Apply ``whiten`` and then ``normalise``" in (use_in_pytorch.__doc__ or "")


def test_a_run_on_whitened_data_and_its_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["dm", "zca:digits", *NET, *SHORT, "--augment", "none", "--selector.batch", "4", "--outer-steps", "1"]
    line += [*PLAIN[-2:], "--update", "none", "--baselines", "--workdir", str(tmp_path)]
    assert distill.main([word for word in line if word not in ("--update.images", "64")]) == 0
    assert DistilledSet.load(tmp_path / "distilled.npz").card["zca"] is True
    score = json.loads((tmp_path / "result.json").read_text())["accuracy"]["mean"]
    capsys.readouterr()
    assert evaluate.main([str(tmp_path), "--dataset", "zca:digits", "--repeats", "2"]) == 0
    assert f"{score:.2f} ±" in capsys.readouterr().out
    assert evaluate.main([str(tmp_path), "--dataset", "digits"]) == 2
    assert "give --dataset zca:digits" in capsys.readouterr().err
