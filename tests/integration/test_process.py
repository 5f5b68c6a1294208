"""Tests the process of a command: exit codes, signals, the version, advice in errors, and its clock."""

import errno
import os
import re
import signal
import subprocess
import time
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

import distill_jax
from benchmarks import benchmark
from benchmarks.benchmark import Benchmark
from distill_jax.cli import distill, evaluate, reproduce
from distill_jax.cli.main import main
from distill_jax.cli.process import backend, clock
from distill_jax.cli.process.interrupts import Interrupted, Interrupts
from distill_jax.cli.process.run_command import LESS_MEMORY, Broken, run_command
from distill_jax.spec import Spec
from distill_jax.types import RequestError
from tests.tiny import python


@pytest.mark.parametrize(
    "error, code, message",
    [
        (RequestError("ipc is 0: give 1"), 2, "error: ipc is 0: give 1\n"),
        (Broken("the loss is not finite"), 1, "error: the loss is not finite\n"),
        (Interrupted(signal.SIGTERM), 143, ""),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "runs/x"),
            1,
            "error: no space left in runs/x (No space left on device): free some space; finished work is kept, and "
            "--resume continues a run\n",
        ),
        (
            OSError(errno.ENAMETOOLONG, "File name too long", "xxx"),
            2,
            "error: cannot use xxx (File name too long): give another path\n",
        ),
        (MemoryError("no room"), 1, f"error: out of memory (no room): try {LESS_MEMORY}\n"),
    ],
)
def test_exit_codes(error: BaseException, code: int, message: str, capsys) -> None:
    def run(argv: list[str]) -> None:
        raise error

    assert run_command(run, []) == code
    assert capsys.readouterr().err == message


@pytest.mark.parametrize(
    "runner, options",
    [(distill, distill.Distill), (evaluate, evaluate.Evaluate), (reproduce, distill.Distill), (benchmark, Benchmark)],
)
def test_advice_for_insufficient_memory_names_options_of_the_command(runner, options) -> None:
    advice = runner.main.keywords.get("less_memory", LESS_MEMORY)
    known = {field.name for kind in (options, Spec, getattr(runner, "Reproduce", Spec)) for field in fields(kind)}
    assert {name.replace("-", "_") for name in re.findall(r"--([a-z-]+)", advice)} <= known - {"ipc"}
    assert "--" in advice


def test_devices_that_no_machine_has_are_refused(capsys) -> None:
    assert run_command(lambda argv: None, ["--devices", "99999999"]) == 2
    assert "devices is 99999999" in capsys.readouterr().err


def test_every_command_prints_the_version(capsys) -> None:
    for runner, line in ((main, []), (main, ["distill"]), (benchmark.main, [])):
        assert runner([*line, "--version"]) == 0
        assert capsys.readouterr().out == f"distill_jax {distill_jax.__version__}\n"


def test_an_interrupt_before_anything_can_be_saved_ends_the_process_at_once() -> None:
    """An import might swallow an exception, so the handler raises none."""
    code = """
import time
from distill_jax.cli.main import stoppable
with stoppable():
    print("ready", flush=True)
    try:
        time.sleep(60)
    except BaseException:
        time.sleep(60)
"""
    process = python("-c", code)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert (process.communicate(timeout=30)[1], process.returncode) == ("interrupted\n", 130)


def test_unexpected_errors_keep_their_traceback() -> None:
    def run(argv: list[str]) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_command(run, [])


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_recorded_until_it_is_polled(signum: signal.Signals) -> None:
    before = signal.getsignal(signum)
    with Interrupts() as interrupts:
        interrupts.check()
        os.kill(os.getpid(), signum)
        deadline = time.monotonic() + 30
        while interrupts.signum is None and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(Interrupted) as stopped:
            interrupts.check()
    assert stopped.value.signum == signum
    assert signal.getsignal(signum) is before


def test_a_result_names_its_commit() -> None:
    found = clock.environment()["commit"]
    assert (found is not None) == (Path(clock.__file__).parents[3] / ".git").exists()


def test_phases_are_disjoint_and_compilation_is_counted_once() -> None:
    began, timed = time.perf_counter(), clock.Clock()
    jax.jit(lambda x: jax.jit(jnp.sin)(x) + 1)(jnp.ones(3)).block_until_ready()
    timed.spent("distill")
    time.sleep(0.05)
    timed.spent("evaluate")
    time.sleep(0.05)
    timed.spent(None)
    took = time.perf_counter() - began
    assert timed.seconds["compile"] > 0 and timed.seconds["evaluate"] >= 0.05 and timed.seconds["baselines"] == 0
    assert sum(timed.seconds.values()) <= took - 0.05
    timed.add({"distill": 100.0})
    assert timed.rounded()["distill"] >= 100


def ends_with(error: BaseException) -> int:
    def run(argv: list[str]) -> None:
        raise error

    return run_command(run, [])


def test_only_a_full_device_is_called_insufficient_memory(capsys) -> None:
    full = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes.\nin this:")
    assert ends_with(full) == 1
    said = "error: out of memory (RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes.): try --class"
    assert capsys.readouterr().err.startswith(said)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        ends_with(jax.errors.JaxRuntimeError("INTERNAL: a defect"))


def test_errors_of_files_that_no_user_can_mend_keep_their_traceback() -> None:
    for number in (errno.EIO, errno.ENOENT):
        with pytest.raises(OSError, match="it"):
            ends_with(OSError(number, "it", "file"))
    for number, code in ((errno.EDQUOT, 1), (errno.EFBIG, 1), (errno.EACCES, 2), (errno.EROFS, 2), (errno.ELOOP, 2)):
        assert ends_with(OSError(number, "it", "file")) == code


def test_help_succeeds_and_a_command_line_that_is_wrong_does_not() -> None:
    assert [ends_with(SystemExit(code)) for code in (0, 2, None)] == [0, 2, 0]


def test_compiled_programs_are_kept_in_the_folder_of_the_user_unless_there_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed: dict[str, object] = {}
    values: dict[str, object] = {"jax_compilation_cache_dir": None}
    monkeypatch.setattr(backend.jax, "config", SimpleNamespace(values=values, update=changed.__setitem__))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    backend.keep_compiled_programs()
    assert changed == {
        "jax_compilation_cache_dir": str(tmp_path / "distill_jax"),
        "jax_persistent_cache_min_compile_time_secs": 0,
    }
    changed.clear()
    values["jax_compilation_cache_dir"] = "mine"
    backend.keep_compiled_programs()
    assert not changed


def test_flags_of_the_user_are_kept_and_none_is_given_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--mine")
    monkeypatch.setattr(backend.metadata, "version", lambda name: "0.10.2")
    for _ in range(2):
        backend.compile_faster()
        assert os.environ["XLA_FLAGS"] == "--mine --xla_cpu_use_fusion_emitters=false"
    backend.deterministic_operations()
    assert os.environ["XLA_FLAGS"].endswith("=false --xla_gpu_deterministic_ops=true")
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setattr(backend.metadata, "version", lambda name: "0.11.0")
    backend.compile_faster()
    assert os.environ["XLA_FLAGS"] == "", "XLA ends the process on a flag that it does not know"


def test_a_commit_is_marked_if_files_have_changed(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        about = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        subprocess.run(["git", "-C", str(tmp_path), *about, *words], check=True, capture_output=True)

    assert clock._commit(tmp_path) is None
    git("init")
    assert clock._commit(tmp_path) is None, "there is no commit yet"
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-m", "first")
    git("tag", "-a", "v1", "-m", "v1")
    clean = clock._commit(tmp_path)
    assert clean is not None and re.fullmatch("[0-9a-f]{40}", clean), "a tag must not hide the hash"
    (tmp_path / "file").write_text("2")
    assert clock._commit(tmp_path) == f"{clean}-dirty"
