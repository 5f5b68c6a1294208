"""Tests what ``experiments.tune`` writes and prints: the schedule, the winner, the table, and hints about it."""

import csv
import json
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from distill_jax.cli.session.workdir import Workdir
from distill_jax.cli.tuning import result as tuned
from distill_jax.halving import Rung, Schedule


def rows_of(*figures: tuple[int, float, float]) -> list[tuned.Row]:
    """Return a row for each (rung, rate, accuracy)."""
    return [tuned.Row(rung, 4 * rung, {"lr": rate}, [of - 1, of + 1], 1.0) for rung, rate, of in figures]


def test_the_best_of_the_last_rung_wins_and_its_settings_are_written(tmp_path: Path) -> None:
    """A candidate that was ahead after fewer steps, with fewer networks, is not the winner."""
    rows = rows_of((1, 0.1, 70.0), (1, 1.0, 60.0), (1, 10.0, 40.0), (2, 0.1, 62.0), (2, 1.0, 66.0))
    setup: Any = SimpleNamespace(method="dm", dataset="folder:a b/photos", spec=SimpleNamespace(ipc=1))
    lines = tuned.written(Workdir(tmp_path), setup, rows, {"ipc": 1, "lr": 0.5}, ("--side", "64"))
    assert json.loads((tmp_path / "tuned.json").read_text()) == {"ipc": 1, "lr": 1.0}
    cells = [line.split() for line in lines[1:4]]
    assert cells[0] == ["0.1", "70.00", "±", "1.41", "62.00", "±", "1.41"]
    assert cells[1] == ["1", "60.00", "±", "1.41", "66.00", "±", "1.41"]
    assert cells[2] == ["10", "40.00", "±", "1.41"], "it was not in the second rung"
    assert "best: lr 1, 66.00 ± 1.41 % of held-out images" in lines
    words = shlex.split(lines[-1])
    assert words[-6:] == ["dm", "folder:a b/photos", "--side", "64", "--config", str(tmp_path / "tuned.json")]
    with (tmp_path / "tune.csv").open() as file:
        assert next(csv.DictReader(file)) == {
            "rung": "1", "step": "4", "lr": "0.1", "networks": "2", "accuracy": "70.0", "std": "1.4142", "loss": "1.0",
        }  # fmt: skip


def test_a_winner_at_the_edge_of_the_tried_values_is_reported() -> None:
    rows = rows_of((1, 0.1, 70.0), (1, 1.0, 60.0), (1, 10.0, 40.0), (2, 0.1, 62.0), (2, 1.0, 66.0))
    assert tuned._edges(rows, rows[4]) == []
    for row, which in ((rows[3], "0.1 is the smallest"), (rows[2], "10 is the largest")):
        (hint,) = tuned._edges(rows, row)
        assert f"lr {which} value tried" in hint and hint.endswith(f"add --lr {row.point['lr']:g}")


def test_the_schedule_says_what_it_cuts() -> None:
    protocol = SimpleNamespace(name="idc", epochs=300)
    setup: Any = SimpleNamespace(experiment=SimpleNamespace(protocol=protocol), spec=SimpleNamespace(steps=8))
    whole = tuned.announced(Schedule([Rung(3, 4, 2), Rung(2, 8, 3)], 300), setup, 136)
    assert [line.split() for line in whole[1:3]] == [["1", "3", "4", "2"], ["2", "2", "8", "3"]]
    assert whole[3:] == ["scored on 136 held-out training images, protocol idc, 300 epochs"]
    cut = tuned.announced(Schedule([Rung(3, 7, 2)], 30), setup, 136)
    assert cut[2].endswith("30 epochs of its 300") and cut[3].startswith("tuning ends after 7 of 8 steps")


def test_a_winner_that_is_not_clearly_better_is_doubted() -> None:
    best, second = (
        tuned.Row(2, 8, {"optimiser.lr": lr}, of, 1.0) for lr, of in ((0.1, [60.0, 62.0]), (1.0, [59.0, 62.0]))
    )
    (hint,) = tuned._doubt([second, best], best)
    assert hint.startswith("optimiser.lr 1 is as good within twice the standard error")
    assert tuned._doubt([second._replace(accuracies=[50.0, 51.0]), best], best) == []
    assert tuned._doubt([best], best) == []
