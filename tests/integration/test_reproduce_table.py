"""Tests ``experiments.reproduce TABLE``: killed and resumed cells, cells without data, and the content of the page."""

import csv
import shlex
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from distill_jax import run as loop
from distill_jax.cli import distill, reproduce
from distill_jax.cli.process.run_command import Broken
from distill_jax.cli.session.atomic import read_json
from distill_jax.cli.session.score import Scorer
from distill_jax.cli.session.workdir import CELLS, REPRODUCED, REPRODUCED_PAGE, RESULT
from distill_jax.cli.tables import compare, table
from distill_jax.cli.tables.curve import Point
from distill_jax.cli.tables.page import Gain, Outcome, figures, page, reached
from distill_jax.cli.tables.plan import Reproduce, planned
from distill_jax.distill import run_block
from distill_jax.published.tables import Acceleration, Cell, Table
from tests.kills import Killed, dies
from tests.tiny import NET, PLAIN, POOL

SHORT = [*NET, "--inner-steps", "3", "--update.images", "64", "--protocol.epochs", "2"]
OWN = f"""
title = "Digits, reduced"
note = "A table of the user's own."

[notes]
acc_dd = "a note"

[[data]]
name = "digits"
options = "{shlex.join([*SHORT, *PLAIN])}"
rows = [
    {{ method = "acc_dd --outer-steps 2 {" ".join(POOL)}", published = {{ 1 = 8.0 }} }},
]

[[data]]
name = "absent"
rows = [{{ method = "idc", published = {{ 1 = 50.6 }} }}]

[[data]]
name = "digits"
rows = [{{ method = "random {" ".join(NET)} --protocol.epochs 2", ipc = [1] }}]

[[acceleration]]
data = "digits"
slow = "idc"
fast = "acc_dd {" ".join(POOL)}"
target = 1.0
steps = 6
points = 2
repeats = 1
options = "{shlex.join([*SHORT, *PLAIN])}"
"""
"""a cell of each kind: with steps, with missing data, without steps"""

FEW = ["--seeds", "2", "--repeats", "2"]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("tables") / "own.toml"
    path.write_text(OWN)
    return str(path)


@pytest.fixture(scope="module")
def finished(own: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tables") / "whole"
    assert reproduce.main([own, *FEW, "--workdir", str(path)]) == 0
    return path


def rows(path: Path) -> dict[str, dict[str, str]]:
    """Return key of a cell -> its row in the CSV without times."""
    with (path / REPRODUCED).open() as file:
        lines = {row["cell"]: row for row in csv.DictReader(file)}
    return {key: {k: v for k, v in row.items() if not k.endswith("seconds")} for key, row in lines.items()}


def test_the_content_of_a_page(finished: Path) -> None:
    found = rows(finished)
    assert list(found) == ["acc_dd-digits-ipc1", "idc-absent-ipc1", "random-digits-ipc1"]
    cell = found["acc_dd-digits-ipc1"]
    runs = [read_json(finished / CELLS / "acc_dd-digits-ipc1" / f"seed{seed}" / RESULT) for seed in (0, 1)]
    means = [run["accuracy"]["mean"] for run in runs]
    assert float(cell["accuracy"]) == pytest.approx(np.mean(means), abs=1e-3)  # as it is rounded
    assert float(cell["std"]) == pytest.approx(np.std(means, ddof=1), abs=1e-3)
    assert float(cell["difference"]) == pytest.approx(np.mean(means) - 8.0, abs=1e-3)
    assert cell["within_1"] == str(abs(np.mean(means) - 8.0) <= 1)
    assert (cell["seeds"], cell["networks"], cell["steps"], cell["budget"]) == ("2", "4", "6", "1.0")
    page = (finished / REPRODUCED_PAGE).read_text()
    assert "- acc_dd: a note" in page and "A table of the user's own." in page and "Budget" not in page
    assert cell["command"] in page and cell["command"].startswith("python -m experiments.distill acc_dd digits --ipc 1")
    assert "| digits, 1 | 1 % | acc_dd | 2 of 2 seeds |" in page


def test_a_cell_without_data_is_listed_and_the_others_go_on(finished: Path) -> None:
    cell = rows(finished)["idc-absent-ipc1"]
    assert cell["problem"].startswith("no data: no data set 'absent'") and cell["accuracy"] == cell["difference"] == ""
    assert rows(finished)["random-digits-ipc1"]["seeds"] == "2", "the cells after it run"
    page = (finished / REPRODUCED_PAGE).read_text()
    assert "| idc-absent-ipc1 | no data |" in page and "- idc-absent-ipc1: no data: no data set 'absent'" in page


def test_a_table_killed_three_times_has_the_same_figures(
    own: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kills happen in the middle of the first run, between two runs, and in a comparison."""
    argv = [own, *FEW, "--workdir", str(tmp_path), "--resume"]
    begun: list[str] = []

    def counted(words: list[str], resolve: Callable = distill.resolve_request) -> Any:
        begun.append(words[0])
        return resolve(words)

    # A run has two blocks, one inner step and the rest, and two scores, its own and that of the baseline.
    for owner, name, function, call in [
        (loop, "run_block", run_block, 2),
        (table, "_write", table._write, 3),
        (Scorer, "score", Scorer.score, 5),
    ]:
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, dies(function, call, after=True))
            patched.setattr(distill, "resolve_request", counted)
            with pytest.raises(Killed):
                reproduce.main(argv)
    before = len(begun)
    with monkeypatch.context() as patched:
        patched.setattr(distill, "resolve_request", counted)
        assert reproduce.main(argv) == 0
    assert begun[before:] == ["idc"], "finished cells do not run again; only the cell without data is tried again"
    assert rows(tmp_path) == rows(finished)


def test_more_seeds_continue_from_fewer(own: str, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--cells", "random", "--repeats", "2", "--workdir", str(finished)]
    before = (finished / REPRODUCED).read_text(), (finished / REPRODUCED_PAGE).read_text()
    assert reproduce.main([own, *few]) == 2
    assert "--resume continues it" in capsys.readouterr().err
    assert reproduce.main([own, *few, "--seeds", "3", "--resume"]) == 0
    left_out = capsys.readouterr().err.partition("not in its tables: ")[2]
    assert "/seed0" in left_out and "random-digits-ipc1" not in left_out
    assert {key: row["seeds"] for key, row in rows(finished).items()} == {"random-digits-ipc1": "3"}
    assert rows(finished)["random-digits-ipc1"]["low"] != "", "three seeds have an interval"
    assert reproduce.main([own, *few, "--seeds", "3", "--resume", "--budget", "0.5"]) == 2
    assert "budget was 1.0, now it is 0.5" in capsys.readouterr().err
    for name, text in zip((REPRODUCED, REPRODUCED_PAGE), before, strict=True):
        (finished / name).write_text(text)  # for the tests that read them


def test_a_budget_is_stated_and_applied(own: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [own, "--cells", "acc_dd", "--budget", "0.5", "--seeds", "1", "--repeats", "1", "--workdir", str(tmp_path)]
    assert reproduce.main(argv) == 0
    assert "**Budget 0.5**: every cell takes 0.5 times the outer steps" in capsys.readouterr().out
    cell = rows(tmp_path)["acc_dd-digits-ipc1"]
    assert (cell["steps"], cell["budget"], cell["std"], cell["low"]) == ("3", "0.5", "", "")
    run = tmp_path / CELLS / "acc_dd-digits-ipc1" / "seed0"
    before = (run / RESULT).stat().st_mtime_ns
    assert reproduce.main([*argv, "--overwrite"]) == 0
    assert (run / RESULT).stat().st_mtime_ns > before, "the run starts again"


@pytest.mark.parametrize(("budget", "steps"), [(1.0, "6"), (0.5, "3"), (0.1, "2")])
def test_an_acceleration_takes_its_share_of_the_budget(
    budget: float, steps: str, own: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are at least as many steps as points."""
    plan = planned(Reproduce(own, budget=budget, seeds=4), ["--net.norm", "none"])
    monkeypatch.setattr(compare, "resolve_request", lambda words: words)
    monkeypatch.setattr(compare, "execute", lambda words, interrupts: words)
    session: Any = SimpleNamespace(plan=plan, workdir=SimpleNamespace(path=tmp_path), interrupts=None)
    words: Any = table._curves(session, plan.table.accelerations[0])
    found = {name: words[words.index(name) + 1] for name in ("--steps", "--points", "--seeds", "--repeats", "--ipc")}
    assert found == {"--steps": steps, "--points": "2", "--seeds": "4", "--repeats": "1", "--ipc": "1"}
    assert words[1:3] == ["--dataset", "digits"] and words[4:6] == ["idc: idc", f"acc_dd: acc_dd {' '.join(POOL)}"]
    assert words[-2:] == ["--net.norm", "none"] and "--net.depth" in words[words.index("--") :]


def test_a_comparison_that_breaks_is_listed(
    own: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise Broken("the loss is not finite")

    monkeypatch.setattr(compare, "execute", broken)
    argv = [own, "--cells", "acceleration", "--seeds", "1", "--workdir", str(tmp_path)]
    assert reproduce.main(argv) == 1
    assert "the loss is not finite" in (tmp_path / REPRODUCED_PAGE).read_text()
    assert "failed, as the table says" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["cifr10"], "did you mean cifar10?"),
        (["cifar10", "--budget", "0"], "budget is 0"),
        (["cifar10", "--seeds", "0"], "seeds is 0"),
        (["cifar10", "--cells", "acc_dx"], "no cell of cifar10 contains acc_dx: try --cells random-cifar10-ipc1/"),
        (["cifar10", "--cells", "--seeds", "1"], "--cells has no value: give at least one, or leave the option out"),
        (["cifar10", "--data", "cifar10"], "write --data cifar10=npz:PATH"),
        (["cifar10", "--data", "cifa=digits"], "did you mean cifar10?"),
        (["cifar10", "--resume"], "--resume needs the --workdir"),
        (["cifar10", "--", "--net.width", "0"], "width is 0"),
    ],
)
def test_invalid_requests_are_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce.main(words) == 2
    assert said in capsys.readouterr().err


def test_the_step_at_which_an_accuracy_is_reached() -> None:
    points = [Point(0, 1.0, [10.0, 20.0]), Point(10, 3.0, [30.0, 40.0]), Point(20, 5.0, [50.0, 60.0])]
    assert reached(points, 25.0) == (5.0, 2.0)
    assert reached(points, 45.0) == (15.0, 4.0)
    assert reached(points, 15.0) == (0.0, 1.0), "the initial images reach it"
    assert reached(points, 56.0) is None


def test_the_figures_of_a_cell_are_of_the_means_of_the_seeds() -> None:
    cell = Cell("dm", (), "dm", "digits", False, "digits", 1, published=46.0)
    of_seeds = ([40.0, 42.0], 1.0, 10.0), ([44.0, 46.0], 2.0, 20.0), ([48.0, 50.0], 6.0, 30.0)
    runs = [
        {"accuracy": accuracy, "steps": 5, "seconds": {"pretrain": pretrain, "distill": distill}, "device": "cpu"}
        for accuracy, pretrain, distill in of_seeds
    ]
    names, row = figures([Outcome(cell, ["dm", "digits"], "dsa", tuple(runs))], 1.0)
    found = dict(zip(names, row, strict=True))
    half = 4.3027 * 4 / 3**0.5  # t(0.975) for 2 degrees of freedom (from a table), and the standard deviation is 4
    expected = {"accuracy": 45.0, "std": 4.0, "low": 45 - half, "high": 45 + half, "seeds": 3, "networks": 6}
    expected |= {"difference": -1.0, "within_1": True, "pretrain_seconds": 3.0, "distill_seconds": 20.0}
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-3)


def test_an_acceleration_is_the_geometric_mean_of_the_ratios_of_the_seeds() -> None:
    """The slow method takes 4, 2 and 4 times the steps and 2 times the seconds; a fourth seed never reaches 50 %."""

    def curves(*ends: tuple[int, float, float]) -> list[list[Point]]:
        return [[Point(0, 0.0, [10.0]), Point(step, seconds, [last])] for step, seconds, last in ends]

    slow = curves((40, 8.0, 50.0), (40, 6.0, 50.0), (80, 4.0, 50.0), (80, 9.0, 40.0))
    fast = curves((10, 4.0, 50.0), (20, 3.0, 50.0), (20, 2.0, 50.0), (10, 1.0, 50.0))
    of = Acceleration("digits", "idc", "acc_dd --live 1", 50.0, 80, 2, "digits")
    shown = page(Table("own", "", "", (), (of,)), [], [Gain(of, {("idc", 1): slow, ("acc_dd", 1): fast})], 1.0, "")
    rows = [line for line in shown.splitlines() if line.startswith("| digits, 1 |")]
    # The logarithms to base 2 are 2, 1, 2, and t(0.975) is 4.3027 for 2 degrees of freedom (from a table).
    mean, half = 5 / 3, 4.3027 * (1 / 3) ** 0.5 / 3**0.5
    ratio = f"{2**mean:.2f} ({2 ** (mean - half):.2f} to {2 ** (mean + half):.2f})"
    assert rows[0] == "| digits, 1 | 50 % | idc | 3 of 4 seeds | 53.3 | 6.0 |  |  |"
    assert rows[1] == f"| digits, 1 | 50 % | acc_dd | 4 of 4 seeds | 15.0 | 2.5 | {ratio} | 2.00 (2.00 to 2.00) |"
