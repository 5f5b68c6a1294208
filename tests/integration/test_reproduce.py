"""Tests ``experiments.reproduce compare``: several methods under one budget."""

import csv
from pathlib import Path

import numpy as np
import pytest

from distill_jax.cli import distill, reproduce
from distill_jax.cli.session.atomic import read_json
from distill_jax.cli.session.setup import Setup
from distill_jax.cli.session.workdir import COMPARED, COMPARED_PLOT, COMPARED_TABLE, DISTILLED, RESULT
from distill_jax.cli.tables import compare
from distill_jax.cli.tables.curve import Point
from distill_jax.cli.tables.entrants import Compare, entrant
from distill_jax.cli.tables.picture import draw as draw_curves
from distill_jax.methods import BASELINES, METHODS, PRESETS
from tests.tiny import NET

UNAUGMENTED = ["--protocol.augment.strategy", ""]
SHARED = ["--", "--selector.batch", "4", "--protocol.epochs", "2", "--augment", "none", *UNAUGMENTED, *NET]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("option", ["--seed", "--ipc", "--repeats"])
def test_options_that_the_command_sets_are_refused_after_the_dashes(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["compare", "--dataset", "digits", "--methods", "dm", "--steps", "1", "--", option, "5"]
    assert reproduce.main(line) == 2
    assert f"{option} cannot follow after --" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["--uint8", "--save-every=2"])
def test_an_option_of_distill_that_a_comparison_lacks_is_named(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["compare", "--dataset", "digits", "--methods", "dm", "--steps", "1", "--", word]
    assert reproduce.main(line) == 2
    said = capsys.readouterr().err
    assert word.partition("=")[0] in said and "a method of a comparison has options of METHOD and its protocol" in said


def test_methods_are_compared_under_equal_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["compare", "--dataset", "digits", "--methods", "random", "dm", "mine: dm --optimiser.lr 0.5"]
    budget = ["--steps", "4", "--points", "2", "--seeds", "2", "--repeats", "1", "--workdir", str(tmp_path)]
    assert reproduce.main([*line, *budget, *SHARED]) == 0
    found = rows(tmp_path / COMPARED)
    steps = [(row["method"], int(row["seed"]), int(row["step"])) for row in found]
    methods = ("dm", "mine")
    expected = [(m, s, step) for m in methods for s in (0, 1) for step in (0, 2, 4)]
    assert steps == [("random", 0, 0), ("random", 1, 0), *expected]
    assert all(0 <= float(row["accuracy"]) <= 100 and float(row["seconds"]) >= 0 for row in found)
    table = (tmp_path / COMPARED_TABLE).read_text()
    assert "| mine |" in table and "experiments.reproduce compare" in table
    assert (tmp_path / COMPARED_PLOT).read_bytes().startswith(b"\x89PNG")
    assert table in capsys.readouterr().out


def test_without_random_there_is_no_column_above_random() -> None:
    runs = {name: [[Point(20, 1.0, [50.0, 52.0])]] for name in ("dm", "random")}
    assert "above random" in compare._table(runs)[0]
    del runs["random"]
    assert compare._table(runs)[0] == "| method | accuracy % | seconds | steps |"
    assert compare._table(runs)[2] == "| dm | 51.00 ± 1.41 | 1.0 | 20 |"


def test_the_figures_of_a_comparison_are_of_the_means_of_the_seeds() -> None:
    """Both have a standard error of 3 points, and the difference that of its two parts."""
    of_random = [[Point(0, 0.0, [40.0, 44.0])], [Point(0, 0.0, [46.0, 50.0])]]
    initial = Point(0, 1.0, [20.0, 20.0])
    runs = [[initial, Point(20, 2.0, [50.0, 52.0])], [initial, Point(20, 4.0, [56.0, 58.0], [33.0, 35.0, 37.0])]]
    _, _, random, dm = compare._table({"random": of_random, "dm": runs})
    assert random == "| random | 45.00 ± 4.24 |  | 0.0 | 0 |  |"
    assert dm == "| dm | 54.00 ± 4.24 | +9.0 ± 8.5 | 3.0 | 20 | 35.00 ± 2.00 |"


def test_held_out_never_uses_the_test_set() -> None:
    options = Compare("compare", "digits", held_out=True)
    job = entrant("dm", 1, options, [])
    assert len(job.data.x_train) + len(job.data.x_test) == len(job.source.x_train)


def test_a_method_with_its_own_ipc_runs_only_at_that_ipc() -> None:
    lines = ["random", "a: dm --optimiser.lr 1 --ipc 1", "a: dm --optimiser.lr 10 --ipc 10"]
    found = compare.resolve_request(["compare", "--dataset", "digits", "--ipc", "1", "10", "--methods", *lines]).setups
    assert list(found) == [("random", 1), ("a", 1), ("random", 10), ("a", 10)]
    rates = {key: setup.spec.optimiser.lr for key, setup in found.items() if key[0] == "a"}  # type: ignore[attr-defined]
    assert rates == {("a", 1): 1.0, ("a", 10): 10.0}


def test_a_resumed_comparison_may_have_other_methods(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only new methods run. A method that was left out meanwhile is kept, and refused if its settings have changed."""
    ran = []

    def curve(setup: Setup, *_: object) -> list[Point]:
        ran.append(setup.method)
        return [Point(1, 1.0, [50.0, 52.0])]

    monkeypatch.setattr(compare, "curve", curve)

    def resumed(*methods: str, resume: tuple[str, ...] = ("--resume",)) -> tuple[int, list[str]]:
        ran.clear()
        line = ["compare", "--dataset", "digits", "--steps", "1", "--workdir", str(tmp_path), "--methods", *methods]
        return reproduce.main([*line, *resume, "--", *NET]), list(ran)

    assert resumed("random", "mine: dm --optimiser.lr 1", resume=()) == (0, ["random", "dm"])
    assert resumed("random", "idc") == (0, ["idc"])
    assert [row["method"] for row in rows(tmp_path / COMPARED)] == ["random", "idc"]
    assert "not in its tables: mine, ipc 1, seed 0\n" in capsys.readouterr().err
    assert resumed("mine: dm --optimiser.lr 2") == (2, [])
    assert "mine, ipc 1.spec.optimiser.lr was 1.0, now it is 2.0" in capsys.readouterr().err
    assert resumed("idc", "mine: dm --optimiser.lr 1") == (0, [])
    assert [row["method"] for row in rows(tmp_path / COMPARED)] == ["idc", "mine"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--dataset", "digits", "--methods", "dmm"], "did you mean dm?"),
        (["--dataset", "digits", "--points", "0"], "points is 0"),
        (["--dataset", "digits", "--seconds", "nan"], "--seconds or --steps"),
        (["--dataset", "digits", "--methods", "dm '"], "cannot be parsed"),
        (["--dataset", "digits", "--methods", "dm", ""], "has an empty name"),
        (["--dataset", "digits", "--methods", "a: dm", "a: idc"], "2 methods are called 'a' at ipc 1"),
        (["--dataset", "digits", "--ipc", "1", "2", "--methods", "dm --ipc 3"], "--ipc 1 2 does not include"),
        (["--dataset", "digits", "--seeds", "0"], "seeds is 0"),
        (["--dataset", "digits", "--methods"], "--methods has no value"),
        (["--dataset", "digits", "--ipc", "--methods", "dm"], "--ipc has no value"),
        (["--dataset", "digits", "--methods", "dm", "--ipc", "1", "1"], "ipc has a repeated value in 1 1"),
        (["--dataset", "digits", "--methods", "dm", "--", "--foo", "5"], "--foo"),
        (["--dataset", "digits", "--methods", "dm", "--", "--foo", "5"], "experiments.distill --help"),
        (["--dataset", "digits", "--methods", "dm --net.width 0"], "width is 0"),
        (["--dataset", "digits", "--methods", "dm", "--", "--protocol", "dsa"], "give --protocol next to --dataset"),
        (["--dataset", "digits", "--methods", "dm --protocol dsa"], "give --protocol next to --dataset"),
        (["--dataset", "digits", "--methods", "dm --seed 3"], "leave out --seed"),
    ],
)
def test_invalid_requests_are_refused(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reproduce.main(["compare", "--workdir", str(tmp_path / "new"), *words]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_baselines_are_methods_without_steps(tmp_path: Path) -> None:
    names = {"random", "herding", "kcenter", "kmeans", "random_soft", "rded", "full"}
    assert set(BASELINES) == names and len(PRESETS) == len(METHODS) + len(names)
    options = ["--repeats", "1", "--protocol.epochs", "2", *NET, *UNAUGMENTED, "--baselines", "random"]
    for method in ("kcenter", "full"):
        path = tmp_path / method
        epochs = ["--models.epochs", "1"] if method == "kcenter" else []
        assert distill.main([method, "digits", *options, *epochs, "--workdir", str(path)]) == 0
        assert read_json(path / RESULT)["steps"]["outer"] == 0
    assert not (tmp_path / "full" / DISTILLED).exists(), "full keeps no images"
    with np.load(tmp_path / "kcenter" / DISTILLED) as file:
        # Real images: 17 levels of grey.
        np.testing.assert_allclose(file["images"] * 16, np.round(file["images"] * 16), atol=0.04)


def test_a_panel_for_each_size_and_a_colour_for_each_method() -> None:
    run = [Point(0, 1.0, [50.0]), Point(10, 2.0, [60.0, 62.0])]
    curves = {(name, ipc): [run, run] for ipc in (1, 10) for name in ("idc", "acc_dd")}
    figure = draw_curves("title", "test accuracy, %", {**curves, ("random", 10): [[Point(0, 0.0, [40.0])]]})
    one, ten = figure.axes
    assert (one.get_title("left"), ten.get_title("left")) == ("1 image per class", "10 images per class")
    assert one.get_ylabel() == "test accuracy, %"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["idc", "acc_dd", "random"]
    colours = [[line.get_color() for line in axes.lines] for axes in (one, ten)]
    assert colours[0] == colours[1][:4] and len(set(colours[1])) == 3


def test_the_mean_of_runs_whose_seconds_do_not_overlap() -> None:
    runs = [[Point(0, start, [50.0]), Point(10, start + 1.0, [60.0])] for start in (1.0, 5.0)]
    (axes,) = draw_curves("title", "test accuracy, %", {("acc_dd", 1): runs}).axes
    np.testing.assert_array_equal(axes.lines[-1].get_xydata(), [[3.0, 50.0], [4.0, 60.0]])
    axes = draw_curves("title", "test accuracy, %", {("acc_dd", 1): [runs[0], runs[1][:1]]}).axes[0]
    assert len(axes.lines) == 3, "the points, and a line for each run if they have different numbers of points"
