"""Tests how a host joins the others, and the process that waits for its worker."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from distill_jax.cli.process import launch
from distill_jax.types import RequestError


@pytest.fixture
def restored() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("ended", "code", "said"),
    [
        (0, 0, ""),
        (2, 2, ""),
        (143, 143, ""),
        (-signal.SIGTERM, 143, ""),
        (-signal.SIGINT, 130, ""),
        (-signal.SIGABRT, 1, f"{launch.LOST}\n"),  # jax's coordination service ends so if a host is lost
        (-signal.SIGKILL, 1, "error: SIGKILL ended the process of this host\n"),
    ],
)
def test_the_exit_code_of_a_host_is_that_of_its_worker(
    ended: int, code: int, said: str, restored: None, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    started: list[tuple[list[str], dict[str, str]]] = []
    forwarded: list[int] = []

    def start(command: list[str], env: dict[str, str], start_new_session: bool) -> Any:
        started.append((command, env))
        assert start_new_session, "or a Ctrl-C would reach the worker twice, and end it at once"

        def wait() -> int:
            signal.raise_signal(signal.SIGTERM)
            return ended

        return SimpleNamespace(wait=wait, send_signal=forwarded.append)

    monkeypatch.setattr(launch.subprocess, "Popen", start)
    assert launch.supervise("distill_jax.cli.distill", ["dm", "digits"]) == code
    ((command, env),) = started
    assert command[-2:] == ["dm", "digits"] and "from distill_jax.cli.distill import main" in command[2]
    assert env[launch.WORKER].isdecimal() and forwarded == [signal.SIGTERM]
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("Gloo all-reduce failed: connection closed"), launch.LOST),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero"),
    ],
)
def test_a_worker_that_loses_another_host_says_so(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    class Left(BaseException):
        pass

    codes: list[int] = []

    def leave(code: int) -> None:
        codes.append(code)
        raise Left

    def run(join: Callable[[], None]) -> int:
        raise error

    monkeypatch.setattr(launch.os, "_exit", leave)
    with pytest.raises(Left):
        launch.work(launch.Launch(), run)
    assert codes == [1] and capsys.readouterr().err.strip().splitlines()[-1] == said


def joined(monkeypatch: pytest.MonkeyPatch, place: int, devices: int, error: Exception | None = None) -> list[Any]:
    """Join as host ``place`` of two with two devices each, of ``devices`` in all, and return what jax was told."""
    told: list[Any] = []

    def initialize(*words: Any, **more: Any) -> None:
        told.extend((words, more))
        if error is not None:
            raise error

    of_jax = SimpleNamespace(
        config=SimpleNamespace(update=lambda *of: told.append(of)),
        distributed=SimpleNamespace(initialize=initialize),
        device_count=lambda: devices, local_device_count=lambda: 2,
        process_count=lambda: 2, process_index=lambda: place,
    )  # fmt: skip
    monkeypatch.setattr(launch, "jax", of_jax)
    monkeypatch.setattr(launch.os, "dup2", lambda *_: told.append("silent"))
    launch.join(launch.Launch("node0:1234", 2, place, None, 45))
    return told


def test_hosts_join_where_they_are_told_and_only_the_first_prints(monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    for place in (0, 1):
        told = joined(monkeypatch, place, 4)
        assert ("jax_cpu_collectives_implementation", "gloo") in told
        assert ("jax_enable_preemption_service", False) in told, "or jax would take the signal that saves a run"
        assert told[2] == ("node0:1234", 2, place, None) and told[3]["heartbeat_timeout_seconds"] == 45
        assert ("silent" in told) == (place == 1)
    assert "waiting up to 300 s for all hosts at node0:1234" in capfd.readouterr().err


def test_hosts_that_cannot_work_together_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match="this host has 2 of 5 devices: give all hosts the same number"):
        joined(monkeypatch, 0, 5)
    with pytest.raises(RequestError, match=r"--hosts auto finds no launcher \(none\): start it with SLURM"):
        joined(monkeypatch, 0, 4, ValueError("none"))


@pytest.mark.parametrize(
    ("name", "value"), [("LOCAL_RANK", None), ("LOCAL_WORLD_SIZE", "two"), ("RANK", "-1"), ("MASTER_PORT", "")]
)
def test_damaged_variables_of_a_launcher_are_named(name: str, value: str | None) -> None:
    variables = {"MASTER_ADDR": "a", "MASTER_PORT": "1", "WORLD_SIZE": "4", "RANK": "2"}
    variables |= {"LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "0"}
    variables = {of: value if of == name else was for of, was in variables.items() if of != name or value is not None}
    with pytest.raises(RequestError, match=f"{name} is '{value or ''}': it must be a whole number"):
        launch.requested_hosts(["--hosts", "auto"], variables)  # type: ignore[arg-type]
