"""Tests ``experiments.tune``: one program per rung, the winner according to the written figures, and resuming."""

import csv
import json
import shlex
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from distill_jax import distill, sweep, train_many
from distill_jax.checkpoint import Checkpoints, load_pool
from distill_jax.cli import tune
from distill_jax.cli.distill import Distill
from distill_jax.cli.request import arguments
from distill_jax.cli.session import resume
from distill_jax.cli.session.setup import set_up
from distill_jax.cli.session.workdir import Workdir
from distill_jax.cli.tuning import race
from distill_jax.cli.tuning import result as tuned
from distill_jax.data import Dataset
from distill_jax.distill import Problem
from distill_jax.evaluation import Protocol
from distill_jax.halving import Rung, Schedule, Speed
from distill_jax.spec import as_arrays
from distill_jax.types import RequestError
from tests.kills import Killed, dies
from tests.tiny import count_calls

SMALL = """
    dm digits --models early-stage --repeats 1 --candidates 3 --outer-steps 2 --inner-steps 3 --net.width 6
    --net.depth 1 --protocol.epochs 2 --augment none --protocol.augment.strategy=
    --selector.batch 4 --models.size 1 --models.epochs 0 --seconds 100
"""


MEASURED, TEST_ARRAYS = tune.measure_speed, Dataset.test_arrays
HELD_OUT = 136


@pytest.fixture(autouse=True)
def speed(monkeypatch: pytest.MonkeyPatch):
    """Make the schedule independent of the speed of the machine."""
    monkeypatch.setattr(tune, "measure_speed", lambda race, repeats: Speed(0.01, 0.01, 0.0, 0.0))
    monkeypatch.setattr(resume, "SAVE_SECONDS", 0.0)


def outcome(workdir: Path) -> dict[str, Any]:
    rows = [(workdir / f"points/{k}/rows.json").read_text() for k in (0, 1)]
    last = Checkpoints(workdir / "points/1/checkpoints").restore()
    assert last is not None
    states = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(last.state)]
    return {name: (workdir / name).read_text() for name in ("tune.csv", "tuned.json")} | {
        "rows": rows,
        "states": states,
    }


def run(workdir: Path, *more: str) -> int:
    return tune.main([*SMALL.split(), "--workdir", str(workdir), *more])


def held_out(self: Dataset):
    """Replace ``Dataset.test_arrays``; it allows only held-out training images."""
    assert len(self.x_test) == HELD_OUT, "the test set is used"
    return TEST_ARRAYS(self)


TRACES: Counter[str] = Counter()
"""traces of the programs in ``finished``"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the workdir of a finished race, which must not use the test set. No other test uses its network, so none
    has compiled its programs.
    """
    path = tmp_path_factory.mktemp("tune") / "run"
    with pytest.MonkeyPatch.context() as patched:
        count_calls(patched, TRACES, "steps", distill, "inner_step")
        count_calls(patched, TRACES, "scores", train_many, "train_flat")
        fixed = Speed(0.01, 0.01, 0.0, 0.0)
        patched.setattr(tune, "measure_speed", lambda race, repeats: MEASURED(race, repeats) and fixed)
        patched.setattr(Dataset, "test_arrays", held_out)
        assert run(path) == 0
    return path


def test_the_winner_has_the_best_written_figures(finished: Path, capsys: pytest.CaptureFixture[str]):
    with (finished / "tune.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [(line["rung"], line["step"], line["networks"]) for line in lines] == [("1", "3", "1")] * 3 + [
        ("2", "6", "2")
    ] * 2
    first, last = ([line for line in lines if line["rung"] == rung] for rung in "12")
    stayed = sorted(first, key=lambda line: -float(line["accuracy"]))[:2]
    assert {line["optimiser.lr"] for line in last} == {line["optimiser.lr"] for line in stayed}
    best = max(last, key=lambda line: float(line["accuracy"]))
    chosen = json.loads((finished / "tuned.json").read_text())
    assert chosen["optimiser.lr"] == float(best["optimiser.lr"]) and chosen["net.width"] == 6
    assert (finished / "tune.png").read_bytes().startswith(b"\x89PNG")
    # Resuming prints the same and computes nothing. The command that it suggests is valid.
    assert run(finished, "--resume") == 0
    said = capsys.readouterr().out
    command = shlex.split(next(line for line in said.splitlines() if line.startswith("next: ")))[4:]
    spec = arguments.parse(command, Distill)[2].spec
    assert spec.optimiser.lr == chosen["optimiser.lr"] and spec.steps == 6  # type: ignore[attr-defined]
    assert "held-out % after 6" in said and "136 held-out training images, protocol dsa, 2 epochs" in said


def test_survivors_continue_from_their_state(finished: Path):
    """The candidates of the last rung have the same state as in a race without the others."""
    setup = set_up(arguments.request(SMALL.split(), tune.Tune), eval_every=1)
    with (finished / "tune.csv").open() as file:
        rates = [float(line["optimiser.lr"]) for line in csv.DictReader(file) if line["rung"] == "2"]
    pool, _ = load_pool(finished / "pool")
    problem = Problem(as_arrays(setup.spec), setup.net, setup.real_data(), pool, setup.keys.run)
    points = sweep.stacked(problem, sweep.specs_of(setup.spec, {"optimiser.lr": rates}), [problem.root])
    alone = sweep.run(points, sweep.init_states(points, 1))
    last = Checkpoints(finished / "points/1/checkpoints").restore(alone)
    assert last is not None and last.step == 6
    np.testing.assert_array_equal(last.state.synthetic.images, alone.synthetic.images)


def test_each_candidate_has_its_own_networks_and_none_if_it_diverged(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    images = np.zeros((3, 1, 1, 1, 1, 1))
    images[1] = np.nan
    states = SimpleNamespace(synthetic=SimpleNamespace(images=images), loss=np.asarray([0.5, np.inf, 2.0]))
    monkeypatch.setattr(race, "_states", lambda *_: states)
    monkeypatch.setattr(race.Race, "stacked", lambda self, alive: None)
    monkeypatch.setattr(sweep, "training_sets", lambda *_: None)
    protocols: list[Protocol] = []

    def score(what: str, sets: None, protocol: Protocol) -> dict[str, list[float]]:
        protocols.append(protocol)
        return {"per_repeat": [10.0, 12.0, 20.0, 22.0, 30.0, 32.0]}

    scorer: Any = SimpleNamespace(score=score, protocol=Protocol())
    other: Any = None
    schedule = Schedule([Rung(3, 4, 2)], epochs=7)
    found = race._scored(race.Race(other, [], other, scorer, other), schedule, [[0, 1, 2]], 0)
    assert found == [([10.0, 12.0], 0.5), ([0.0, 0.0], np.inf), ([30.0, 32.0], 2.0)]
    assert protocols == [Protocol(epochs=7)] and "1 of 3 candidates diverged" in capsys.readouterr().err


def test_one_trace_per_rung(finished: Path):
    assert TRACES == {"steps": 2, "scores": 2}, "measuring compiles the program of the first rung"


@pytest.mark.parametrize(
    ("owner", "name", "call", "after"),
    [
        (sweep, "run_block", 2, True),  # in the first rung
        (Checkpoints, "save", 5, False),  # before the first checkpoint of the second rung
        (Checkpoints, "save", 5, True),
        (Workdir, "write", 3, False),  # after the score of the first rung, before it is written
        (Workdir, "write", 3, True),
        (tune.tuned, "written", 1, False),
    ],
)
def test_killed_anywhere(owner, name, call, after, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, dies(getattr(owner, name), call, after))
        with pytest.raises(Killed):
            run(tmp_path)
    assert (tmp_path / "schedule.json").exists() and not (tmp_path / "tuned.json").exists()
    # The schedule is fixed before the race and does not change.
    monkeypatch.setattr(tune, "measure_speed", lambda *_: pytest.fail("measured again"))
    assert run(tmp_path, "--resume") == 0
    assert outcome(tmp_path) == outcome(finished)


def test_a_resumed_race_has_its_own_copy_of_the_pool(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(tune, "halve", lambda *_: [])
    monkeypatch.setattr(tuned, "written", lambda *_: [])
    pool, own = shutil.copytree(finished / "pool", tmp_path / "pool"), tmp_path / "run"
    assert run(own, "--pool", str(pool)) == 0
    shutil.rmtree(pool)
    for same in ([], ["--pool", str(pool)]):
        assert run(own, "--resume", *same) == 0
    assert run(own, "--resume", "--pool", "another") == 2
    assert 'now it is "another"' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("random digits", "takes no steps"),
        ("dm digits --pool somewhere", "uses no pool"),
        ("acc_dd digits --tune optimiser.lrr", "did you mean optimiser.lr"),
        ("idc digits --tune perturb.max", "add --perturb directions"),
        ("acc_dd digits --tune optimiser.lr optimiser.lr", "names a number twice"),
        ("acc_dd digits --tune models.epochs", "experiments.ablate also sweeps numbers"),
        ("acc_dd digits --seconds 0", "seconds is 0"),
        ("acc_dd digits --reach 1", "reach is 1"),
        ("acc_dd digits --candidates 4", "candidates is 4"),
        ("acc_dd digits --repeats 0", "repeats is 0"),
    ],
)
def test_invalid_requests_are_refused(argv: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    workdir = tmp_path / "run"
    assert tune.main([*argv.split(), "--workdir", str(workdir)]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not workdir.exists()


def test_a_folder_holds_one_race(finished: Path, capsys: pytest.CaptureFixture[str]):
    assert run(finished) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert run(finished, "--resume", "--seconds", "50") == 2
    assert "tune.seconds was 100" in capsys.readouterr().err


def test_the_speed_leaves_out_the_block_that_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling takes 20 seconds and a step of all four candidates 2; the networks take 5 seconds to compile, 3 for an
    epoch, and 1 to test."""
    now = 0.0

    def blocks(first: float, each: float, counts: Any, callbacks: Any) -> None:
        nonlocal now
        begin = 0
        for number, count in enumerate(counts):
            took = count * each + (first if number == 0 else 0.0)
            now += took
            block: Any = SimpleNamespace(seconds=took, first=begin, end=begin + count)
            begin += count
            if any([callback(block) for callback in callbacks]):
                return
        pytest.fail("the measurement must end")

    def tested(*_: object) -> None:
        nonlocal now
        now += 1.0

    monkeypatch.setattr(race, "time", SimpleNamespace(perf_counter=lambda: now))
    monkeypatch.setattr(race.Race, "stacked", lambda self, alive: list(alive))
    for name in ("init_states", "automatic_chunk", "training_sets"):
        monkeypatch.setattr(sweep, name, lambda *_: None)
    monkeypatch.setattr(sweep, "run", lambda problems, states, callbacks: blocks(20.0, 2.0, (1, 1, 5, 9), callbacks))
    monkeypatch.setattr(race, "train_networks", lambda *of: blocks(5.0, 3.0, (1, 1, 4, 9), of[-1]))
    monkeypatch.setattr(race, "test_accuracies", tested)
    checks: list[int] = []
    interrupts = SimpleNamespace(check=lambda: checks.append(1))
    names = ("net", "protocol", "key", "normaliser", "test")
    scorer: Any = SimpleNamespace(interrupts=interrupts, **dict.fromkeys(names))
    other: Any = None
    speed = race.measure_speed(race.Race(other, [{}] * 4, other, scorer, other), 3)
    assert speed == Speed(step=0.5, epoch=3.0, compile=22.0, score=9.0) and len(checks) == 6


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ("", 7),
        ("--tune optimiser.lr optimiser.momentum", 5),
        ("--tune optimiser.lr perturb.max perturb.min", 3),
        ("--tune optimiser.lr perturb.max --candidates 9 --reach 4", 9),
    ],
)
def test_more_numbers_have_fewer_values_each(options: str, count: int, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    asked: list[Any] = []

    def candidates(spec: Any, *of: Any) -> None:
        asked.extend(of)
        raise RequestError("enough is known")

    monkeypatch.setattr(tune, "candidates", candidates)
    assert tune.main(["acc_dd", "digits", *options.split()]) == 2
    assert asked[1:] == [count, 4.0 if "reach" in options else 30.0]


def test_the_time_before_the_schedule_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 100 seconds, reading data, pretraining and measuring took 30."""
    clock = iter((1000.0, 1030.0))
    asked: list[Any] = []

    def scheduled(*of: Any) -> None:
        asked.extend(of)
        raise RequestError("enough is known")

    monkeypatch.setattr(tune, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(tune, "scheduled", scheduled)
    line = "dm digits --seconds 100 --repeats 2 --outer-steps 4 --inner-steps 3 --protocol.epochs 9 --workdir"
    assert tune.main([*line.split(), str(tmp_path)]) == 2
    assert asked == [7, 2, 12, 9, Speed(0.01, 0.01, 0.0, 0.0), 70.0]
