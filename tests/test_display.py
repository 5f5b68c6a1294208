"""Tests the terminal output before and during a run."""

import time

import pytest

from distill_jax.cli.output import display
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


def test_a_method_without_steps_is_shown_without_the_axes_of_steps() -> None:
    shown = {name: display.configuration("", resolve(name, "digits")) for name in ("acc_dd", "random")}
    for axis in ("optimiser", "objective", "perturb", "inner_steps"):
        assert axis in shown["acc_dd"].replace("Protocol", "") and f"  {axis} " not in shown["random"]
    assert "inner_steps" not in shown["random"] and "classes=()" not in shown["acc_dd"]
