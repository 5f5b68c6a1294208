"""Tests runs on two hosts, which are two processes on this machine. They compute what two devices of one process
compute, and end together. Also tests that a run resumes on another number of devices.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from distill_jax import hosts
from distill_jax.cli.process import launch
from distill_jax.cli.process.run_command import run_command
from distill_jax.types import RequestError
from tests.integration.test_mesh import on
from tests.on_devices import run_tiny
from tests.tiny import QUICK, TINY, outcome, python

TIMEOUT = 10
"""seconds without an answer after which a host counts as lost"""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def pair(workdir: Path, *more: str) -> list[subprocess.Popen[str]]:
    """Start two hosts with one CPU device each on a run in ``workdir``."""
    among = ["--coordinator", f"127.0.0.1:{free_port()}", "--hosts", "2", "--host-timeout", str(TIMEOUT)]
    command = ["-m", "experiments.distill", *TINY, *QUICK, "--workdir", str(workdir), *among, *more]
    return [python(*command, "--host", i) for i in ("0", "1")]


def under_way(workdir: Path, *more: str) -> list[subprocess.Popen[str]]:
    """Start ``pair`` and return it when it has logged two blocks of steps."""
    processes, metrics = pair(workdir, *more), workdir / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (metrics.exists() and metrics.read_text().count("\n") >= 2):
        time.sleep(0.02)
    return processes


def ended(processes: list[subprocess.Popen[str]], seconds: float = 300) -> list[tuple[int, str, str]]:
    """Wait for the processes and return the exit code, standard output and standard error of each."""
    try:
        said = [process.communicate(timeout=seconds) for process in processes]
    finally:
        for process in processes:
            with process:  # closes its pipes
                process.kill()
    return [(process.returncode, *texts) for process, texts in zip(processes, said, strict=True)]


def finished(workdir: Path, *more: str) -> dict[str, Any]:
    (first, shown, errors), (second, silent, others) = ended(pair(workdir, *more))
    assert (first, second) == (0, 0), errors + others
    assert "accuracy" in shown and silent == ""
    return outcome(workdir)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the workdir of a run of one process with two devices."""
    path = tmp_path_factory.mktemp("hosts") / "alone"
    on(2, "distill", str(path), *QUICK)
    return path


def test_two_hosts_compute_what_two_devices_compute(alone: Path) -> None:
    """The bits are equal, because both run the same program on two devices, and a sum of two parts does not depend on
    their order.
    """
    assert finished(alone.parent / "pair") == outcome(alone)


@pytest.mark.parametrize("devices", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_a_run_resumes_on_another_number_of_devices(devices: int, alone: Path, tmp_path: Path) -> None:
    shutil.copytree(alone, tmp_path / "run")
    line = [str(tmp_path / "run"), *QUICK, "--resume", "--outer-steps", "5"]
    if devices == 1:
        assert run_tiny(*line) == 0
    else:
        on(devices, "distill", *line)
    assert len(outcome(tmp_path / "run")["metrics"]) == 5


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_host_ends_the_other_and_both_resume(lost: int, tmp_path: Path) -> None:
    longer = ["--outer-steps", "400"]
    whole = finished(tmp_path / "whole", *longer)
    processes = under_way(tmp_path / "killed", *longer)
    processes[lost].kill()
    began = time.monotonic()
    code, _, said = ended(processes)[1 - lost]
    assert time.monotonic() - began < TIMEOUT + 20
    assert code == 1 and said.splitlines()[-1] == launch.LOST, said
    assert not (tmp_path / "killed" / "result.json").exists()
    assert finished(tmp_path / "killed", *longer, "--resume") == whole


@pytest.mark.slow
def test_a_signal_to_one_host_ends_both_and_is_resumable(tmp_path: Path) -> None:
    longer = ["--outer-steps", "400"]
    whole = finished(tmp_path / "whole", *longer)
    processes = under_way(tmp_path / "stopped", *longer)
    processes[1].send_signal(signal.SIGTERM)
    (first, _, said), (second, _, others) = ended(processes)
    assert (first, second) == (143, 143), said + others
    assert "to resume: " in said and "to resume: " not in others
    on(1, "distill", str(tmp_path / "stopped"), *QUICK, "--outer-steps", "400", "--resume")
    assert outcome(tmp_path / "stopped")["metrics"][0] == whole["metrics"][0]


@pytest.mark.slow
def test_a_host_with_another_request_is_refused(tmp_path: Path) -> None:
    port, path = free_port(), tmp_path / "run"
    for_all = [*TINY, "--workdir", str(path), "--coordinator", f"127.0.0.1:{port}", "--hosts", "2"]
    (first, _, _), (second, _, said) = ended(
        [python("-m", "experiments.distill", *for_all, "--host", i, "--seed", i) for i in ("0", "1")]
    )
    assert first == 1 and second == 2
    assert said.splitlines()[-1].startswith("error: seed of this host is 1, and 0 on the first"), said


def test_the_place_of_a_host() -> None:
    words = ["acc_dd", "digits", "--coordinator", "node0:1234", "--hosts", "4", "--host=3"]
    assert launch.requested_hosts(words, {}) == launch.Launch("node0:1234", 4, 3)
    assert launch.requested_hosts(["acc_dd", "digits"], {"RANK": "1"}) is None
    assert launch.requested_hosts(["--hosts", "auto", "--host_timeout", "90"], {}) == launch.Launch(timeout=90)
    torchrun = {"MASTER_ADDR": "a", "MASTER_PORT": "29500", "WORLD_SIZE": "16", "RANK": "9"}
    assert launch.requested_hosts(["--hosts", "auto"], torchrun) == launch.Launch("a:29501", 16, 9)
    several = {**torchrun, "LOCAL_WORLD_SIZE": "8", "LOCAL_RANK": "1"}
    assert launch.requested_hosts(["--hosts", "auto"], several) == launch.Launch("a:29501", 16, 9, [1])


@pytest.mark.parametrize(
    "words, said",
    [
        ("--hosts 2", "several hosts need --coordinator HOST:PORT --hosts N --host I, or --hosts auto"),
        ("--coordinator a:1 --host 0", "several hosts need"),
        ("--coordinator a:1 --hosts 2 --host 2", "host is 2: number the 2 hosts from 0 to 1"),
        ("--coordinator a --hosts 2 --host 1", "coordinator is 'a': give HOST:PORT"),
        ("--hosts auto --host 1", "--hosts auto finds --coordinator and --host itself"),
        ("--hosts two", "hosts is 'two': it must be a whole number, at least 1"),
        ("--coordinator a:1 --hosts 2 --host 1 --host-timeout 0", "host-timeout is '0'"),
    ],
)
def test_refused(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RequestError, match=said.replace("(", r"\(")):
        launch.requested_hosts(words.split(), {})
    assert run_command(lambda argv: None, words.split(), together=True) == 2
    assert capsys.readouterr().err.startswith(f"error: {said}")


def test_a_single_host_does_not_communicate() -> None:
    assert not hosts.is_multihost() and hosts.is_first()
    assert hosts.maximum(3) == 3 and hosts.broadcast(lambda: "said") == "said"
    with pytest.raises(RequestError):
        hosts.broadcast(lambda: launch.requested_hosts(["--hosts", "0"]))
