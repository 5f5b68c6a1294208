"""Tests what the pictures of runs and of ``tune`` show."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from distill_jax.cli.output.plot import draw_progress, ticks_at
from distill_jax.cli.tuning.picture import draw as draw_tuning
from distill_jax.cli.tuning.result import Row


def test_progress_shows_the_loss_and_the_accuracies_that_were_measured() -> None:
    lines = [{"step": 10, "loss": 3.0}, {"step": 20, "loss": 2.0, "held_out_accuracy": 60.0}, {"step": 30, "loss": 1.0}]
    loss, accuracy = draw_progress(lines).axes
    np.testing.assert_array_equal(loss.lines[0].get_xydata(), [[10, 3], [20, 2], [30, 1]])
    np.testing.assert_array_equal(accuracy.lines[0].get_xydata(), [[20, 60]])
    assert len(draw_progress(lines[:1]).axes) == 1, "there is no empty axis"


def test_each_rung_of_tune_has_a_curve_in_the_order_of_the_values() -> None:
    def row(rung: int, rate: float, momentum: float, *accuracies: float) -> Row:
        return Row(rung, 5 * rung, {"lr": rate, "momentum": momentum}, accuracies, 1.0)

    rows = [row(1, 1.0, 0.5, 50.0, 54.0), row(1, 0.1, 0.9, 30.0, 30.0), row(2, 1.0, 0.5, 60.0, 64.0, 68.0)]
    rates, momenta = draw_tuning("title", rows).axes
    assert (rates.get_xlabel(), momenta.get_xlabel()) == ("lr", "momentum")
    first, second = (container.lines[0].get_xydata() for container in rates.containers)  # type: ignore[attr-defined]
    np.testing.assert_allclose(first, [[0.1, 30.0], [1.0, 52.0]])
    np.testing.assert_allclose(second, [[1.0, 64.0]])
    segments = rates.containers[0].lines[2][0].get_segments()  # type: ignore[attr-defined]
    np.testing.assert_allclose([segment[1, 1] - segment[0, 1] for segment in segments], [0.0, 2 * 8**0.5], atol=1e-9)
    labels = [text.get_text() for text in rates.get_legend().get_texts()]  # type: ignore[union-attr]
    assert labels == ["rung 1, 5 steps", "rung 2, 10 steps"]
    np.testing.assert_allclose(momenta.containers[0].lines[0].get_xydata()[:, 0], [0.5, 0.9])  # type: ignore[attr-defined]


def test_values_of_several_sizes_are_on_a_logarithmic_axis() -> None:
    """Zero is one step below the smallest value, and negative values have no logarithm."""
    kinds = {(1.0, 2.0, 4.9): "linear", (1.0, 5.0): "log", (0.0, 1.0, 10.0): "symlog", (-1.0, 1.0, 10.0): "linear"}
    for values, kind in kinds.items():
        axes = Figure().add_subplot()
        ticks_at(axes, np.asarray(values))
        assert axes.get_xscale() == kind and list(axes.get_xticks()) == list(values)
