"""Tests checkpoints and pools: bit-exact round trips, all kinds of damage, and a killed process."""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from distill_jax import checkpoint
from distill_jax.checkpoint import Checkpoints, Restored, check_pool, load_pool, save_pool
from distill_jax.types import Model, PyTree, RequestError


class State(NamedTuple):
    """A state with fields out of alphabetical order, as in real states."""

    step: jax.Array
    images: jax.Array
    optimiser: optax.OptState
    models: Model
    rate: jax.Array | None = None


def state(seed: int = 0) -> State:
    rng = np.random.default_rng(seed)
    images = jnp.asarray(rng.normal(size=(2, 1, 4, 4, 1)), jnp.float32)
    params = {
        "conv": {"kernel": jnp.asarray(rng.normal(size=(3, 3, 1, 4)), jnp.bfloat16), "bias": jnp.full(4, jnp.nan)},
        "mask": jnp.asarray([True, False]),
        "none": jnp.zeros((0, 3)),
        "bytes": jnp.asarray(rng.integers(0, 256, 3), jnp.uint8),  # the arrays after it are not aligned
        "key": jnp.asarray(rng.integers(0, 2**32, 2), jnp.uint32),
    }
    return State(jnp.int32(seed), images, optax.adam(0.1).init(images), Model(params, {}))


def bits(tree: PyTree) -> list[tuple[str, tuple[int, ...], bytes]]:
    return [(str(x.dtype), x.shape, np.asarray(x).tobytes()) for x in jax.tree.leaves(tree)]


def same(a: PyTree, b: PyTree) -> bool:
    return jax.tree.structure(a) == jax.tree.structure(b) and bits(a) == bits(b)


def not_none(restored: Restored | None) -> Restored:
    assert restored is not None
    return restored


def test_round_trip_is_bit_exact(tmp_path: Path) -> None:
    saved, runs = state(7), Checkpoints(tmp_path / "checkpoints")
    assert runs.restore(saved) is None and runs.steps() == ()
    runs.save(7, saved, {"seed": 3, "pair": (1, 2.5), "nothing": None})
    for like in (saved, jax.eval_shape(lambda: saved)):
        step, restored, about, skipped = not_none(runs.restore(like))
        assert (step, skipped, about) == (7, (), {"seed": 3, "pair": [1, 2.5], "nothing": None})
        assert same(saved, restored)
    as_dicts = not_none(runs.restore()).state
    assert as_dicts["models"]["params"]["conv"]["kernel"].dtype == jnp.bfloat16
    assert sorted(bits(as_dicts)) == sorted(bits(saved))


def test_restored_arrays_can_be_donated(tmp_path: Path) -> None:
    runs = Checkpoints(tmp_path)
    runs.save(0, {"a": jnp.arange(64.0), "b": jnp.arange(64.0)})
    restored = not_none(runs.restore({"a": jnp.zeros(64), "b": jnp.zeros(64)})).state
    moved = jax.jit(lambda tree: {"a": tree["a"] + 1, "b": tree["b"]}, donate_argnums=0)(restored)
    np.testing.assert_array_equal(moved["a"], np.arange(1, 65))
    np.testing.assert_array_equal(moved["b"], np.arange(64))


def test_large_states_are_stored_in_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "CHUNK_BYTES", 100)
    runs = Checkpoints(tmp_path)
    runs.save(0, state())
    assert len(list((tmp_path / "0" / "arrays" / "checkpoint").iterdir())) > 3
    assert same(not_none(runs.restore(state())).state, state())


def test_like_decides_where_leaves_go(tmp_path: Path) -> None:
    runs = Checkpoints(tmp_path)
    runs.save(0, {"x": jnp.arange(4.0)})
    place = jax.sharding.NamedSharding(jax.make_mesh((1,), ("class",)), jax.sharding.PartitionSpec("class"))
    like = {"x": jax.ShapeDtypeStruct((4,), jnp.float32, sharding=place)}
    assert not_none(runs.restore(like)).state["x"].sharding == place


def test_keeps_the_last_two_and_drops_later_ones(tmp_path: Path) -> None:
    runs = Checkpoints(tmp_path)
    for step in (1, 2, 10):
        runs.save(step, state(step))
    assert runs.steps() == (10, 2)
    runs.save(2, state(5))
    assert runs.steps() == (2,)
    assert same(not_none(runs.restore(state())).state, state(5))
    with pytest.raises(RequestError, match="at least 1"):
        Checkpoints(tmp_path, keep=0)


def test_a_full_disk_raises_oserror_and_keeps_older_checkpoints(tmp_path: Path) -> None:
    """Tensorstore raises a ValueError for a full disk. A limit on the file size simulates one."""
    runs = Checkpoints(tmp_path)
    runs.save(1, state(1))
    large = state(2)._replace(images=jax.random.normal(jax.random.key(0), (2, 50, 16, 16, 1)))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(OSError) as full:
            runs.save(2, large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert full.value.errno == errno.EFBIG and full.value.filename == str(tmp_path)
    assert runs.steps() == (1,) and same(not_none(runs.restore(state())).state, state(1))


def test_another_configuration_is_refused_by_name(tmp_path: Path) -> None:
    runs, saved = Checkpoints(tmp_path), state()
    runs.save(0, saved)
    for other, message in (
        (saved._replace(images=jnp.zeros((3, 1, 4, 4, 1))), r"images is float32\[2, 1, 4, 4, 1\] there and .*\[3, 1"),
        (saved._replace(step=jnp.uint32(0)), r"step is int32\[\] there and uint32\[\] here"),
        (saved._replace(rate=jnp.float32(0)), r"rate is missing there and float32\[\] here"),
        (saved._replace(models=Model({}, {})), r"models/params/bytes is uint8\[3\] there and missing here"),
    ):
        with pytest.raises(RequestError, match=message):
            runs.restore(other)


def _empty(data: bytes) -> bytes:
    return b""


def _half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _garbled(data: bytes) -> bytes:
    rng, garbled = random.Random(0), bytearray(data)
    for _ in range(max(1, len(data) // 20)):
        garbled[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(garbled)


def _one_bit(data: bytes) -> bytes:
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 0x10
    return bytes(flipped)


def test_damage_to_any_file_falls_back(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """For damage to any file of the newest checkpoint, its bits or the bits of the previous checkpoint come back."""
    whole, old, new = Checkpoints(tmp_path / "whole"), state(1), state(2)
    whole.save(1, old, {"n": 1})
    whole.save(2, new, {"n": 2})
    fell_back = set()
    for file in [p.relative_to(whole.directory) for p in (whole.directory / "2").rglob("*") if p.is_file()]:
        for damage in (None, _empty, _half, _garbled, _one_bit):
            damaged = Checkpoints(tmp_path / "damaged")
            shutil.copytree(whole.directory, damaged.directory)
            path = damaged.directory / file
            path.write_bytes(damage(path.read_bytes())) if damage else path.unlink()
            step, restored, about, skipped = not_none(damaged.restore(new))
            if skipped:
                fell_back.add(file.name)
                assert (step, skipped, about) == (1, (2,), {"n": 1}) and same(restored, old)
            else:
                assert (step, about) == (2, {"n": 2}) and same(restored, new)
            shutil.rmtree(damaged.directory)
    assert {"metadata", "0", ".zarray"} <= fell_back  # header, bytes and shape
    assert capfd.readouterr() == ("", "")


def test_after_falling_back_the_run_saves_again(tmp_path: Path) -> None:
    runs = Checkpoints(tmp_path)
    runs.save(1, state(1))
    runs.save(2, state(2))
    (tmp_path / "2" / "header" / "metadata").write_text("{}")
    assert not_none(runs.restore(state())).skipped == (2,)
    runs.save(2, state(2))
    assert not_none(runs.restore(state()))[0] == 2 and runs.steps() == (2, 1)


def test_everything_damaged(tmp_path: Path) -> None:
    runs = Checkpoints(tmp_path)
    for step in (1, 2):
        runs.save(step, state())
        shutil.rmtree(tmp_path / str(step) / "arrays")
    with pytest.raises(RequestError, match=r"damaged \(step 2, 1\): delete"):
        runs.restore(state())


CHILD = """
import sys
from pathlib import Path
import jax.numpy as jnp
from distill_jax.checkpoint import Checkpoints

for step in range(10_000):
    Checkpoints(Path(sys.argv[1])).save(step, {"x": jnp.full((100, 100), float(step))})
    print(step, flush=True)
"""


@pytest.mark.parametrize("milliseconds", [3, 15])
def test_killed_while_saving(tmp_path: Path, milliseconds: int) -> None:
    """Completed saves survive, and the next save deletes the files of a killed one."""
    root = Path(__file__).parents[1]
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu"},
    )
    with child:
        assert child.stdout is not None
        reached = [int(child.stdout.readline()) for _ in range(3)][-1]
        time.sleep(milliseconds / 1000)
        child.send_signal(signal.SIGKILL)
        reached = max([reached, *map(int, child.stdout.read().split())])
    runs, like = Checkpoints(tmp_path), {"x": jnp.zeros((100, 100))}
    step, restored, _, skipped = not_none(runs.restore(like))
    assert step in (reached, reached + 1) and skipped == ()
    np.testing.assert_array_equal(restored["x"], step)
    (tmp_path / f"{step + 1}.orbax-checkpoint-tmp").mkdir(exist_ok=True)  # most kills leave such files, but not all
    runs.save(step + 5, like)
    assert {p.name for p in tmp_path.iterdir() if p.is_dir()} == {str(step), str(step + 5)}


NET = {"name": "ConvNet", "width": 32, "norm": "instance"}


def pool() -> Model:
    return Model({"conv": {"kernel": jnp.arange(12.0).reshape(2, 3, 2)}}, {})


@pytest.mark.parametrize("like", [None, pool(), jax.eval_shape(pool)])
def test_pool_round_trip(tmp_path: Path, like: PyTree) -> None:
    path = tmp_path / "run" / "pool"
    save_pool(path, state(), {})
    save_pool(path, pool(), {"net": NET, "seed": 0})
    restored, about = load_pool(path, like)
    assert isinstance(restored, Model) and same(restored, pool()) and about == {"net": NET, "seed": 0}


def test_pool_of_batch_norm_with_targets(tmp_path: Path) -> None:
    full = Model({"w": jnp.ones(2)}, {"bn": {"mean": jnp.zeros(2)}}, {"w": jnp.zeros(2)})
    save_pool(tmp_path, full, {})
    assert same(load_pool(tmp_path)[0], full)


def test_missing_and_damaged_pools(tmp_path: Path) -> None:
    for nothing in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(RequestError, match="no pool of models"):
            load_pool(nothing)
    save_pool(tmp_path, pool(), {})
    with pytest.raises(RequestError, match="params/conv/kernel"):
        load_pool(tmp_path, Model({"conv": {"kernel": jnp.zeros((5, 3, 2))}}, {}))
    (tmp_path / "0" / "header" / "metadata").write_text("{")
    with pytest.raises(RequestError, match="damaged"):
        load_pool(tmp_path)


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        ({"net": NET | {"width": 64}}, "net.width is 32, not 64"),
        ({"net": NET | {"norm": "batch"}, "data": "abc"}, 'net.norm is "instance", not "batch"'),
        ({"data": "xyz"}, 'data is "abc", not "xyz"'),
        ({"epochs": 2}, "epochs is null, not 2"),
        ({"net": {"name": {"deep": 1}}}, 'net.name is "ConvNet", not'),
    ],
)
def test_pool_of_another_network_is_refused(expected: dict[str, Any], message: str) -> None:
    about = {"net": NET, "data": "abc", "seed": 0, "sizes": [1, 2]}
    check_pool(about, {"net": NET, "data": "abc", "sizes": (1, 2)})
    with pytest.raises(RequestError, match=message) as error:
        check_pool(about, expected)
    assert "\n" not in str(error.value)
