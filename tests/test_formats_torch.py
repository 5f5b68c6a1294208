"""Tests import of files that PyTorch wrote, and use of our exports in PyTorch."""

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill_jax.axes.parameterisation import MultiFormation, Pixels
from distill_jax.formats import FORMATS, encode, read, write
from distill_jax.formats.format import dataset_name
from distill_jax.types import RequestError
from tests.sets import NAMES, PACKED, SIDE, TOLD, C, made, softened


@pytest.fixture(autouse=True)
def parquet(request: pytest.FixtureRequest) -> None:
    if "huggingface" in request.node.name:
        pytest.importorskip("pyarrow")


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch")


def originals(torch: Any) -> dict[str, dict[str, Any]]:
    """Return the files that each codebase would save for random images of three classes."""
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.rand((6, 3, 8, 8), generator=generator), torch.tensor([0, 0, 1, 1, 2, 2])
    strided = images.clone().requires_grad_().transpose(2, 3).contiguous().transpose(2, 3)
    experiments = [[images * 0, labels], [images, labels]]
    accuracies = {"ConvNet": [np.float64(0.25), np.float64(0.5)]}
    learned = {"images.pt": torch.nn.Parameter(images), "lr.pt": torch.tensor(0.5)}
    return {
        "idc": {"data_best.pt": [images, labels]},
        "dc": {"res_DSA_MNIST_ConvNet_2ipc.pt": {"data": experiments, "accs_all_exps": accuracies}},
        "mtt": {"images_best.pt": strided, "labels_best.pt": labels},
        "dd-ranking": {**learned, "labels.pt": torch.eye(3)[labels]},
    }


@pytest.mark.parametrize("name", ["idc", "dc", "mtt", "dd-ranking"])
def test_files_of_real_pytorch_are_imported(torch: Any, tmp_path: Path, name: str) -> None:
    for file, content in originals(torch)[name].items():
        torch.save(content, tmp_path / file)
    told = dict(TOLD, factor=2) if FORMATS[name].packed else TOLD
    found = read(FORMATS[name], tmp_path, **told)
    expected = originals(torch)["idc"]["data_best.pt"][0].permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(found.images, expected)
    assert found.card["packed"] == FORMATS[name].packed and found.card["labels"] == "hard"


@pytest.mark.parametrize("name", ["idc", "dc", "mtt", "dd-ranking"])
def test_real_pytorch_loads_an_export(torch: Any, tmp_path: Path, name: str) -> None:
    write(made(), FORMATS[name], tmp_path / "out")
    files = {path.name: torch.load(path, weights_only=True) for path in (tmp_path / "out").glob("*.pt")}
    match name:
        case "idc":
            images, labels = files["data.pt"]
        case "dc":
            images, labels = files["res_ACCDD_OWN_ConvNet_10ipc.pt"]["data"][-1]
        case _:
            images, labels = (files[file] for file in sorted(files))
    arrived = read(FORMATS[name], tmp_path / "out")
    np.testing.assert_array_equal(images.permute(0, 2, 3, 1), arrived.images)
    assert labels.dtype is torch.int64 and labels.tolist() == arrived.labels.tolist()


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("how", [Pixels(), MultiFormation(2), PACKED, MultiFormation(2, "bound", 6)])
def test_the_script_beside_an_export_trains_on_our_images(torch: Any, tmp_path: Path, name: str, how: Any) -> None:
    if name == "huggingface":
        pytest.importorskip("datasets")
    arrived = write(made(how), FORMATS[name], tmp_path / "out", packed=FORMATS[name].packed)
    script = runpy.run_path(str(tmp_path / "out" / "use_in_pytorch.py"))
    images, _ = arrived.arrays()
    np.testing.assert_allclose(script["images"].permute(0, 2, 3, 1), images, atol=1e-5)
    labels = script["labels"].numpy()
    np.testing.assert_array_equal(np.eye(C)[labels] if labels.ndim == 1 else labels, arrived.targets())
    assert script["images"].dtype is torch.float32 and len(next(iter(script["loader"]))[0]) == min(64, len(images))


def test_the_script_of_every_format_compiles() -> None:
    for name, form in FORMATS.items():
        if name != "huggingface":
            files, _ = encode(made(), form, packed=form.packed)
            compile(files["use_in_pytorch.py"], name, "exec")


@pytest.mark.parametrize("name", FORMATS)
def test_the_script_normalises_pixels_only(name: str) -> None:
    form = FORMATS[name]
    files, exported = encode(made(), form, packed=form.packed)
    text = files["use_in_pytorch.py"].decode()
    assert "MEAN, STD = [0.5, 0.25, 0.125], [0.5, 0.25, 2.0]\n" in text
    assert 'CLASSES = ["cat", "dog", "crème brûlée"]\n' in text
    assert ("images = normalise(images)" in text) == (form.space == "pixel")
    assert ("images = torch.cat([decode(x)" in text) == form.packed
    held = "6 images of 3 classes, packed: decode() returns 30 images" if form.packed else "30 images of 3 classes"
    assert f"The files hold {held}; {'pixels in [0, 1]' if form.space == 'pixel' else 'already normalised'}." in text
    assert len(exported.images) == (6 if form.packed else 30)


def test_the_name_of_a_file_of_dc_says_what_is_in_it() -> None:
    assert "res_ACCDD_OWN_ConvNet_2ipc.pt" in encode(made(Pixels()), FORMATS["dc"])[0]
    unknown = made(Pixels()).with_card(method=None, dataset=None)
    assert "res_DM_DATA_ConvNet_2ipc.pt" in encode(unknown, FORMATS["dc"])[0]


@pytest.mark.parametrize(
    ("dataset", "name"),
    [
        ("cifar10", "cifar10"), ("zca:cifar10", "cifar10"), ("npz:/my/own.npz", "own"), ("zca:npz:/my/own.npz", "own"),
        ("folder:/my/photos", "photos"), (None, "data"),
    ],
)  # fmt: skip
def test_an_export_names_the_data_set_without_its_path(dataset: str | None, name: str) -> None:
    assert dataset_name({"dataset": dataset}) == name


@pytest.mark.parametrize("packed", [True, False])
def test_the_page_of_a_set_on_hugging_face_says_how_to_use_it(packed: bool) -> None:
    pytest.importorskip("pyarrow")
    text = encode(made(), FORMATS["huggingface"], packed)[0]["README.md"].decode()
    assert f"\n{6 if packed else 30} synthetic images of 3 classes, learned with acc_dd on own\n" in text
    assert f"- Images are **{'packed' if packed else 'decoded'}**, with pixels" in text
    assert ("Each is a grid of 2x2 images" in text) == packed
    assert "mean `[0.5, 0.25, 0.125]` and std `[0.5, 0.25, 2.0]`" in text


def test_centred_labels_of_kip_are_one_hot(tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((3, 8, 8, 3))
    np.savez(tmp_path / "kip.npz", images=images, labels=np.eye(3)[[2, 0, 1]] - 1 / 3)
    found = read(FORMATS["kip"], tmp_path / "kip.npz", **TOLD)
    np.testing.assert_array_equal(found.images, images[[1, 2, 0]].astype(np.float32))


def test_parquet_files_have_the_metadata_of_hugging_face(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    write(softened(made()).with_card(score={"mean": 87.654}), FORMATS["huggingface"], tmp_path / "out")
    table = parquet.read_table(tmp_path / "out" / "data" / "train-00000-of-00001.parquet")
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"}
    assert features["label"] == {"names": list(NAMES), "_type": "ClassLabel"}
    first = table.to_pylist()[0]
    assert first["image"]["bytes"].startswith(b"\x89PNG") and first["image"]["path"] and len(first["soft_label"]) == C
    readme = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert readme.startswith("---\n") and "'2': \"crème brûlée\"" in readme and "acc_dd on own" in readme
    assert "/my" not in readme and "87.7%" in readme
    assert "README.md" in encode(made().with_card(score=3), FORMATS["huggingface"])[0]


def test_greyscale_images_are_exported_as_pictures(tmp_path: Path) -> None:
    arrived = write(made(channels=1), FORMATS["png"], tmp_path / "out")
    assert arrived.shape == (SIDE, SIDE, 1)
    with pytest.raises(RequestError, match="1 or 3 channels, not 2"):
        write(made(channels=2), FORMATS["png"], tmp_path / "two")
