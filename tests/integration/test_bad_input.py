"""Tests wrong requests: exit code 2, one clear message on standard error, no traceback, and no files."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from distill_jax.cli import distill, evaluate, pretrain
from distill_jax.cli.session.workdir import open_workdir
from distill_jax.distilled import DistilledSet
from tests.tiny import NET, POOL, TINY


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty working directory, in which a new ``runs/`` would also appear."""
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def refused(capsys: pytest.CaptureFixture[str], main: Callable, argv: list[str], *messages: str) -> None:
    assert main(argv) == 2
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    for words in messages:
        assert words in shown
    if shown.startswith("error: "):
        assert shown.count("\n") == 1, "one line"
    else:
        assert "For full helptext" in shown, "or the parser's own box"


def files(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize("runner", [distill, pretrain])
@pytest.mark.parametrize(
    "line, message",
    [
        ("acc_dc digits", "acc_dd"),
        ("acc_dd digit", "digits"),
        ("acc_dd digits --ipcc 1", "--ipc"),
        ("acc_dd digits --ipc 0", "ipc is 0"),
        ("acc_dd digits --ipc -1", "ipc is -1"),
        ("acc_dd digits --ipc 200", "class 8 has fewer images (131): use --ipc 131 or less"),
        ("acc_dd digits --resume", "--resume needs the --workdir"),
        ("acc_dd npz:no/such.npz --resume", "--resume needs the --workdir"),
        ("acc_dd digits --factor 3", "cells under 4 pixels"),
        ("acc_dd digits --factor 0", "factor is 0"),
        ("acc_dd digits --net.depth 5", "depth"),
        ("acc_dd digits --net.width 0", "width"),
        ("acc_dd digits --outer-steps -1", "outer_steps is -1"),
        ("acc_dd digits --models.size 0", "models.size is 0"),
        ("acc_dd digits --update.cutmix 2", "error: update.cutmix is 2"),
        ("acc_dd digits --init.order last", "error: init.order is 'last'"),
        (
            "acc_dd digits --update.augment siamese --update.augment.strategy wobble",
            "error: update.augment.strategy names",
        ),
        ("idc digits --parameterisation.decode-type all", "error: parameterisation.decode_type is 'all'"),
        ("dream digits --selector.batch 200", "--selector.batch 131 or less"),
        ("dream digits --ipc 200", "or less"),
        ("acc_dd digits --ipc 40 --factor 2 --init kmeans", "--init mix"),
        ("dm digits --objective.last 5", "--net"),
        ("acc_dd digits --net mlp", "--objective.head"),
        ("mtt digits --models random", "--models trajectories"),
        ("acc_dd digits --optimiser.lr nan", "optimiser.lr is nan"),
        ("acc_dd digits --optimiser.lr inf", "optimiser.lr is inf"),
        ("acc_dd digits --optimiser.lr -1", "optimiser.lr is -1"),
        ("acc_dd digits --optimiser.momentum 2", "error: optimiser.momentum is 2"),
        ("acc_dd digits --update.optimiser.lr 0", "update.optimiser.lr is 0"),
        ("acc_dd digits --models.optimiser.weight-decay -3", "models.optimiser.weight_decay is -3"),
        ("acc_dd digits --perturb.max -0.1", "perturb.max is -0.1"),
        ("acc_dd digits --protocol.rate nan", "protocol.rate is nan"),
        ("acc_dd digits --protocol.momentum 5", "protocol.momentum is 5"),
        ("acc_dd digits --update.images 0", "--update none"),
        ("acc_dd digits --net.dtype float64", "needs jax's 64-bit mode"),
        ("acc_dd digits --augment.strategy wobble", "choose from color"),
        ("acc_dd digits --syn-batch -1", "0 (all)"),
        ("acc_dd digits --update.images 999999999999", "update.images is 999999999999"),
        ("acc_dd digits --net.width 999999999", "net.width is 999999999"),
        ("acc_dd digits --net.depth 99999999 --net.pooling none", "error: net.depth is 99999999"),
        ("acc_dd digits --seed -1", "seed is -1"),
        ("acc_dd digits --seed 99999999999999999999", "seed is 99999999999999999999"),
        ("acc_dd digits --objective :", "MODULE:CLASS"),
        ("acc_dd npz:nowhere.npz", "nowhere.npz"),
        ("acc_dd npz:", "npz:PATH"),
        ("acc_dd folder:nowhere", "nowhere"),
        ("acc_dd folder:" + "x" * 300, "File name too long"),
    ],
)
def test_a_request_that_makes_no_sense(runner, line: str, message: str, empty: Path, capsys) -> None:
    refused(capsys, runner.main, line.split(), message)
    assert files(empty) == {}


@pytest.mark.parametrize(
    "options, message",
    [
        ("--resume", "--workdir"),
        ("--workdir=", "--workdir is empty"),
        ("--workdir w --resume --overwrite", "one of them"),
        ("--repeats 0", "repeats is 0"),
        ("--save-every -1", "save_every is -1"),
        ("--eval-every -2", "eval_every is -2"),
        ("--baselines randon", "did you mean random?"),
        ("--classes 0 1 --baselines random_soft", "leave out either --classes or random_soft"),
        ("--classes 5:3", "--classes 5:3 names no class"),
        ("--classes --repeats 1", "--classes has no value: give at least one, or leave the option out"),
        ("--pool nowhere", "nowhere"),
        ("--pool " + "x" * 300, "File name too long"),
        ("--resume --workdir " + "x" * 300, "give another path"),
    ],
)
def test_options_of_distill_that_make_no_sense(options: str, message: str, empty: Path, capsys) -> None:
    refused(capsys, distill.main, [*TINY, *options.split()], message)
    assert files(empty) == {}


def test_a_pool_for_a_method_without(empty: Path, capsys) -> None:
    refused(capsys, distill.main, ["idc", "digits", "--pool", "."], "uses no pool")
    refused(capsys, pretrain.main, ["idc", "digits"], "no pool")
    assert files(empty) == {}


X, Y = np.zeros((6, 8, 8), np.uint8), np.arange(6) % 3


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"x_train": X / 255}, "uint8"),
        ({"x_train": X[0]}, "x_train"),
        ({"x_test": X[:, :4]}, "x_test"),
        ({"y_train": Y[:5]}, "labels"),
        ({"y_train": Y + 1}, "0..C-1"),
        ({"y_train": Y - 1}, "from 0"),
        ({"y_train": np.where(Y == 1, 2, Y)}, "class 1"),
        ({"y_train": Y * 0.5}, "integer"),
        ({"y_test": Y + 1}, "y_test"),
        ({"x_test": None}, "x_test"),
    ],
)
def test_arrays_that_make_no_sense(changes: dict, message: str, empty: Path, capsys) -> None:
    arrays = {"x_train": X, "y_train": Y, "x_test": X, "y_test": Y} | changes
    path = empty.parent / "data.npz"
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    refused(capsys, distill.main, ["acc_dd", f"npz:{path}", "--ipc", "1"], "data.npz", message)
    assert files(empty) == {}


def test_a_file_that_is_no_data_set(empty: Path, capsys) -> None:
    path = empty.parent / "data.npz"
    path.write_bytes(b"PK\x03\x04 but no more")
    refused(capsys, distill.main, ["acc_dd", f"npz:{path}"], str(path))
    (empty.parent / "folder" / "train").mkdir(parents=True)
    refused(capsys, distill.main, ["acc_dd", f"folder:{empty.parent / 'folder'}"], str(empty.parent / "folder"))
    assert files(empty) == {}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "finished"
    assert distill.main([*TINY, "--workdir", str(path)]) == 0
    return path


@pytest.mark.parametrize(
    "options, field",
    [
        (["--net.width", "8"], "net.width is 4, not 8"),
        (["--models.optimiser.lr", "0.02"], "models.optimiser.lr is 0.01, not 0.02"),
        (["--models.size", "3"], "models.size is 2, not 3"),
        (["--seed", "1"], "data is"),  # another seed withholds other images
    ],
)
def test_a_pool_of_another_network_or_other_data(options, field, finished: Path, empty: Path, capsys) -> None:
    refused(capsys, distill.main, [*TINY, *options, "--pool", str(finished), "--workdir", "new"], field)
    assert files(empty) == {}


def test_a_workdir_that_holds_a_run(finished: Path, capsys) -> None:
    before = files(finished)
    refused(capsys, distill.main, [*TINY, "--workdir", str(finished)], "--resume", "--overwrite", str(finished))
    pretraining = ["acc_dd", "digits", *NET, *POOL, "--workdir", str(finished), "--overwrite"]
    refused(capsys, pretrain.main, pretraining, "--workdir")
    assert files(finished) == before


@pytest.mark.parametrize(
    "options, field",
    [
        (["--ipc", "2"], "spec.ipc was 1, now it is 2"),
        (["--optimiser.lr", "0.5"], "spec.optimiser.lr"),
        (["--objective.metric", "l1"], "spec.objective.metric"),
        (["--class-chunk", "5"], "spec.class_chunk"),
        (["--inner-steps", "2"], "spec.inner_steps"),
        (["--eval-every", "0"], "data.withheld"),
        (["--outer-steps", "3"], "--outer-steps 4"),
        (["--recipe", "generic"], "recipe"),
    ],
)
def test_resuming_with_another_configuration(options, field, finished: Path, capsys) -> None:
    before = files(finished)
    refused(capsys, distill.main, [*TINY, *options, "--workdir", str(finished), "--resume"], field)
    assert files(finished) == before


def test_resuming_with_other_data(finished: Path, tmp_path: Path, capsys) -> None:
    workdir = tmp_path / "copy"
    shutil.copytree(finished, workdir)
    config = json.loads((workdir / "config.json").read_text())
    config["data"]["fingerprint"] = "0" * 16
    (workdir / "config.json").write_text(json.dumps(config))
    before = files(workdir)
    refused(capsys, distill.main, [*TINY, "--workdir", str(workdir), "--resume"], "data.fingerprint")
    assert files(workdir) == before


def test_a_workdir_in_use(empty: Path, capsys) -> None:
    with open_workdir(empty / "used"):
        refused(capsys, distill.main, [*TINY, "--workdir", "used"], "another process")
        refused(capsys, pretrain.main, ["acc_dd", "digits", "--workdir", "used"], "another process")
    assert set(files(empty)) == {empty / "used"}


@pytest.mark.parametrize("workdir", ["file", "file/below", "/proc/self/below"])
def test_a_workdir_that_cannot_be_written_to(workdir: str, empty: Path, capsys) -> None:
    (empty / "file").write_text("mine")
    refused(capsys, distill.main, [*TINY, "--workdir", workdir], "--workdir", workdir)
    assert files(empty) == {empty / "file": b"mine"}


@pytest.mark.parametrize(
    "options, message",
    [
        (["--dataset", "zca:digits"], "leave out zca:"),
        (["--dataset", "digits", "--out", "{tmp}"], "is a folder"),
        (["--dataset", "digits", "--out", "{tmp}/foreign.json"], "give another --out"),
        (["--dataset", "digitz"], "digits"),
        (["--dataset", "digits", "--nets", "convnett"], "did you mean convnet?"),
        (["--dataset", "digits", "--nets", "convnet", "nowhere:Net"], "--nets nowhere:Net cannot be imported"),
        (["--dataset", "digits", "--nets"], "--nets has no value"),
        (["--dataset", "digits", "--nets", "mlp", "convnet", "mlp"], "names a network twice"),
        (["--dataset", "digits", "--protocol", "idd"], "did you mean idc?"),
        (["--dataset", "digits", "--protocol", "dsa", "--full-epochs", "5"], "only --protocol dd-ranking"),
        (["--dataset", "digits", "--protocol", "dd-ranking", "--full-epochs", "0"], "full_epochs is 0"),
        (["--dataset", "digits", "--out", "{tmp}/no/folder.json"], "give another --out"),
        (["--dataset", "digits", "--repeats", "0"], "repeats is 0"),
        (["--dataset", "digits", "--epochs", "0"], "epochs is 0"),
        (["--dataset", "digits", "--factor", "3"], "cells under 4 pixels"),
        (["--dataset", "npz:{tmp}/other.npz"], "8x8x3"),
        (["--dataset", "npz:{tmp}/named.npz"], "other classes"),
        (["--factor", "0"], "factor is 0"),
        (["--seed", "-1"], "seed is -1"),
        (["--devices", "-1"], "devices is -1"),
    ],
)
def test_evaluating_with_options_that_make_no_sense(options, message, finished: Path, tmp_path: Path, capsys) -> None:
    labels = {"y_train": np.arange(10), "y_test": np.arange(10)}
    for name, shape in (("other", (10, 8, 8, 3)), ("named", (10, 8, 8, 1))):
        images = np.zeros(shape, np.uint8)
        class_names = np.array([f"{name} {c}" for c in range(10)])
        arrays = {"x_train": images, "x_test": images, "class_names": class_names, **labels}
        np.savez(tmp_path / f"{name}.npz", **arrays)  # type: ignore[arg-type]
    (tmp_path / "foreign.json").write_text("[1]")
    argv = [str(finished), *(word.format(tmp=tmp_path) for word in options)]
    refused(capsys, evaluate.main, argv, message)


def test_evaluating_a_set_whose_card_names_no_data(finished: Path, tmp_path: Path, capsys) -> None:
    distilled = DistilledSet.load(finished / "distilled.npz")
    distilled.with_card(dataset=None).save(tmp_path / "set.npz")
    refused(capsys, evaluate.main, [str(tmp_path / "set.npz")], "give --dataset")
    edited = {**distilled.card["protocol"], "momentum": "x"}
    distilled.with_card(protocol=edited).save(tmp_path / "set.npz")
    refused(capsys, evaluate.main, [str(tmp_path / "set.npz")], "wrong type")


def test_evaluating_a_file_that_is_not_a_distilled_set(tmp_path: Path, capsys) -> None:
    refused(capsys, evaluate.main, [str(tmp_path), "--dataset", "digits"], "no distilled set")
    (tmp_path / "text.npz").write_text("hello")
    refused(capsys, evaluate.main, [str(tmp_path / "text.npz"), "--dataset", "digits"], "text.npz")
