"""Tests what each of several hosts does, in one process that takes the place of one host after the other."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from distill_jax import hosts
from distill_jax.checkpoint import Checkpoints, save_pool
from distill_jax.cli import distill
from distill_jax.cli.output.display import Bar
from distill_jax.cli.process.interrupts import Interrupted, Interrupts
from distill_jax.cli.process.run_command import Broken, run_command
from distill_jax.cli.session import pool as pools
from distill_jax.cli.session import setup as setups
from distill_jax.cli.session.resume import resumable
from distill_jax.cli.session.workdir import MEMBERS, Workdir, open_workdir
from distill_jax.types import Model, RequestError

AS = Callable[[int], None]


@pytest.fixture
def as_host(monkeypatch: pytest.MonkeyPatch) -> AS:
    """Return a function that makes this process host 0 or 1 of two, whose messages go from host 0 to host 1."""
    sent: list[np.ndarray] = []
    place = 0

    def passed_on(message: np.ndarray) -> np.ndarray:
        if place == 0:
            sent.append(np.array(message))
            return message
        first = sent.pop(0)
        assert first.shape == message.shape and first.dtype == message.dtype, "hosts must agree on the size"
        return first

    def become(number: int) -> None:
        nonlocal place
        place = number
        monkeypatch.setattr(jax, "process_index", lambda: number)

    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(multihost_utils, "broadcast_one_to_all", passed_on)
    return become


@pytest.mark.parametrize("value", [None, "said", {"a": [1, 2]}, np.arange(2**19, dtype=np.int32), "x" * (2**20 - 30)])
def test_all_hosts_get_the_value_of_the_first(value: Any, as_host: AS) -> None:
    as_host(0)
    np.testing.assert_equal(hosts.broadcast(lambda: value), value)
    as_host(1)
    np.testing.assert_equal(hosts.broadcast(lambda: pytest.fail("only the first host decides")), value)


def test_an_error_of_the_first_host_is_raised_by_all_and_reported_once(as_host: AS, capsys) -> None:
    def refuse() -> None:
        raise RequestError("ipc is 0: give 1")

    for host, said in ((0, "error: ipc is 0: give 1\n"), (1, "")):
        as_host(host)
        assert run_command(lambda argv: hosts.broadcast(refuse), []) == 2
        assert capsys.readouterr().err == said


def test_a_value_that_is_an_error_is_not_raised(as_host: AS) -> None:
    for host in (0, 1):
        as_host(host)
        assert str(hosts.broadcast(lambda: ValueError("found"))) == "found"


def test_the_first_host_decides_alone(as_host: AS) -> None:
    """What it calls in the meantime must not wait for the other hosts, which are waiting for it."""
    as_host(0)
    assert hosts.is_multihost()
    assert not hosts.broadcast(lambda: hosts.is_multihost() or hosts.broadcast(hosts.is_multihost))
    assert hosts.is_multihost(), "afterwards it takes part again"
    with suppress(ZeroDivisionError):
        hosts.broadcast(lambda: 1 // 0)
    assert hosts.is_multihost(), "also after an error"


def test_a_signal_to_another_host_is_pending_here(as_host: AS, monkeypatch: pytest.MonkeyPatch) -> None:
    as_host(0)
    gathered: list[int] = []
    monkeypatch.setattr(
        multihost_utils, "process_allgather", lambda of: gathered.append(int(of)) or np.asarray([of, signal.SIGTERM])
    )
    with pytest.raises(Interrupted) as stopped:
        Interrupts().check()
    assert stopped.value.signum == signal.SIGTERM and gathered == [0]


def test_hosts_with_other_requests_are_refused_by_field(as_host: AS) -> None:
    def with_data(shape: tuple[int, ...], seed: int) -> Any:
        return SimpleNamespace(describe=lambda: {"seed": seed, "data": {"shape": shape}})

    for seed, said in ((0, ""), (1, "seed of this host is 1, and 0 on the first: start all hosts with")):
        as_host(0)
        setups.refuse_different(with_data((8, 8), 0))
        as_host(1)
        if not said:
            setups.refuse_different(with_data((8, 8), seed))
            continue
        with pytest.raises(RequestError, match=said):
            setups.refuse_different(with_data((8, 8), seed))


# ------------------------------------------------------------------ files and terminal


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this process the second host of a computation that has no others to wait for."""
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(jax, "process_index", lambda: 1)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: Workdir(path).write("config.json", {"schema": 1}),
        lambda path: Workdir(path).write_text("table.md", "table"),
        lambda path: Workdir(path).write_rows("table.csv", [["cell"]]),
        lambda path: Workdir(path).write_picture("grid.png", SimpleNamespace(savefig=lambda file, **_: file.touch())),
        lambda path: Workdir(path).log({"step": 1}),
        lambda path: Workdir(path).truncate_log(0),
        lambda path: Checkpoints(path / "checkpoints").save(1, {"w": np.ones(2)}),
        lambda path: save_pool(path / "pool", Model({"w": np.ones(2)}, {}), {}),
        lambda path: distill._save(Workdir(path), SimpleNamespace(save=lambda file: file.touch())),  # type: ignore
    ],
)
def test_only_the_first_host_writes(write: Callable[[Path], None], second: None, tmp_path: Path) -> None:
    write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_only_the_first_host_cuts_the_log(second: None, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    Workdir(tmp_path).truncate_log(0)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n'


def test_only_the_first_host_removes_the_members_of_a_complete_pool(
    second: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / MEMBERS / "0").mkdir(parents=True)
    monkeypatch.setattr(pools, "as_arrays", lambda spec: spec)
    monkeypatch.setattr(pools, "save_pool", lambda *_: None)
    monkeypatch.setattr(pools, "check_source", lambda *_: None)
    models = SimpleNamespace(pretrain=lambda *_: None)
    setup: Any = SimpleNamespace(
        spec=SimpleNamespace(models=models), describe_pool=dict, seed=0, resident=0, net=None,
        keys=SimpleNamespace(pool=None),
    )  # fmt: skip
    interrupts: Any = None
    data: Any = None
    pools.make_pool(setup, Workdir(tmp_path), data, interrupts)
    assert (tmp_path / MEMBERS / "0").exists()


def test_only_the_first_host_shows_progress_and_advice(second: None, tmp_path: Path, capsys) -> None:
    with Bar("distilling", 3) as bar:
        bar.update(3)
    with suppress(Interrupted), resumable("distill", ["dm", "digits"], tmp_path):
        raise Interrupted(signal.SIGTERM)

    def breaks(argv: list[str]) -> None:
        raise Broken("the loss is not finite")

    assert run_command(breaks, []) == 1
    said = capsys.readouterr()
    assert said.out == said.err == ""


def test_a_lock_belongs_to_the_first_host(as_host: AS, tmp_path: Path) -> None:
    """Its descriptor has a meaning only there: another host that closes it may close any of its own files."""
    as_host(0)
    with open_workdir(tmp_path):
        pass
    as_host(1)
    with (tmp_path / "log").open("w") as log, open_workdir(tmp_path) as workdir:
        assert workdir.path == tmp_path
        log.write("still open")
    assert (tmp_path / "log").read_text() == "still open"
