"""Tests the ablation runner: its single program, its files, and the requests it rejects."""

import csv
import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import matplotlib
import numpy as np
import pytest

from distill_jax import distill, sweep, train_many
from distill_jax.cli import ablate
from distill_jax.cli.ablation import measure
from distill_jax.cli.ablation.picture import draw
from distill_jax.cli.output.plot import deviations
from distill_jax.cli.session.workdir import Workdir
from distill_jax.run import Keys
from tests.tiny import count_calls

SMALL = """
    acc_dd digits --seeds 2 --repeats 1 --outer-steps 1 --inner-steps 2 --net.width 4 --net.depth 1 --protocol.epochs 1
    --augment none --protocol.augment.strategy= --update.augment.strategy=
    --selector.batch 4 --update.images 8 --update.batch 8 --models.size 1 --models.epochs 0
"""
DM = """
    dm digits --seeds 2 --repeats 1 --outer-steps 1 --inner-steps 2 --net.width 4 --net.depth 1 --protocol.epochs 1
    --augment none --protocol.augment none --selector.batch 4
"""
"""Its programs compile faster than those of Acc-DD, which test_sweep.py counts."""


def test_one_program_for_all_points(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    traces: Counter[str] = Counter()
    count_calls(monkeypatch, traces, "distilling", distill, "inner_step")
    count_calls(monkeypatch, traces, "scoring", train_many, "train_flat")
    workdir = tmp_path / "run"
    swept = "--held-out --perturb directions --perturb.max 0 0.09 0.3 --optimiser.lr 1e-4"
    argv = [*DM.split(), *swept.split(), "--workdir", str(workdir)]
    assert ablate.main(argv) == 0
    assert traces == {"distilling": 1, "scoring": 1}
    with (workdir / "ablation.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [(line["perturb.max"], line["seed"]) for line in lines] == [
        (v, s) for v in ("0", "0.09", "0.3") for s in "01"
    ]
    assert all(0 <= float(line["accuracy"]) <= 100 and float(line["loss"]) > 0 for line in lines)
    assert (workdir / "ablation.png").read_bytes().startswith(b"\x89PNG")
    config = json.loads((workdir / "config.json").read_text())
    assert config["swept"] == {"perturb.max": [0, 0.09, 0.3]} and config["spec"]["optimiser"]["lr"] == 1e-4
    assert config["data"]["withheld"] == 0.1
    assert "perturb.max: 0 0.09 0.3 (one compiled program)" in capsys.readouterr().out
    assert ablate.main(argv) == 2
    assert "--overwrite" in capsys.readouterr().err
    before = (workdir / "ablation.csv").read_text()
    (workdir / "points/0/rows.json").write_text("[]")
    assert ablate.main([*argv, "--overwrite"]) == 0
    assert (workdir / "ablation.csv").read_text() == before, "an ablation that is overwritten begins anew"


def test_each_run_has_its_own_networks_and_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sets of a point follow one another, seed by seed, and each is scored by several networks."""
    states = SimpleNamespace(synthetic=SimpleNamespace(images=np.zeros((4, 1, 1, 1, 1, 1))), loss=np.arange(4) / 4)
    roots: list[Any] = []
    monkeypatch.setattr(measure, "pool_for", lambda *_: None)
    monkeypatch.setattr(measure, "_distil", lambda *_: states)
    monkeypatch.setattr(sweep, "specs_of", lambda *_: [])
    monkeypatch.setattr(sweep, "stacked", lambda problem, specs, of: roots.extend(of))
    monkeypatch.setattr(sweep, "training_sets", lambda *_: None)
    scorer = SimpleNamespace(score=lambda what, sets: {"per_repeat": [10.0, 12.0, 20.0, 22.0, 30.0, 32.0, 40.0, 42.0]})
    setup: Any = SimpleNamespace(
        real_data=lambda: SimpleNamespace(normaliser=None), problem=lambda *_: None, scorer=lambda *_: scorer, spec=None
    )
    interrupts: Any = None
    runs, workdir = measure.Runs(range(3, 5), 2), Workdir(tmp_path)
    rows = measure.measure(setup, runs, {"ipc": 1}, {"lr": [0.1, 0.5]}, workdir, None, interrupts)
    assert [(row.point, row.seed, row.accuracy, row.loss) for row in rows] == [
        ({"ipc": 1, "lr": 0.1}, 3, 11.0, 0.0),
        ({"ipc": 1, "lr": 0.1}, 4, 21.0, 0.25),
        ({"ipc": 1, "lr": 0.5}, 3, 31.0, 0.5),
        ({"ipc": 1, "lr": 0.5}, 4, 41.0, 0.75),
    ]
    for root, seed in zip(roots, (3, 4), strict=True):
        np.testing.assert_array_equal(jax.random.key_data(root), jax.random.key_data(Keys.of(seed).run))


def test_a_line_of_the_table_is_of_the_seeds_of_its_point() -> None:
    swept: dict[str, Any] = {"net.norm": ["none", "batch"], "lr": [0.5, 0.1]}
    rows = [
        measure.Row({"net.norm": norm, "lr": lr}, seed, accuracy + 2 * seed, 10 * lr + seed)
        for norm, lr, accuracy in (("batch", 0.1, 40.0), ("batch", 0.5, 30.0), ("none", 0.1, 20.0), ("none", 0.5, 10.0))
        for seed in (1, 0)
    ]
    options: Any = SimpleNamespace(scoring_split="test", seeds=2)
    lines = [line.split() for line in ablate._table(options, swept, rows)]
    assert [line[:7] for line in lines if line[0] in ("none", "batch")] == [
        ["none", "0.5", "11.00", "±", "1.41", "2", "5.5"],
        ["none", "0.1", "21.00", "±", "1.41", "2", "1.5"],
        ["batch", "0.5", "31.00", "±", "1.41", "2", "5.5"],
        ["batch", "0.1", "41.00", "±", "1.41", "2", "1.5"],
    ]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("acc_dd digits --perturb.max 0.1", "0 settings are swept"),
        ("acc_dd digits --perturb.mx 0 0.1", "did you mean perturb.max"),
        ("acc_dd digits --optimiser.lr 1 2 --update.optimiser.lr 1 2 --perturb.max 0 1", "3 settings are swept"),
        ("idc digits --perturb.max 0 0.1", "add --perturb directions"),
        ("acc_dd digits --optimiser.lr 1 1", "repeated value"),
        ("acc_dd digits --optimiser.lr 1 fast", "optimiser.lr is fast: give numbers"),
        ("acc_dd digits --objective.head true 3", "takes the values true false"),
        ("acc_dd digits --init random mux", "did you mean mix"),
        ("acc_dd digits --perturb directions none --perturb.max 0 1", "perturb.max is unknown"),
        ("acc_dd digits --seeds 3 5", "--seeds takes one value"),
        ("acc_dd digits --protocol idc dsa", "protocol belongs to the evaluation, which is not swept"),
        ("acc_dd digits --protocol.epochs 1 2", "protocol.epochs belongs to the evaluation, which is not swept"),
        ("acc_dd digits --net.width 4 8 --pool somewhere", "leave out --pool"),
        ("acc_dd digits --optimiser.lr 1 2 --seeds 0", "seeds is 0"),
        ("acc_dd digits --optimiser.lr 1 nan", "optimiser.lr is nan"),
        ("acc_dd digits --perturb.max 0 -1", "perturb.max is -1"),
        ("random digits --optimiser.lr 1 2", "takes no steps"),
        ("dm digits --optimiser.lr 1 2 --pool somewhere", "uses no pool"),
        ("acc_dd digits --optimiser.lr 1 2 --resume --overwrite", "give one of them"),
    ],
)
def test_wrong_requests(argv: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    workdir = tmp_path / "run"
    assert ablate.main([*argv.split(), "--workdir", str(workdir)]) == 2
    assert message in capsys.readouterr().err
    assert not workdir.exists()


PLUG_IN = """
from distill_jax.axes.objective import class_gradient
from distill_jax.contracts import ClassObjective
from distill_jax.types import choice
import jax


@choice
class Mine(ClassObjective):
    spread: float = 1.0

    def class_loss(self, net, model, real, syn, c, key):
        gradients = (class_gradient(net, model, x, c) for x in (real, syn))
        pairs = zip(*map(jax.tree.leaves, gradients), strict=True)
        return self.spread * sum(((a - b) ** 2).sum() for a, b in pairs)
"""


def test_a_number_of_a_plug_in_is_swept_in_one_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    (tmp_path / "my_module.py").write_text(PLUG_IN)
    monkeypatch.syspath_prepend(tmp_path)
    before = sweep.run_block._cache_size()  # type: ignore[attr-defined]
    swept = "--objective my_module:Mine --objective.spread 0.1 0.5 2 --perturb directions --perturb.max 0 0.09"
    line = [*DM.split(), *swept.split(), "--workdir", str(tmp_path / "run")]
    assert ablate.main(line) == 0
    assert sweep.run_block._cache_size() == before + 1  # type: ignore[attr-defined]
    with (tmp_path / "run" / "ablation.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 3 * 2 * 2 and len({line["loss"] for line in lines}) == len(lines)
    assert (tmp_path / "run" / "ablation.png").exists()
    (tmp_path / "my_module.py").write_text(f"{PLUG_IN}# changed\n")
    assert ablate.main([*line, "--resume"]) == 0
    assert "this run was started with my_module 'sha256 " in capsys.readouterr().err
    assert ablate.main([*line, "--resume", "--protocol.epochs", "2"]) == 2
    assert "runs.protocol.epochs was 1, now it is 2" in capsys.readouterr().err


def test_settings_that_change_the_program_run_one_after_the_other(tmp_path: Path, capsys):
    swept = "--models.epochs 0 1 --perturb.max 0 0.09"
    assert ablate.main([*SMALL.split(), *swept.split(), "--workdir", str(tmp_path / "run")]) == 0
    message = capsys.readouterr().out
    assert (
        "models.epochs: 0 1 (one after the other)" in message
        and "perturb.max: 0 0.09 (one compiled program)" in message
    )
    with (tmp_path / "run" / "ablation.csv").open() as file:
        lines = [(row["models.epochs"], row["perturb.max"], row["seed"]) for row in csv.DictReader(file)]
    assert lines == [(e, p, s) for e in "01" for p in ("0", "0.09") for s in "01"]


def test_names_and_flags_run_one_after_the_other(tmp_path: Path, capsys):
    swept = "--init random noise --selector.cycle true false"
    assert ablate.main([*DM.split(), *swept.split(), "--workdir", str(tmp_path / "run")]) == 0
    assert "selector.cycle: true false (one after the other)" in capsys.readouterr().out
    other = "--selector.cycle true false --init random noise"
    assert ablate.main([*DM.split(), *other.split(), "--workdir", str(tmp_path / "run"), "--resume"]) == 2
    assert 'order was ["init", "selector.cycle"], now it is ["selector.cycle", "init"]' in capsys.readouterr().err
    with (tmp_path / "run" / "ablation.csv").open() as file:
        lines = [(row["init"], row["selector.cycle"], row["loss"]) for row in csv.DictReader(file)]
    assert [line[:2] for line in lines[::2]] == [(i, c) for i in ("random", "noise") for c in ("true", "false")]
    assert len({loss for *_, loss in lines}) == 8


def test_the_configuration_has_the_settings_of_every_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """Random networks, which come first, have no size. Without a record of the others, their figures would be mixed."""

    def measured(setup: Any, runs: measure.Runs, group: Any, *_: object) -> list[measure.Row]:
        return [measure.Row(group, seed, 50.0 + seed, 1.0) for seed in runs.seeds]

    monkeypatch.setattr(ablate, "measure", measured)
    line = [*SMALL.replace("--models.size 1", "").split(), "--models", "random", "early-stage", "--perturb", "none"]
    line += ["--workdir", str(tmp_path / "run"), "--models.size"]
    assert ablate.main([*line, "3"]) == 0
    assert ablate.main([*line, "3", "--resume"]) == 0
    assert ablate.main([*line, "5", "--resume"]) == 2
    assert "runs.specs.1.models.size was 3, now it is 5" in capsys.readouterr().err


def test_all_points_take_their_networks_from_one_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """Sizes run one after the other, so an interrupted sweep may have used --pool for the first of them."""

    def measured(setup: Any, runs: measure.Runs, group: Any, *_: object) -> list[measure.Row]:
        return [measure.Row(group, seed, 50.0, 1.0) for seed in runs.seeds]

    monkeypatch.setattr(ablate, "measure", measured)
    monkeypatch.setattr(ablate, "given_pool", lambda setup, path: path)
    line = [*SMALL.split(), "--ipc", "1", "2", "--workdir", str(tmp_path / "run")]
    assert ablate.main([*line, "--pool", "mine"]) == 0
    for same in ([], ["--pool", "mine"]):
        assert ablate.main([*line, *same, "--resume"]) == 0
    assert ablate.main([*line, "--pool", "another", "--resume"]) == 2
    assert 'runs.pool was "mine", now it is ' in capsys.readouterr().err


def test_options_that_take_several_numbers_are_not_swept(tmp_path: Path, capsys):
    """--mean takes a number per channel, halve_at any number. Both are found out from the fields, also of plug-ins."""
    line = "dm digits --ipc 1 --optimiser.halve-at 0.5 0.75 --optimiser.lr 0.1 0.2 --mean 0.3 0.3 0.3 --std 0.2 0.2 0.2"
    assert ablate.main([*line.split(), "--workdir", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err == "error: mean has 3 numbers, images have 1 channels: give --mean as many\n"


def test_error_bars_are_sample_deviations_over_the_seeds() -> None:
    np.testing.assert_allclose(deviations(np.asarray([[1.0, 3.0], [2.0, 2.0]])), [2**0.5, 0.0])
    np.testing.assert_array_equal(deviations(np.asarray([[1.0], [2.0]])), [0.0, 0.0])


@pytest.mark.parametrize(
    "swept",
    [
        {"perturb_max": [0.27, 0, 0.03, 0.09]},
        {"syn_lr": [1e-4, 1e-3, 1e-2, 1e-1]},
        {"model_momentum": [0.5, 0.9]},
        {"perturb.max": [0, 0.1], "syn_lr": [1e-4, 1e-3]},
    ],
    ids=["zero on a log axis", "log", "linear", "map"],
)
@pytest.mark.parametrize("seeds", [1, 3])
def test_pictures(swept: dict[str, list[float]], seeds: int):
    points = int(np.prod([len(values) for values in swept.values()]))
    with matplotlib.rc_context({"figure.dpi": 40}):
        figure = draw("title", "accuracy", swept, np.linspace(50, 60, points * seeds).reshape(points, seeds))
        figure.draw_without_rendering()
        axes = figure.axes[0]
        labels = [tick.get_text() for tick in axes.get_xticklabels()]
        assert labels == [f"{value:g}" for value in sorted(list(swept.values())[-1])]
