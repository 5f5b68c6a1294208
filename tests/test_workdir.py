"""Tests the folder of a run: it is locked, its files are always complete, and it resumes only with the same
configuration.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from distill_jax.axes.optimiser import SGD
from distill_jax.cli.session.atomic import read_json, replaced
from distill_jax.cli.session.resume import warn_other_rates
from distill_jax.cli.session.workdir import (
    CHECKPOINTS,
    CONFIG,
    MEMBERS,
    METRICS,
    POOL,
    RUN,
    Workdir,
    check_same,
    new_folder,
    open_workdir,
    refuse_used,
)
from distill_jax.spec import Spec
from distill_jax.types import RequestError


def test_only_one_process_holds_a_folder(tmp_path: Path) -> None:
    with open_workdir(tmp_path / "run"):
        with pytest.raises(RequestError, match="another process"), open_workdir(tmp_path / "run"):
            pass
        with open_workdir(tmp_path / "other"):
            pass
    with open_workdir(tmp_path / "run"):
        pass
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize("path", ["file", "file/under"])
def test_an_impossible_folder_is_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="--workdir"), open_workdir(tmp_path / path):
        pass


def test_a_folder_that_cannot_be_written_to_is_refused() -> None:
    with pytest.raises(RequestError, match="cannot"), open_workdir(Path("/proc/self")):
        pass


def test_a_file_is_replaced_completely_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replaced(path) as temporary:
        temporary.write_text("ne")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    with replaced(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_json_is_read_back(tmp_path: Path) -> None:
    workdir = Workdir(tmp_path)
    assert workdir.read(CONFIG) is None and read_json(tmp_path / CONFIG / "below") is None
    workdir.write(CONFIG, {"a": [1, None]})
    assert workdir.read(CONFIG) == {"a": [1, None]}
    (tmp_path / CONFIG).write_text('{"a": ')
    with pytest.raises(RequestError, match="--overwrite"):
        workdir.read(CONFIG)


def test_metrics_are_cut_back_to_a_step(tmp_path: Path) -> None:
    workdir = Workdir(tmp_path)
    workdir.truncate_log(0)
    for step in (3, 6, 9):
        workdir.log({"step": step})
    whole = (tmp_path / METRICS).read_text()
    workdir.truncate_log(9)
    assert (tmp_path / METRICS).read_text() == whole
    workdir.truncate_log(8)
    assert (tmp_path / METRICS).read_text() == '{"step": 3}\n{"step": 6}\n'
    for torn in ('{"st', '{"step": 9}'):
        (tmp_path / METRICS).write_text('{"step": 3}\n' + torn)
        workdir.truncate_log(9)
        assert (tmp_path / METRICS).read_text() == '{"step": 3}\n'


@pytest.mark.parametrize("name", RUN)
def test_a_folder_with_a_run_is_refused(tmp_path: Path, name: str) -> None:
    refuse_used(tmp_path / "nothing")
    refuse_used(tmp_path)
    (tmp_path / POOL).mkdir()
    refuse_used(tmp_path)
    (tmp_path / name).touch()
    with pytest.raises(RequestError, match="--resume.*--overwrite"):
        refuse_used(tmp_path)


def a_run_in(path: Path) -> None:
    """Make the files of a run, its checkpoints, its pool, and the members of an incomplete pool."""
    for name in RUN:
        (path / name).touch()
    (path / CONFIG).write_text('{"schema": 1}')
    (path / CHECKPOINTS).unlink()
    for name in (CHECKPOINTS, POOL, MEMBERS):
        (path / name / "0").mkdir(parents=True)
        (path / name / "0" / "file").touch()


def test_clearing_keeps_foreign_files(tmp_path: Path) -> None:
    a_run_in(tmp_path)
    (tmp_path / "mine").mkdir()
    Workdir(tmp_path).clear()
    assert {path.name for path in tmp_path.iterdir()} == {"mine"}


def test_a_separate_pool_is_kept(tmp_path: Path) -> None:
    """A pretrained pool is useful to the next run."""
    for name in (POOL, MEMBERS):
        (tmp_path / name / "0").mkdir(parents=True)
    Workdir(tmp_path).clear()
    assert (tmp_path / POOL / "0").exists() and (tmp_path / MEMBERS / "0").exists()


@pytest.mark.parametrize("name", [name for name in RUN if name != CONFIG])
def test_foreign_files_are_never_deleted(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(RequestError, match="was not made by a run"):
        Workdir(tmp_path).clear()
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize("folder", [CHECKPOINTS, POOL, MEMBERS])
def test_foreign_files_among_checkpoints_are_never_deleted(folder: str, tmp_path: Path) -> None:
    a_run_in(tmp_path)
    (tmp_path / folder / "thesis.pdf").touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(RequestError, match=folder):
        Workdir(tmp_path).clear()
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_path_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError, match="--workdir is empty"), open_workdir(Path("")):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_too_long_is_refused(tmp_path: Path) -> None:
    for use in (refuse_used, lambda path: open_workdir(path).__enter__()):
        with pytest.raises(RequestError, match="give another --workdir"):
            use(tmp_path / ("x" * 300))


def test_resuming_a_missing_run_suggests_a_similar_folder(tmp_path: Path, capsys) -> None:
    (tmp_path / "demo").mkdir()
    Workdir(tmp_path / "demo").write(CONFIG, {})
    with open_workdir(tmp_path / "dmo") as workdir:
        assert not workdir.begin({"versions": {}}, resume=True, overwrite=False)
    said = f"no run to resume in {tmp_path / 'dmo'}: starting a new one (did you mean {tmp_path / 'demo'}?)"
    assert capsys.readouterr().err == f"there is {said}\n"


@pytest.mark.parametrize("name", ["checkpoints", "points", "schedule.json"])
def test_work_of_an_unknown_configuration_is_not_resumed(name: str, tmp_path: Path) -> None:
    """``ablate`` and ``tune`` keep their figures in points, and would take those of another configuration."""
    (tmp_path / name).mkdir()
    with open_workdir(tmp_path) as workdir, pytest.raises(RequestError, match=f"has {name} but no config.json"):
        workdir.begin({"versions": {}}, resume=True, overwrite=False)


def test_checkpoints_without_a_configuration_are_not_resumed(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "4").mkdir(parents=True)
    with open_workdir(tmp_path) as workdir:
        with pytest.raises(RequestError, match="has checkpoints but no config.json"):
            workdir.begin({"versions": {}}, resume=True, overwrite=False)
        (tmp_path / CONFIG).write_text("")
        with pytest.raises(RequestError, match="--overwrite starts again"):
            workdir.begin({"versions": {}}, resume=True, overwrite=False)
        assert not workdir.begin({"versions": {}}, resume=False, overwrite=True)
        assert not (tmp_path / "checkpoints").exists()
        (tmp_path / "result.json").write_text("")
        with pytest.raises(RequestError, match="delete it, and --resume makes it again"):
            workdir.read("result.json")


def test_a_new_folder_is_new(tmp_path: Path) -> None:
    assert new_folder("run", tmp_path) == tmp_path / "run"
    (tmp_path / "run").mkdir()
    (tmp_path / "run-2").mkdir()
    assert new_folder("run", tmp_path) == tmp_path / "run-3"


BEFORE = {
    "seed": 0,
    "spec": {"ipc": 1, "outer_steps": 20, "models": {"choice": "EarlyStagePool", "size": 5}},
    "protocol": {"epochs": 300, "augment": {"strategy": "color"}},
    "repeats": 5,
    "data": {"shape": [8, 8, 1]},
}


@pytest.mark.parametrize(
    "path, value",
    [
        ("spec.outer_steps", 40),
        ("protocol.epochs", 1),
        ("protocol.augment.strategy", ""),
        ("repeats", 1),
        ("save_every", 3),
    ],
)
def test_length_and_scoring_may_change_on_resume(path: str, value: object) -> None:
    check_same(BEFORE, _with(path, value))
    check_same(BEFORE, _with("data.shape", (8, 8, 1)))


def test_the_same_images_may_have_another_path() -> None:
    runs = [{"dataset": name, "data": {"fingerprint": "1"}} for name in ("npz:a.npz", "npz:/there/a.npz")]
    check_same(*runs)
    check_same(*({"idc, ipc 1": run} for run in runs))
    check_same(runs[0], {**runs[1], "data": {"fingerprint": "1", "left_out": ["cat/broken.jpg"]}})
    for data in ({"fingerprint": "2"}, {}):
        with pytest.raises(RequestError, match="dataset was|data.fingerprint was"):
            check_same(runs[0], {**runs[1], "data": data})
    with pytest.raises(RequestError, match="dataset was"):
        check_same({"dataset": "digits"}, {"dataset": "mnist"})


@pytest.mark.parametrize(
    "path, value",
    [
        ("seed", 1),
        ("spec.ipc", 2),
        ("spec.models.size", 6),
        ("spec.models", None),
        ("data.shape", [8, 8, 3]),
        ("new", 1),
    ],
)
def test_other_changes_are_refused_by_field(path: str, value: object) -> None:
    with pytest.raises(RequestError, match=path.replace(".", r"\.")) as refused:
        check_same(BEFORE, _with(path, value))
    assert "\n" not in str(refused.value)
    with pytest.raises(RequestError, match=path.replace(".", r"\.")):
        check_same(_with(path, value), BEFORE)


@pytest.mark.parametrize(
    ("before", "now", "field"),
    [
        ({"choice": "HardLabels"}, {"choice": "SoftLabels"}, ""),
        ({"choice": "SoftLabels"}, {"choice": "HardLabels"}, ""),
        ({"choice": "LearnedLabels", "lr": 1.0}, {"choice": "LearnedLabels", "lr": 1.0}, ""),
        ({"choice": "LearnedLabels", "lr": 1.0}, {"choice": "LearnedLabels", "lr": 2.0}, "spec.labels.lr"),
        ({"choice": "HardLabels"}, {"choice": "LearnedLabels"}, "spec.labels.choice"),
        ({"choice": "mine:Labels", "lr": 1.0}, {"choice": "mine:Labels", "lr": 2.0}, "spec.labels.lr"),
    ],
)
def test_only_labels_of_finished_images_may_change_on_resume(before: dict, now: dict, field: str) -> None:
    """Learned labels are a part of every step, so another rate would make a set that no single command makes."""
    runs = [{**BEFORE, "spec": {"ipc": 1, "labels": labels}} for labels in (before, now)]
    if not field:
        return check_same(*runs)
    with pytest.raises(RequestError, match=field):
        check_same(*runs)


def _with(path: str, value: object) -> dict:
    changed = json.loads(json.dumps(BEFORE))
    *nodes, last = path.split(".")
    node = changed
    for name in nodes:
        node = node[name]
    node[last] = value
    return changed


def test_an_extended_run_says_that_its_rates_were_others(capsys: pytest.CaptureFixture[str]) -> None:
    """CAFE halves its rate after 6, 8 and 9 tenths of the run. The first 6 of 10 outer steps had the whole rate, which
    they also have in a run of 20."""
    spec = Spec(optimiser=SGD(halve_at=(0.6, 0.8, 0.9)), outer_steps=20, inner_steps=3)
    for before, taken, warned in ((10, 18, False), (10, 19, True), (20, 60, False), (30, 21, False), (30, 39, True)):
        warn_other_rates(spec, before, taken)
        said = f"learning rates of a run of {before} outer steps: the images will not be those of a run of 20 from"
        assert (said in capsys.readouterr().err) == warned
    warn_other_rates(replace(spec, optimiser=SGD()), 10, 30)
    assert not capsys.readouterr().err
