"""Tests TFDS: reading array_record without TensorFlow, and clear messages if something is missing.

The tests write the data sets with their own builders, which yield PIL images, because TFDS prepares these without
TensorFlow.
"""

from __future__ import annotations

import importlib.util
import io
import json
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distill_jax.data import load
from distill_jax.data import tfds as reader
from tests.test_data import refused

tfds = pytest.importorskip("tensorflow_datasets")
HAS_TENSORFLOW = importlib.util.find_spec("tensorflow") is not None


def pixels(i: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(i).integers(0, 256, shape, np.uint8)


class Fake:
    """Twelve training and four test images. Image i is pixels(i, ...) of class i % 3."""

    VERSION = tfds.core.Version("1.0.0")
    SHAPE: tuple[int | None, int | None, int] = (4, 4, 3)
    TEST = "test"

    def _info(self) -> Any:
        names = tfds.features.ClassLabel(names=["ant", "bee", "cat"])
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict({"image": tfds.features.Image(shape=self.SHAPE), "label": names}),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples(range(12)), self.TEST: self._generate_examples(range(20, 24))}

    def _generate_examples(self, rows: range) -> Iterator[tuple[int, dict[str, Any]]]:
        for i in rows:
            yield i, {"image": Image.fromarray(self.picture(i)), "label": i % 3}

    def picture(self, i: int) -> np.ndarray:
        return pixels(i, *(size for size in self.SHAPE if size and size > 1))


class FakeColour(Fake, tfds.core.GeneratorBasedBuilder):
    pass


class FakeGrey(Fake, tfds.core.GeneratorBasedBuilder):
    SHAPE = (4, 4, 1)
    TEST = "validation"


class FakeVarying(Fake, tfds.core.GeneratorBasedBuilder):
    SHAPE = (None, None, 3)

    def picture(self, i: int) -> np.ndarray:
        """Return a central grey square of the shorter side on black."""
        image = np.zeros((8, 16, 3) if i % 2 else (24, 8, 3), np.uint8)
        image[(slice(None), slice(4, 12)) if i % 2 else slice(8, 16)] = 100 + i
        return image


class FakePairs(Fake, tfds.core.GeneratorBasedBuilder):
    def _info(self) -> Any:
        features = {"image": tfds.features.Image(shape=(4, 4, 3)), "label": tfds.features.Text()}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))


class FakeTrainOnly(Fake, tfds.core.GeneratorBasedBuilder):
    TEST = "extra"


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    tfds.disable_progress_bar()
    return tmp_path


def prepare(name: str, data_dir: Path, file_format: str = "array_record") -> None:
    tfds.builder(name, data_dir=data_dir).download_and_prepare(file_format=file_format)


def without(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make ``package`` appear not installed."""
    find = importlib.util.find_spec

    class Finder:
        @staticmethod
        def find_spec(name: str, *_: Any) -> None:
            if name.partition(".")[0] == package:
                raise ModuleNotFoundError(f"No module named {package!r}")

    monkeypatch.delitem(sys.modules, package, raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == package else find(name, *rest))


@pytest.mark.parametrize(("name", "shape"), [("fake_colour", (4, 4, 3)), ("fake_grey", (4, 4, 1))])
def test_reads_array_record_without_tensorflow(
    name: str, shape: tuple[int, ...], data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(name, data_dir)
    without("tensorflow", monkeypatch)
    monkeypatch.setattr(reader, "BATCH", 5)
    for spelling in (name, f"{name}:1.0.0"):
        data = load(spelling)
        assert data.name == spelling and data.shape == shape and data.class_names == ("ant", "bee", "cat")
        for images, labels, rows in (
            (data.x_train, data.y_train, range(12)),
            (data.x_test, data.y_test, range(20, 24)),
        ):
            written = {pixels(i, *shape).tobytes(): i % 3 for i in rows}
            assert {x.tobytes(): y for x, y in zip(images, labels, strict=True)} == written


def test_images_of_varying_size_are_resized_and_cropped(data_dir: Path) -> None:
    prepare("fake_varying", data_dir)
    data = load("fake_varying", side=4)
    assert data.shape == (4, 4, 3)
    centres = sorted(data.x_train[:, 1:3, 1:3].mean((1, 2, 3)))
    np.testing.assert_array_equal(centres, np.arange(100, 112))
    assert load("fake_varying").shape == (224, 224, 3)
    refused("side 0: give at least 1", load, "fake_varying", side=0)


def test_unknown_names(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def check() -> None:
        refused("no data set 'cifr10': did you mean cifar10", load, "cifr10")
        refused("did you mean mnist", load, "MNIST")
        refused("did you mean digits", load, "digit")
        refused(r"choose digits, npz:PATH, folder:PATH, hf:PATH or a name of TFDS", load, "xyzzy")
        refused(f"write folder:{data_dir}", load, str(data_dir))
        (data_dir / "a.npz").touch()
        refused(f"write npz:{data_dir}/a.npz", load, f"{data_dir}/a.npz")
        for odd in ("", ":", "/", "huggingface:x", "digits:1"):
            refused("no data set", load, odd)

    check()
    without("tensorflow_datasets", monkeypatch)
    check()


def test_unknown_versions_and_configs() -> None:
    refused(r"TFDS cannot open mnist:9.9.9 .*only: 3", load, "mnist:9.9.9")
    refused("TFDS cannot open mnist/zz .BuilderConfig zz not found", load, "mnist/zz")


def test_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    without("tensorflow", monkeypatch)
    refused(r"cifar10 is not in .* needs TensorFlow: pip install -e '\.\[tfds\]'", load, "cifar10")
    without("tensorflow_datasets", monkeypatch)
    refused(r"cifar10 needs TensorFlow Datasets .*pip install -e '\.\[tfds\]'", load, "cifar10")


def test_failing_to_prepare_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("Manual directory is empty.\nPut the archive there.")

    monkeypatch.setattr(FakeColour, "_split_generators", fail)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    refused(r"TFDS cannot prepare fake_colour .*Manual directory is empty", load, "fake_colour")


def test_unsupported_data_sets(data_dir: Path) -> None:
    refused("not a set of uint8 images with one class each", load, "fake_pairs")
    prepare("fake_train_only", data_dir)
    refused("has no split validation, only .*extra", load, "fake_train_only")
    prepare("fake_colour", data_dir)
    for file in data_dir.rglob("*train.array_record*"):
        file.write_bytes(file.read_bytes()[:1000])
    refused("fake_colour/1.0.0 is damaged .*delete", load, "fake_colour")


def test_another_file_format(data_dir: Path) -> None:
    prepare("fake_colour", data_dir)
    path = data_dir / "fake_colour" / "1.0.0" / "dataset_info.json"
    info = json.loads(path.read_text())
    path.write_text(json.dumps(info | {"fileFormat": "tfrecord"}))
    refused("not in array_record format: set TFDS_DATA_DIR", load, "fake_colour")


@pytest.mark.slow
@pytest.mark.skipif(not HAS_TENSORFLOW, reason="preparing a built-in data set needs TensorFlow")
@pytest.mark.filterwarnings("default")
def test_the_real_cifar10_builder(data_dir: Path) -> None:
    """Prepares and reads an archive of 6 x 20 images in the real layout, which TFDS takes for the download."""
    builder = tfds.builder("cifar10", data_dir=data_dir)
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    images = {f"data_batch_{i}.bin": range(20 * i, 20 * i + 20) for i in range(1, 6)} | {"test_batch.bin": range(20)}
    url = next(iter(builder.url_infos))
    name = tfds.core.download.resource.get_dl_fname(url, builder.url_infos[url].checksum)
    archive = data_dir / "downloads" / "cifar10" / name
    archive.parent.mkdir(parents=True)
    with tarfile.open(archive, "w:gz") as tar:
        files = {"batches.meta.txt": "\n".join(names).encode() + b"\n"}
        for file, rows in images.items():  # label, then red, green and blue planes
            files[file] = b"".join(bytes([i % 10]) + pixels(i, 32, 32, 3).transpose(2, 0, 1).tobytes() for i in rows)
        for file, content in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{file}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    sidecar = {"urls": [url], "dataset_names": ["cifar10"], "original_fname": "cifar-10-binary.tar.gz"}
    archive.with_name(f"{name}.INFO").write_text(json.dumps(sidecar))

    data = load("cifar10")
    assert data.class_names == tuple(names) and data.shape == (32, 32, 3)
    written = {pixels(i, 32, 32, 3).tobytes(): i % 10 for i in range(20, 120)}
    assert {x.tobytes(): y for x, y in zip(data.x_train, data.y_train, strict=True)} == written
    assert len(data.x_test) == 20
