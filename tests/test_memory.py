"""Tests the memory check: the parts that it adds up, the free memory, and its messages."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import pytest

from distill_jax.cli import distill
from distill_jax.cli.cost import memory
from distill_jax.cli.request import arguments
from distill_jax.cli.session import setup
from tests.test_data import refused


def request(*words: str) -> Any:
    return arguments.request(["acc_dd", "digits", "--models.size", "2", *words], distill.Distill)


def test_resident_arrays_are_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    made = setup.set_up(request())
    parts = {part.name: part.bytes for part in memory.resident_parts(made.spec, made.data)}
    assert parts["real images"] == sum(leaf.nbytes for leaf in jax.tree.leaves(made.real_data()))
    assert parts["pool"] > 2 * 4 * 64 and parts["synthetic images and state"] > 10 * 64 * 4
    assert memory.available() is not None
    # float32 images of the batches of the classes that a step takes at once
    batch = made.spec.class_chunk * made.spec.selector.batch * 8 * 8
    assert parts["a step's real images"] == 4 * batch
    # With 50 images of a class at a time. Tracing the pool again would take seconds.
    monkeypatch.setattr(memory, "shapes", lambda spec, data: (SimpleNamespace(spec=made.spec, data=data, pool=()), ()))
    some = memory.resident_parts(made.spec, made.data, 50)[0].bytes
    assert parts["real images"] > 2 * some > 2 * 10 * 50 * 8 * 8
    assert memory.resident_parts(made.spec, made.data, 0)[0].bytes == parts["real images"], "0: all"


def test_the_memory_of_a_device_is_what_is_not_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    for stats, there in (({"bytes_limit": 100, "bytes_in_use": 30}, 70), ({"bytes_limit": 100}, 100)):
        monkeypatch.setattr(jax, "local_devices", lambda stats=stats: [SimpleNamespace(memory_stats=lambda: stats)])
        assert memory.available() == there


@pytest.mark.parametrize(
    ("words", "knob"),
    [
        (["--net.width", "4"], "--side"),
        (["--net.width", "64", "--models.size", "50"], "--models.size"),
        (["--net.width", "4", "--selector.batch", "5000", "--class-chunk", "10"], "--class-chunk"),
    ],
)
def test_a_run_that_does_not_fit_is_refused(words: list[str], knob: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = request(*words)
    monkeypatch.setattr(memory, "available", lambda: 10_000)
    refused(f"real images .* pool .* do not fit in the 9.8 KiB of free memory: give .*{knob}", setup.set_up, asked)


def test_memory_is_mentioned_from_half_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made = setup.set_up(request())
    needed = sum(part.bytes for part in memory.resident_parts(made.spec, made.data))
    assert made.memory == "" and "\n" not in made.title
    for there, line in ((int(1.9 * needed), "53 % of"), (int(2.1 * needed), ""), (None, "")):
        monkeypatch.setattr(memory, "available", lambda there=there: there)
        title = setup.set_up(request()).title
        assert (line in title) and ("memory: real images" in title) == bool(line)


def test_a_choice_that_cannot_be_traced_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    def untraceable(*_: object) -> None:
        raise TypeError

    monkeypatch.setattr(memory, "resident_parts", untraceable)
    assert setup.set_up(request()).memory == ""


@pytest.mark.parametrize(
    ("groups", "files", "there"),
    [
        ("0::/a/b\n", {"a/b/memory.max": "max", "a/memory.max": "5000", "a/memory.current": "3000"}, 2000),
        ("0::/a\n", {"a/memory.max": "5000", "a/memory.current": "3000", "a/memory.stat": "inactive_file 500"}, 2500),
        ("0::/seen/by/the/host\n", {"memory.max": "7000"}, 7000),
        (
            "3:cpu:/a\n4:memory:/a\n0::/\n",
            {
                "memory/a/memory.limit_in_bytes": "6000",
                "memory/a/memory.usage_in_bytes": "3000",
                "memory/a/memory.stat": "active_file 1\ntotal_active_file 400\ntotal_inactive_file 600\n",
                "memory/memory.limit_in_bytes": "9223372036854771712",
            },
            4000,
        ),
        ("0::/a\n", {"a/memory.max": "20000"}, 10240),  # more than the machine has
        ("", {}, 10240),
    ],
)
def test_the_limit_of_a_control_group_counts(
    groups: str, files: dict[str, str], there: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = {"proc/self/cgroup": groups, "proc/meminfo": "MemTotal: 99 kB\nMemAvailable:     10 kB\n"}
    for name, text in {**everything, **{f"sys/fs/cgroup/{name}": text for name, text in files.items()}}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(memory, "ROOT", tmp_path)
    assert memory.available() == there


def test_unknown_memory_is_not_mentioned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "ROOT", tmp_path)
    assert memory.available() is None
