"""Tests the commands and the files that they write (docs/files.md)."""

import importlib.machinery
import json
import math
import re
import sys
import types
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax import distill as library
from distill_jax.axes.parameterisation import MultiFormation, Pixels
from distill_jax.cli import distill, evaluate, pretrain, report
from distill_jax.cli.output.image_grid import draw
from distill_jax.contracts import ClassObjective
from distill_jax.data import load
from distill_jax.distilled import DistilledSet
from distill_jax.types import Array, Model, Net, Normaliser, choice
from tests.tiny import NET, PLAIN, POOL, SHORT, TINY, outcome


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the workdir of a tiny run."""
    path = tmp_path_factory.mktemp("runs") / "finished"
    traced = library.run_block._cache_size()  # type: ignore[attr-defined]
    assert distill.main([*TINY, "--workdir", str(path)]) == 0
    assert library.run_block._cache_size() <= traced + 1, "one trace per spec"  # type: ignore[attr-defined]
    return path


def read(path: Path) -> dict:
    return json.loads(path.read_text())


@pytest.mark.parametrize("runner", [distill, evaluate, pretrain, report])
def test_every_runner_answers_help(runner, capsys) -> None:
    assert runner.main(["--help"]) == 0
    assert f"python -m experiments.{runner.__name__.rpartition('.')[2]}" in capsys.readouterr().out


def test_a_run_leaves_these_files_and_no_others(finished: Path) -> None:
    files = {"config.json", "metrics.jsonl", "result.json", "distilled.npz", "grid.png", "report.html"}
    files |= {"pool", "checkpoints"}
    assert {path.name for path in finished.iterdir()} == files


def test_the_result_has_the_fields_of_the_contract(finished: Path) -> None:
    result = read(finished / "result.json")
    assert list(result) == [
        "method", "dataset", "ipc", "factor", "net", "seed", "bytes", "accuracy", "baselines", "seconds", "steps",
        "peak_bytes", "environment", "config",
    ]  # fmt: skip
    told = {"method": "acc_dd", "dataset": "digits", "ipc": 1, "factor": 1, "net": "convnet", "seed": 0}
    assert {name: result[name] for name in told} == told
    assert result["steps"] == {"outer": 4, "inner": 3} and result["bytes"] == {"images": 2560, "labels": 40}
    for accuracy in (result["accuracy"], result["baselines"]["random"]):
        assert list(accuracy) == ["mean", "std", "per_repeat"] and len(accuracy["per_repeat"]) == 2
        assert accuracy["mean"] == pytest.approx(np.mean(accuracy["per_repeat"])) and 0 <= accuracy["mean"] <= 100
        assert accuracy["std"] == pytest.approx(np.std(accuracy["per_repeat"], ddof=1))
    assert result["baselines"]["full"] is None
    assert list(result["seconds"]) == ["pretrain", "compile", "distill", "evaluate", "baselines"]
    compiling = result["seconds"].pop("compile")
    # Zero if an earlier test in this process compiled the same program.
    assert compiling >= 0 and all(seconds > 0 for seconds in result["seconds"].values())
    assert result["peak_bytes"] > 2**27
    assert list(result["environment"]) == ["device", "device_count", "jax", "python", "commit"]
    assert result["config"] == read(finished / "config.json")


def test_the_configuration_is_enough_to_run_again(finished: Path) -> None:
    config = read(finished / "config.json")
    data = load("digits")
    assert config["data"] == {"fingerprint": data.fingerprint, "shape": [8, 8, 1], "classes": 10, "withheld": 0.1}
    assert config["spec"]["models"]["choice"] == "EarlyStagePool" and config["spec"]["models"]["size"] == 2
    # The values are resolved for the backend, not "automatic".
    assert config["spec"]["class_chunk"] == 1 and config["spec"]["model_chunk"] == 1
    assert config["spec"]["perturb"]["max"] == 0.09 and "hyper" not in config and config["protocol"]["epochs"] == 2
    assert set(config["versions"]) == {"distill_jax", "jax", "python", "devices", "xla_flags", "matmul_precision"}
    assert (config["repeats"], config["baselines"], config["save_every"]) == (2, ["random"], 1)


def test_metrics_have_one_line_per_outer_step(finished: Path) -> None:
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [(line["outer"], line["step"]) for line in lines] == [(1, 3), (2, 6), (3, 9), (4, 12)]
    assert [list(line) for line in lines] == 2 * [
        ["outer", "step", "loss", "seconds"],
        ["outer", "step", "loss", "held_out_accuracy", "seconds"],
    ]
    assert all(math.isfinite(line["loss"]) and line["loss"] > 0 for line in lines)
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds)


def test_the_card_of_the_set_has_its_origin_and_score(finished: Path) -> None:
    distilled = DistilledSet.load(finished / "distilled.npz")
    assert distilled.images.shape == (10, 8, 8, 1) and distilled.images.min() >= 0 and distilled.images.max() <= 1
    card, result = distilled.card, read(finished / "result.json")
    told = {"method": "acc_dd", "dataset": "digits", "recipe": "digits", "seed": 0, "ipc": 1, "steps": 12}
    assert {name: card[name] for name in told} == told
    assert card["score"] == result["accuracy"] and card["protocol"]["epochs"] == 2
    assert card["class_names"] == [str(digit) for digit in range(10)]
    assert not any("second" in name or "time" in name for name in card)


def test_evaluating_the_file_gives_the_score_of_the_run(finished: Path, tmp_path: Path, capsys) -> None:
    mean, std = (read(finished / "result.json")["accuracy"][name] for name in ("mean", "std"))
    before = {path.name for path in finished.iterdir()}
    out = ["--out", str(tmp_path / "evaluation.json")]
    assert evaluate.main([str(finished), "--dataset", "digits", "--repeats", "2", *out]) == 0
    assert f"{mean:.2f} ± {std:.2f}" in capsys.readouterr().out
    assert {path.name for path in finished.iterdir()} == before


def test_evaluate_finds_the_network_of_a_user(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    distilled = DistilledSet.load(finished)
    net = {**distilled.card["net"], "choice": "my_nets:Two"}
    distilled.with_card(net=net).save(tmp_path / "own.npz")
    line = [str(tmp_path / "own.npz"), "--repeats", "1", "--epochs", "1"]
    assert evaluate.main(line) == 2
    assert "was distilled with the network my_nets:Two, which is not here" in capsys.readouterr().err
    imports = "from distill_jax.nets import ConvNet\nfrom distill_jax.types import choice"
    (tmp_path / "my_nets.py").write_text(f"{imports}\n@choice\nclass Two(ConvNet): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert evaluate.main(line) == 0
    assert "my_nets:Two" in capsys.readouterr().out


def test_evaluate_uses_the_data_set_of_the_card_and_recognises_others(finished: Path, tmp_path: Path, capsys):
    argv = [str(finished), "--repeats", "1", "--epochs", "1", "--out", str(tmp_path / "evaluation.json")]
    assert evaluate.main(argv) == 0
    assert "warning" not in capsys.readouterr().err
    assert read(tmp_path / "evaluation.json")["evaluations"][0]["dataset"]["name"] == "digits"
    data = load("digits")
    arrays = {"x_train": data.x_train, "y_train": data.y_train, "x_test": data.x_test, "y_test": data.y_test}
    np.savez(tmp_path / "fewer.npz", **{name: array[:500] for name, array in arrays.items()})  # type: ignore[arg-type]
    assert evaluate.main([*argv, "--dataset", f"npz:{tmp_path / 'fewer.npz'}"]) == 0
    assert "was distilled from other images than npz:" in capsys.readouterr().err


def test_tensorboard_gets_the_lines_of_the_metrics(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    scalars: list[tuple] = []

    class SummaryWriter:
        def __init__(self, folder: str, purge_step: int) -> None:
            assert folder == str(tmp_path / "run" / "tensorboard") and purge_step == 1

        def add_scalar(self, *scalar: object) -> None:
            scalars.append(scalar)

        def flush(self) -> None: ...

    argv = [*TINY, "--workdir", str(tmp_path / "run"), "--tensorboard"]
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    assert distill.main(argv) == 2
    assert "pip install tensorboardX" in capsys.readouterr().err and not (tmp_path / "run").exists()
    module = types.ModuleType("tensorboardX")
    module.__dict__.update(SummaryWriter=SummaryWriter, __spec__=importlib.machinery.ModuleSpec("tensorboardX", None))
    monkeypatch.setitem(sys.modules, "tensorboardX", module)
    assert distill.main(argv) == 0
    assert re.search(r"distilling: 12/12 steps.*held-out \d+\.\d %", capsys.readouterr().err)
    assert outcome(tmp_path / "run") == outcome(finished)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    names = ("loss", "held_out_accuracy", "seconds")
    assert scalars == [(name, line[name], line["step"]) for line in lines for name in names if name in line]


def test_a_finished_run_is_printed_and_not_repeated(finished: Path, capsys) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    assert distill.main([*TINY, "--workdir", str(finished), "--resume"]) == 0
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before
    shown = capsys.readouterr()
    assert "distilled" in shown.out and "random" in shown.out and str(finished / "grid.png") in shown.out
    assert shown.err == ""


def test_overwriting_starts_again(finished: Path, tmp_path: Path) -> None:
    argv = [*TINY, "--workdir", str(tmp_path), "--overwrite"]
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "config.json").write_text('{"schema": 1}')
    (tmp_path / "metrics.jsonl").write_text("something old\n")
    assert distill.main(argv) == 0
    assert outcome(tmp_path) == outcome(finished)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_pool_can_be_pretrained_separately(finished: Path, tmp_path: Path, capsys) -> None:
    pool = tmp_path / "pool"
    assert pretrain.main(["acc_dd", "digits", *NET, *POOL, "--eval-every", "2", "--workdir", str(pool)]) == 0
    assert str(pool / "pool") in capsys.readouterr().out
    assert [path.name for path in pool.iterdir()] == ["pool"]
    assert distill.main([*TINY, "--workdir", str(tmp_path / "given"), "--pool", str(pool)]) == 0
    # With the same seed the pool is the one that the run would train, so the images are the same.
    assert outcome(tmp_path / "given") == outcome(finished)
    # The run has a copy, so it resumes without the pool, here to another end.
    assert distill.main([*TINY, "--workdir", str(tmp_path / "given"), "--pool", "moved", "--resume"]) == 2
    assert distill.main([*TINY, "--repeats", "1", "--workdir", str(tmp_path / "given"), "--resume"]) == 0
    assert read(tmp_path / "given" / "config.json")["pool"] == str(pool)
    pretraining = ["acc_dd", "digits", *NET, *POOL, "--eval-every", "2", "--workdir", str(pool), "--resume"]
    assert pretrain.main([*pretraining, "--resident-images", "80"]) == 2
    assert "the finished pool has resident_images 0, not 80" in capsys.readouterr().err
    assert distill.main([*TINY, "--workdir", str(pool)]) == 0
    assert outcome(pool) == outcome(finished)
    assert read(pool / "result.json")["seconds"]["pretrain"] < read(finished / "result.json")["seconds"]["pretrain"]


def test_intermediate_scores_use_only_withheld_training_data(finished: Path) -> None:
    config, data = read(finished / "config.json"), load("digits")
    assert config["eval_every"] == 2 and config["data"]["withheld"] == 0.1
    # The set is normalised by the part of the training data that it was distilled from.
    mean = DistilledSet.load(finished / "distilled.npz").mean
    np.testing.assert_array_equal(mean, data.withhold(0.1, 0).mean)
    assert not np.array_equal(mean, data.mean)


def test_another_method_with_a_factor_and_without_a_pool(tmp_path: Path, capsys) -> None:
    argv = ["idc", "digits", *NET, *SHORT, *PLAIN, "--factor", "2", "--ipc", "2", "--seed", "3", "--baselines", "full"]
    assert distill.main([*argv, "--outer-steps", "1", "--workdir", str(tmp_path)]) == 0
    shown = capsys.readouterr()
    assert "RandomInit" in shown.out and "full" in shown.out and "random  " not in shown.out
    assert "distilling: 3/3 steps" in shown.err
    assert not (tmp_path / "pool").exists()
    distilled = DistilledSet.load(tmp_path / "distilled.npz")
    assert distilled.card["packed"] and distilled.card["factor"] == 2
    assert distilled.decoded()[0].shape == (10 * 2 * 4, 8, 8, 1)


def test_without_a_workdir_there_is_a_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert pretrain.main(["acc_dd", "digits", *NET, *POOL, "--eval-every", "2"]) == 0
    names = {path.name for path in (tmp_path / "runs").iterdir()}
    assert names == {"pool-acc_dd-digits-ipc1-seed0", "pool-acc_dd-digits-ipc1-seed0-2"}


@pytest.mark.parametrize(
    "classes, ipc, side, channels, parameterisation",
    [
        (10, 1, 8, 1, Pixels()),
        (10, 10, 8, 3, Pixels("normalised")),
        (100, 1, 32, 3, Pixels()),
        (10, 1, 32, 3, MultiFormation(2)),
        (10, 12, 32, 3, MultiFormation(3, "multi")),
        pytest.param(10, 2, 224, 3, MultiFormation(3), marks=pytest.mark.slow),
        (200, 4, 64, 2, Pixels()),
        (100, 10, 96, 1, Pixels()),
    ],
)
def test_the_picture_shows_every_class_and_keeps_its_size(classes, ipc, side, channels, parameterisation) -> None:
    images = np.linspace(0, 1, classes * ipc * side * side * channels, dtype=np.float32)
    images = images.reshape(classes, ipc, side, side, channels)
    names = tuple(f"a rather long name {c}" for c in range(classes))
    half = np.full(channels, 0.5, np.float32)
    normaliser = Normaliser(half, half)  # type: ignore[arg-type]
    distilled = DistilledSet.of(parameterisation, images, names, normaliser, {"method": "idc"})  # type: ignore
    page = draw(distilled)
    assert page.mode == "RGB" and page.width <= 2000 and page.width * page.height < 20e6
    assert page.getpixel((0, 0)) == (255, 255, 255) and len(set(page.resize((50, 50)).get_flattened_data())) > 10


@choice
class Still(ClassObjective):
    """An objective whose gradient is zero."""

    def class_loss(self, net: Net, model: Model, real: Array, syn: Array, c: Array, key: Array) -> Array:
        return 0 * jnp.sum(syn)


def test_images_that_stand_still_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["dm", "digits", *NET, "--objective", f"{__name__}:Still", "--augment", "none", "--outer-steps", "1"]
    line += ["--inner-steps", "1", "--repeats", "1", "--protocol.epochs", "1", "--protocol.augment", "none"]
    assert distill.main([*line, "--baselines", "--workdir", str(tmp_path)]) == 0
    assert "the images did not change in 1 steps: their gradient is zero" in capsys.readouterr().err
