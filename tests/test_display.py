"""Tests the terminal output before and during a run."""

import time
from dataclasses import replace
from typing import Any

import pytest

from distill_jax.axes.optimiser import SGD
from distill_jax.cli.output import display
from distill_jax.cli.session.score import summary
from distill_jax.recipes import resolve


def test_a_log_says_that_a_long_first_step_is_being_compiled(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(display, "EVERY", 0.05)
    with display.Bar("distilling", 3, unit="steps") as bar:
        deadline = time.monotonic() + 30
        while not (shown := capsys.readouterr().err) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert shown == "distilling: compiling\n"
        bar.update(3)
        assert capsys.readouterr().err == "distilling: 3/3 steps\n"
    with display.Bar("scoring", 3) as bar:
        bar.update(1)
        time.sleep(0.1)
    assert "compiling" not in capsys.readouterr().err


def test_the_progress_bar_shows_the_compilation_too(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with display.Bar("distilling", 3):
        pass
    assert "compiling" in capsys.readouterr().err


def test_numbers_are_shown_with_six_digits() -> None:
    assert display.shown(SGD(lr=1.3061224489795918e-05)) == repr(SGD(lr=1.30612e-05))
    assert display.shown("a text") == "a text" and display.shown([[1, 0.0004000000000000001]]) == "[[1, 0.0004]]"
    experiment = resolve("acc_dd", "digits")
    spec = replace(experiment.spec, optimiser=SGD(lr=1 / 3))
    assert "lr=0.333333," in display.configuration("", replace(experiment, spec=spec))


def test_a_method_without_steps_is_shown_without_the_axes_of_steps() -> None:
    shown = {name: display.configuration("", resolve(name, "digits")) for name in ("acc_dd", "random")}
    for axis in ("optimiser", "objective", "perturb", "inner_steps"):
        assert axis in shown["acc_dd"].replace("Protocol", "") and f"  {axis} " not in shown["random"]
    assert "inner_steps" not in shown["random"] and "classes=()" not in shown["acc_dd"]


class Passing:
    """A clock that a test moves."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


def test_a_log_has_a_line_every_ten_seconds_and_at_the_end(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """The time left is that of the steps that remain, at the speed since the first report: compilation precedes it, and
    an earlier process took the steps before."""
    passing = Passing()
    monkeypatch.setattr(display, "time", passing)
    said = []
    with display.Bar("distilling", 100, start=40, unit="steps") as bar:
        for now, done in ((130.0, 50), (139.0, 55), (140.0, 60), (149.0, 70), (150.0, 75), (151.0, 100)):
            passing.now = now
            bar.update(done, {"loss": f"{done}"})
            said.append(capsys.readouterr().err)
    assert said == [
        "distilling: 50/100 steps, loss 50\n",
        "",
        "distilling: 60/100 steps, loss 60, 40 s left\n",
        "",
        "distilling: 75/100 steps, loss 75, 20 s left\n",
        "distilling: 100/100 steps, loss 100\n",
    ]


def test_a_total_that_becomes_known_replaces_the_first(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    with display.Bar("pretraining", 1, unit="epochs") as bar:
        bar.update(1, total=4)
        assert capsys.readouterr().err == ""
        bar.update(4, total=4)
    assert capsys.readouterr().err == "pretraining: 4/4 epochs\n"


def test_amounts_are_written_in_their_unit() -> None:
    times = {0.04: "0.0 s", 9.94: "9.9 s", 10.4: "10 s", 59.4: "59 s", 59.6: "1 min 0 s", 200.0: "3 min 20 s"}
    times |= {3599.4: "59 min 59 s", 3599.6: "1 h 0 min", 7500.0: "2 h 5 min", 90000.0: "25 h 0 min"}
    assert {seconds: display.duration(seconds) for seconds in times} == times
    sizes = {0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 2560: "2.5 KiB", 102400: "100 KiB", 120 * 2**20: "120 MiB"}
    assert {count: display.size(count) for count in sizes} == sizes
    assert [display.arithmetic(n) for n in (54, 999, 1000, 1.1e12)] == ["54 FLOP", "999 FLOP", "1.0 kFLOP", "1.1 TFLOP"]


def test_columns_are_as_wide_as_their_cells_unless_a_cell_is_very_long() -> None:
    rows = [["rung", "steps", "said"], ["1", "10", "x" * 70], ["2", "1000", "y"]]
    assert display.table(rows, numbers=True) == [
        "rung  steps  said",
        f"1        10  {'x' * 70}",
        "2      1000  y",
    ]
    assert display.table(rows)[1:] == [f"1     10     {'x' * 70}", "2     1000   y"]
    assert display.markdown(["a", "b"], [["1", "2"]]) == ["| a | b |", "| --- | --- |", "| 1 | 2 |"]


def of(*accuracies: float) -> dict[str, Any]:
    return summary(list(accuracies))


def test_a_result_lists_its_set_before_the_baselines_that_were_requested() -> None:
    found = {
        "method": "dm",
        "ipc": 10,
        "accuracy": of(50.0, 52.0),
        "baselines": {"random": of(40.0), "random_soft": None, "full": of(90.0, 90.0)},
        "seconds": {"pretrain": 0.04, "distill": 61.0, "evaluate": 2.0},
        "bytes": {"images": 2048},
        "peak_bytes": 2**29,
    }
    lines = display.result(found).splitlines()
    assert [line.split() for line in lines[1:4]] == [
        ["distilled", "51.00", "±", "1.41", "2"],
        ["random", "40.00", "1"],
        ["full", "90.00", "±", "0.00", "2"],
    ]
    assert lines[4:] == [
        "full: all real images, for as many training steps",
        "ipc 10: images 2.0 KiB",
        "time: distill 1 min 1 s, evaluate 2.0 s; peak memory 0.50 GiB",
    ]
    alone = {**found, "method": "full", "accuracy": of(91.0), "bytes": {}}
    assert [line.split()[:2] for line in display.result(alone).splitlines()[1:3]] == [
        ["full", "91.00"],
        ["random", "40.00"],
    ]
    assert "ipc" not in display.result(alone) and "as many training steps" not in display.result(alone)


def test_settings_stand_as_on_the_command_line() -> None:
    assert [display.setting(value) for value in (True, False, "mix", 0.1, 1e-5, 10)] == [
        "true", "false", "mix", "0.1", "1e-05", "10",
    ]  # fmt: skip
    assert display.last_part("folder:photos/cats/") == "cats" and display.last_part("digits") == "digits"
