"""Tests the benchmark's line of JSON at small sizes."""

import importlib.util
import json

import pytest

from benchmarks import benchmark

FIGURES = {"matching_sweep_s", "model_update_640_s", "whole_step_s", "compile_s"}


def measured(capsys: pytest.CaptureFixture[str], *argv: str) -> dict:
    assert benchmark.main([*argv, "--shapes", "tiny", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    return json.loads(line)


def test_step(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(benchmark, "MIN_SECONDS", 0.01)
    peer = ("--peer", "torch") if importlib.util.find_spec("torch") else ()
    figures = measured(capsys, "step", "--pairs", "2", *peer)
    assert set(figures) == FIGURES | {"peer", "ratios"}
    assert all(figures[name] > 0 for name in FIGURES)
    assert set(figures["ratios"]) == {"sweep", "update", "whole"}
    if peer:
        assert set(figures["peer"]) == FIGURES
        assert [len(ratios) for ratios in figures["ratios"].values()] == [2, 2, 2]
    else:
        assert figures["peer"] is None


def test_evaluate(capsys: pytest.CaptureFixture[str]):
    assert measured(capsys, "evaluate", "--pairs", "1")["evaluation"]["network_epoch_s"] > 0


def test_kmeans(capsys: pytest.CaptureFixture[str]):
    assert set(measured(capsys, "kmeans", "--pairs", "1")) == {"kmeans"}


def test_zero_pairs_are_refused(capsys: pytest.CaptureFixture[str]):
    assert benchmark.main(["step", "--pairs", "0"]) == 2
    assert "pairs is 0" in capsys.readouterr().err


def test_a_busy_machine_is_reported(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(benchmark, "others_share", lambda: 0.5)
    monkeypatch.setitem(benchmark.TARGETS, "step", lambda options: {})
    assert benchmark.main(["step"]) == 0
    assert "other processes use 50%" in capsys.readouterr().err
    assert 0 <= benchmark.others_share() <= 1
