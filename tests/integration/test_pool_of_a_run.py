"""Tests where a run gets its pool from: its own folder, --pool, or pretraining."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from distill_jax.checkpoint import load_pool, save_pool
from distill_jax.cli import distill, pretrain
from distill_jax.cli.process.clock import Clock
from distill_jax.cli.session import pool as pools
from distill_jax.cli.session.atomic import write_json
from distill_jax.cli.session.pool import KeptMembers, given_pool, make_pool, pool_for, pool_of_run, pool_path
from distill_jax.cli.session.workdir import CONFIG, POOL, Workdir
from distill_jax.types import Model, RequestError
from tests.tiny import TINY

ABOUT = {"net": {"choice": "ConvNet", "width": 4}, "data": "crc32 1"}
NOTHING: Any = None


def of(value: float) -> Model:
    return Model({"w": np.full(2, value, np.float32)}, {})


def weight(model: Model) -> float:
    return float(np.asarray(model.params["w"])[0])


def setup(**changes: Any) -> Any:
    return SimpleNamespace(
        method="acc_dd", seed=0, resident=0, spec=SimpleNamespace(models=SimpleNamespace(size=1)),
        describe_pool=lambda: {**ABOUT, **changes},
    )  # fmt: skip


def half_saved(workdir: Path) -> None:
    """Make the folder that a process leaves if it is killed while it saves the pool."""
    (workdir / POOL / "0.orbax-checkpoint-tmp" / "arrays").mkdir(parents=True)


def test_the_pool_of_the_folder_comes_first(tmp_path: Path) -> None:
    save_pool(tmp_path / POOL, of(1.0), ABOUT)
    assert weight(pool_for(setup(), Workdir(tmp_path), NOTHING, of(2.0), NOTHING)) == 1.0
    with pytest.raises(RequestError, match="net.width is 4, not 8"):
        pool_for(setup(net={"width": 8}), Workdir(tmp_path), NOTHING, None, NOTHING)


def test_a_given_pool_becomes_that_of_the_folder(tmp_path: Path) -> None:
    assert weight(pool_for(setup(), Workdir(tmp_path), NOTHING, of(2.0), NOTHING)) == 2.0
    found, about = load_pool(tmp_path / POOL)
    assert weight(found) == 2.0 and about == ABOUT


def test_a_pool_that_a_kill_left_incomplete_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def made(setup: Any, workdir: Workdir, *_: object) -> None:
        save_pool(workdir.path / POOL, of(3.0), ABOUT)

    monkeypatch.setattr(pools, "make_pool", made)
    for name, given, expected in (("given", of(2.0), 2.0), ("trained", None, 3.0)):
        half_saved(tmp_path / name)
        assert weight(pool_for(setup(), Workdir(tmp_path / name), NOTHING, given, NOTHING)) == expected


def test_a_resumed_run_reads_the_given_pool_until_it_has_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distill, "given_pool", lambda setup, path: path)
    line = [*TINY, "--workdir", str(tmp_path), "--resume", "--pool", "elsewhere"]
    write_json(tmp_path / CONFIG, {"schema": 1, "pool": "elsewhere"})
    half_saved(tmp_path)
    assert distill.resolve_request(line).pool == Path("elsewhere")
    save_pool(tmp_path / POOL, of(1.0), ABOUT)
    request = distill.resolve_request(line[:-2])
    assert request.pool is None and request.options.pool == Path("elsewhere")


@pytest.mark.parametrize("config", [{"pool": "elsewhere"}, {"runs": {"pool": "elsewhere"}}])
def test_a_run_that_is_resumed_without_pool_remembers_it(config: dict, tmp_path: Path) -> None:
    write_json(tmp_path / CONFIG, {"schema": 1, **config})
    for pool, resume, expected in ((None, True, "elsewhere"), (Path("new"), True, "new"), (None, False, None)):
        found = pool_of_run(SimpleNamespace(pool=pool, resume=resume), tmp_path)
        assert found == (expected and Path(expected))
    assert pool_of_run(SimpleNamespace(pool=None, resume=True), tmp_path / "new") is None


def test_pretraining_that_was_killed_while_saving_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = []
    monkeypatch.setattr(pretrain, "make_pool", lambda *_: ran.append(1))
    half_saved(tmp_path)
    assert pretrain.main([*TINY[:10], "--workdir", str(tmp_path), "--resume"]) == 0
    assert ran == [1], capsys.readouterr().err


def test_a_pool_is_given_by_its_folder_or_its_workdir(tmp_path: Path) -> None:
    save_pool(tmp_path / POOL, of(1.0), ABOUT)
    assert pool_path(tmp_path) == pool_path(tmp_path / POOL) == tmp_path / POOL
    assert weight(given_pool(setup(), tmp_path)) == 1.0 and given_pool(setup(), None) is None


def test_members_of_another_run_are_not_kept(tmp_path: Path) -> None:
    kept = KeptMembers(tmp_path, {"seed": 0, **ABOUT}, Clock())
    assert kept.get(0, of(0.0)) is None
    kept.put(0, of(5.0))
    found = kept.get(0, of(0.0))
    assert found is not None and weight(found) == 5.0 and kept.get(1, of(0.0)) is None
    assert KeptMembers(tmp_path, {"seed": 1, **ABOUT}, Clock()).get(0, of(0.0)) is None


def test_the_time_of_kept_members_counts_in_a_resumed_process(tmp_path: Path) -> None:
    first, second = Clock(), Clock()
    first.seconds |= {"pretrain": 500.0, "compile": 100.0}
    KeptMembers(tmp_path, ABOUT, first).put(0, of(1.0))
    first.seconds |= {"pretrain": 900.0}
    KeptMembers(tmp_path, ABOUT, first).put(1, of(2.0))
    for member in (0, 1):
        KeptMembers(tmp_path, ABOUT, second).get(member, of(0.0))
    assert 900 <= second.seconds["pretrain"] < 901 and 100 <= second.seconds["compile"] < 101


def test_members_belong_to_a_seed_and_its_portions_and_go_when_the_pool_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pool for --pool may have any seed, but unfinished members are only continued with the same one."""
    stores: list[KeptMembers] = []

    def pretrained(net: Any, data: Any, key: Any, tick: Any, store: KeptMembers) -> Model:
        tick(1, 2)
        store.put(0, of(4.0))
        stores.append(store)
        return of(4.0)

    checked: list[int] = []
    interrupts: Any = SimpleNamespace(check=lambda: checked.append(1))
    one = setup()
    one.seed, one.resident, one.net, one.keys = 3, 16, None, SimpleNamespace(pool=None)
    one.spec.models.pretrain = pretrained
    monkeypatch.setattr(pools, "as_arrays", lambda spec: spec)
    monkeypatch.setattr(pools, "check_source", lambda *_: None)
    make_pool(one, Workdir(tmp_path), NOTHING, interrupts)
    assert stores[0].about == {**ABOUT, "seed": 3, "resident_images": 16} and checked == [1]
    assert [path.name for path in tmp_path.iterdir()] == [POOL]
