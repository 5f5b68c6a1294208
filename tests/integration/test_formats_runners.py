"""Tests export and import of sets and networks on the command line."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from distill_jax.axes.parameterisation import Pixels
from distill_jax.checkpoint import load_pool
from distill_jax.cli import evaluate, export, import_set, join, pretrain
from distill_jax.distilled import DistilledSet, content_hash
from distill_jax.formats import FORMATS, pool_from_torch
from distill_jax.formats.torch_file import dumps
from distill_jax.nets import ConvNet, from_torch
from distill_jax.types import Normaliser, RequestError
from tests.golden_weights import cifar_normalised, deterministic, golden_figures
from tests.sets import NAMES, made, softened


def weights(prefix: str = "") -> dict[str, np.ndarray]:
    golden = golden_figures("convnet")
    names, shapes, roles = (golden[prefix + key] for key in ("names", "shapes", "roles"))
    return deterministic(names, shapes, roles)


def test_networks_of_pytorch_make_a_pool_with_equal_logits(tmp_path: Path) -> None:
    golden, net, plain = golden_figures("convnet"), ConvNet(3, 16).build((32, 32, 3), 10), weights()
    held = [plain, {"epoch": 2, "state_dict": {f"module.{name}": w for name, w in plain.items()}}, list(plain.values())]
    paths = [tmp_path / f"{n}.pt" for n in range(len(held))]
    for path, content in zip(paths, held, strict=True):
        path.write_bytes(dumps(content))
    pool = pool_from_torch(net, paths)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, [b] * 3), pool.params, from_torch(net, plain).params)
    first = jax.tree.map(lambda a: a[0], pool)
    out, _ = jax.jit(net.apply, static_argnums=2)(first, jnp.asarray(cifar_normalised(golden["x_u8"])), False)
    np.testing.assert_allclose(out.logits, golden["logits"], atol=2e-6)


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "net"])
def test_the_weights_of_a_checkpoint_are_found(tmp_path: Path, key: str) -> None:
    net, ours = ConvNet(1, 2).build((8, 8, 1), 2), {"conv.weight": (2, 1, 3, 3), "conv.bias": (2,)}
    ours |= {"norm.weight": (2,), "norm.bias": (2,), "classifier.weight": (2, 32), "classifier.bias": (2,)}
    weights = {name: np.full(shape, n, np.float32) for n, (name, shape) in enumerate(ours.items())}
    checkpoint = {"epoch": 3, "optimizer": {"lr": 0.1}, "model": {"of": "another"}, key: weights}
    if key == "net":  # keys are tried in order
        del checkpoint["model"]
    (tmp_path / "x.pt").write_bytes(dumps(checkpoint))
    pool = pool_from_torch(net, [tmp_path / "x.pt"])
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[0], b), pool.params, from_torch(net, weights).params)


@pytest.mark.parametrize(
    "held, said",
    [
        (lambda: dict(list(weights().items())[:-1]), "another network"),
        (lambda: {"state_dict": {"epoch": 3}}, "not a file of weights"),
        (lambda: 3, "not a file of weights"),
        (lambda: np.zeros(3), "not a file of weights"),
        (lambda: {}, "another network"),
    ],
)
def test_files_without_the_weights_of_the_network_are_refused(
    tmp_path: Path, held: Callable[[], Any], said: str
) -> None:
    (tmp_path / "net.pt").write_bytes(dumps(held()))
    with pytest.raises(RequestError, match=f"net.pt: .*{said}"):
        pool_from_torch(ConvNet(3, 16).build((32, 32, 3), 10), [tmp_path / "net.pt"])
    with pytest.raises(RequestError, match="cannot read"):
        pool_from_torch(ConvNet(3, 16).build((32, 32, 3), 10), [tmp_path / "nothing.pt"])


def test_values_that_a_format_clips_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    distilled = made()
    wide = replace(distilled, images=2 * distilled.images - 0.5)  # half of the values are outside [0, 1]
    wide = wide.with_card(hash=content_hash(wide.images, wide.labels), range=None, score={"mean": 50.0})
    wide.save(tmp_path / "set.npz")
    assert export.main([str(tmp_path / "set.npz"), "idc", str(tmp_path / "idc")]) == 0
    said = capsys.readouterr()
    assert "pixels from -0.5 to 1.49" in said.out and not said.err
    assert export.main([str(tmp_path / "set.npz"), "png", str(tmp_path / "png")]) == 0
    said = capsys.readouterr()
    assert re.search(r"\d % of the pixel values were outside \[0, 1\] and are clipped", said.err)
    card = json.loads((tmp_path / "png" / "card.json").read_text())
    assert card["bits"] == 8 and card["score"] is None, "the score was that of other images"


def test_normalised_pixels_of_black_and_white_are_not_reported_as_clipped(tmp_path: Path, capsys: Any) -> None:
    pixels = np.tile(np.linspace(0, 1, 8, dtype=np.float32)[:, None], (2, 1, 8, 8, 1))
    normaliser = Normaliser(jnp.asarray([0.4465]), jnp.asarray([0.2010]))
    images = normaliser.to_network(jnp.asarray(pixels))
    distilled = DistilledSet.of(Pixels("normalised"), images, ("a", "b"), normaliser, {})
    assert -1e-6 < distilled.arrays(normalised=False)[0].min() < 0, "a normalised 0 has an error of float32"
    distilled.save(tmp_path / "set.npz")
    assert export.main([str(tmp_path / "set.npz"), "png", str(tmp_path / "png")]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("runner", [export, import_set])
def test_the_runners_answer_help(runner: Any, capsys: pytest.CaptureFixture) -> None:
    assert runner.main(["--help"]) == 0
    said = capsys.readouterr().out
    assert f"python -m experiments.{runner.__name__.rpartition('.')[2]}" in said
    assert all(f"- {name}: " in said for name in FORMATS)


def test_export_and_import_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    distilled, names = softened(made()), ["--class-names", *NAMES]
    distilled.save(tmp_path / "distilled.npz")
    assert export.main([str(tmp_path), "idc", str(tmp_path / "out"), "--hard"]) == 0
    assert (
        "6 images 9x9x3 of 3 classes, packed, 30 when decoded, pixels in [0, 1], hard labels" in capsys.readouterr().out
    )
    assert import_set.main(["idc", str(tmp_path / "out"), "--out", str(tmp_path / "in.npz")]) == 0
    back = DistilledSet.load(tmp_path / "in.npz")
    assert back.card == {**distilled.with_soft(None).card, "imported": "idc"}
    np.testing.assert_array_equal(back.images, distilled.images)

    (tmp_path / "out" / "card.json").unlink()
    told = ["idc", str(tmp_path / "out" / "data.pt"), *names, "--mean", "0.5", "0.5", "0.5", "--std", "1", "1", "1"]
    other = tmp_path / "new" / "other.npz"
    assert import_set.main([*told, "--out", str(other)]) == 2
    assert "give --factor" in capsys.readouterr().err and not other.exists()
    assert import_set.main([*told, "--factor", "2", "--out", str(other)]) == 0
    assert DistilledSet.load(other).card["mean"] == [0.5, 0.5, 0.5]
    assert import_set.main([*told, "--factor", "2", "--out", str(other)]) == 2
    capsys.readouterr()
    images, labels = np.zeros((3, 8, 8, 3), np.uint8), np.arange(3)
    np.savez(tmp_path / "small.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    line = ["idc", str(tmp_path / "out" / "data.pt"), "--factor", "2", "--dataset", f"npz:{tmp_path}/small.npz"]
    assert import_set.main([*line, "--out", str(tmp_path / "small-set.npz")]) == 2
    assert "has images 8x8x3, but the set 9x9x3: add --side 9" in capsys.readouterr().err


def test_an_imported_set_names_its_data_set(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "in.npz"
    values = np.random.default_rng(0).random((4, 1, 8, 8)).astype(np.float32)
    (tmp_path / "data.pt").write_bytes(dumps([values, np.array([1, 0, 1, 0])]))
    line = ["idc", str(tmp_path / "data.pt"), "--factor", "1", "--dataset", "digits", "--out", str(out)]
    assert import_set.main([*line, "--subset", "7", "2"]) == 0
    card = DistilledSet.load(out).card
    assert (card["dataset"], card["subset"], card["class_names"]) == ("digits", ["7", "2"], ["7", "2"])
    out.unlink()
    # The names in a card have precedence, but the set still has to have the classes of the data set.
    (tmp_path / "card.json").write_text(json.dumps({"class_names": ["a", "b"], "dataset": "mine"}))
    assert import_set.main(line) == 2
    assert "digits has 10 classes, but the set 2: give the data set" in capsys.readouterr().err
    assert import_set.main([*line, "--subset", "0:3"]) == 2
    assert "digits has 3 classes with this --subset, but the set 2" in capsys.readouterr().err
    assert import_set.main([*line, "--subset", "7", "2"]) == 0
    card = DistilledSet.load(out).card
    assert (card["dataset"], card["imported"], card["class_names"]) == ("mine", "idc", ["a", "b"])


@pytest.mark.parametrize("how", ["packed", "decoded"])
def test_the_images_of_an_export_are_stored_as_asked(how: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    made().save(tmp_path / "set.npz")
    assert export.main([str(tmp_path / "set.npz"), "png", str(tmp_path / "png"), "--images", how]) == 0
    assert len(list((tmp_path / "png").glob("train/*/*.png"))) == {"packed": 6, "decoded": 30}[how]
    said = {
        "packed": "6 images 9x9x3 of 3 classes, packed, 30 when decoded",
        "decoded": "30 images 9x9x3 of 3 classes,",
    }
    assert said[how] in capsys.readouterr().out


@pytest.mark.parametrize(
    "line, said",
    [
        (["{set}", "pgn", "{out}"], "did you mean png"),
        (["{set}", "kip", "{out}", "--images", "packed"], "decoded"),
        (["{nothing}", "kip", "{out}"], "no distilled set"),
        (["{set}", "idc", "{dir}"], "new folder"),
        (["{set}", "idc", "{set}/out"], "cannot write|new folder"),
    ],
)
def test_a_wrong_export_is_refused(tmp_path: Path, capsys: Any, line: list[str], said: str) -> None:
    made().save(tmp_path / "set.npz")
    paths = {"set": tmp_path / "set.npz", "out": tmp_path / "out", "nothing": tmp_path / "nothing", "dir": tmp_path}
    assert export.main([word.format(**paths) for word in line]) == 2
    error = capsys.readouterr().err
    assert said.split("|")[0] in error or said.split("|")[-1] in error
    assert [path.name for path in tmp_path.iterdir()] == ["set.npz"]


def test_folders_without_a_set_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "set.npz"
    made().with_card(dataset="npz:photos.npz").save(path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.json").write_text("{}")
    assert export.main([str(path), "png", str(tmp_path / "export")]) == 0
    assert join.main([str(tmp_path / "export"), "--out", str(tmp_path / "out.npz")]) == 2
    assert "has a set in the format png: read it with experiments.import_set" in capsys.readouterr().err
    for line, said in (
        (tmp_path / "run", "has no distilled set: continue it with --resume"),
        (tmp_path / "export", "was distilled from npz:photos.npz, and there is no photos.npz here: give --dataset"),
        (path, "was distilled from npz:photos.npz, and there is no photos.npz here: give --dataset"),
    ):
        assert evaluate.main([str(line)]) == 2
        assert said in capsys.readouterr().err


def test_pretrain_takes_networks_of_pytorch(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    net = ConvNet(1, 4)
    shapes = {"conv.weight": (4, 1, 3, 3), "conv.bias": (4,), "norm.weight": (4,), "norm.bias": (4,)}
    shapes |= {"classifier.weight": (10, 64), "classifier.bias": (10,)}
    given = [{name: np.full(shape, n, np.float32) for name, shape in shapes.items()} for n in range(2)]
    paths = [str(tmp_path / f"{n}.pt") for n in range(2)]
    for path, held in zip(paths, given, strict=True):
        Path(path).write_bytes(dumps(held))
    line = ["acc_dd", "digits", "--net.depth", "1", "--net.width", "4", "--workdir", str(tmp_path / "run")]
    assert pretrain.main([*line, "--from-torch", *paths]) == 2
    assert "--models.size 2" in capsys.readouterr().err
    assert pretrain.main([*line, "--models.size", "2", "--from-torch", *paths]) == 0
    pool, about = load_pool(tmp_path / "run" / "pool")
    expected = pool_from_torch(net.build((8, 8, 1), 10), [Path(path) for path in paths])
    jax.tree.map(np.testing.assert_array_equal, pool.params, expected.params)
    assert about["from_torch"] == ["0.pt", "1.pt"] and about["models"]["size"] == 2


@pytest.mark.parametrize("name", FORMATS)
def test_evaluate_recognises_the_formats_of_other_codebases(name: str, tmp_path: Path) -> None:
    assert export.main(["digits-ipc1", name, str(tmp_path / "out")]) == 0
    read, data = evaluate._read(evaluate.Evaluate(tmp_path / "out"))
    assert data is None and read.card["dataset"] == "digits" and read.shape == (8, 8, 1)
    np.testing.assert_array_equal(read.labels, np.arange(10))


def test_evaluate_says_what_a_set_of_another_codebase_lacks(tmp_path: Path, capsys) -> None:
    for name in ("idc", "mtt", "kip"):
        assert export.main(["digits-ipc1", name, str(tmp_path / name)]) == 0
        (tmp_path / name / "card.json").unlink()
    capsys.readouterr()
    for line, said in (
        ("mtt/images_best.pt", "lacks the names of its classes: give --dataset"),
        ("mtt --dataset digits", "convert it with experiments.import_set, which takes --mean, --std and --space"),
        ("idc/data.pt --dataset digits", "the factor it is packed with (1: not packed): give --factor"),
        ("kip/kip.npz --format kop --dataset digits", "unknown format 'kop': did you mean kip?"),
        ("kip/kip.npz --format idc --dataset digits", "kip.npz is damaged or not a file of torch.save"),
    ):
        path, *options = line.split()
        assert evaluate.main([str(tmp_path / path), *options]) == 2
        assert said in capsys.readouterr().err, line
    found, data = evaluate._read(evaluate.Evaluate(tmp_path / "idc" / "data.pt", "digits", factor=1))
    assert data is not None and found.card["class_names"] == list(data.class_names)


def test_photographs_get_the_side_of_a_set_of_another_codebase(tmp_path: Path, capsys) -> None:
    names = sorted(NAMES)
    for n, name in enumerate(4 * names):  # not square: without a side, they are cropped to 224 pixels
        (folder := tmp_path / "photos" / name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (10, 12), (n, 0, 0)).save(folder / f"{n}.png")
    made().with_card(class_names=names).save(tmp_path / "set.npz")
    assert export.main([str(tmp_path / "set.npz"), "idc", str(tmp_path / "idc")]) == 0
    # The epochs are refused after the data are read, so that nothing trains.
    line = [str(tmp_path / "idc"), "--dataset", f"folder:{tmp_path}/photos", "--nets", "convnet"]
    assert evaluate.main([*line, "--epochs", "0"]) == 2
    said = capsys.readouterr().err
    assert "cropped to 9x9" in said and "protocol.epochs is 0" in said


def test_damaged_sets_of_this_library_are_not_taken_for_those_of_another(tmp_path: Path, capsys) -> None:
    (tmp_path / "mine.npz").write_bytes(b"damaged")
    assert evaluate.main([str(tmp_path / "mine.npz"), "--dataset", "digits"]) == 2
    assert "mine.npz is damaged or not an npz file" in capsys.readouterr().err
