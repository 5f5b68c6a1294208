"""Tests the pickle reader against Python's own, on values that cannot run code."""

import io
import pickle
import zipfile
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest

from distill_jax.formats.pickled import unpickle
from distill_jax.formats.torch_file import dumps, loads
from distill_jax.types import RequestError
from tests.test_torch_file import archive, same, tensor_at

SHARED = ["twice"]
VALUES = [
    None, True, False, 0, 255, -1, 65535, -(2**31), 2**40, -(2**80), 10**700, 0.1, -1e300, float("inf"),
    "", "ascii", "crème brûlée", "line\nbreak \\ 'quoted'", "long " * 100, b"", b"bytes \xff\n", bytes(300),
    [], (), {}, (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [1, [2, [3]]], list(range(1001)),
    {"a": {"b": [1, (2,)]}, 3: "c", None: 4, 0.5: 5, b"d": 6}, {n: -n for n in range(1001)},
    [SHARED, SHARED, {"again": SHARED}],
]  # fmt: skip


def refuse(_: Any) -> Any:
    raise AssertionError("no persistent id was written")


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_are_read_as_python_reads_them(protocol: int) -> None:
    for value in VALUES:
        same(unpickle(pickle.dumps(value, protocol), refuse), value)
    same(unpickle(pickle.dumps(VALUES, protocol), refuse), VALUES)
    shared = unpickle(pickle.dumps(VALUES, protocol), refuse)[-1]
    assert shared[0] is shared[1] is shared[2]["again"]
    assert unpickle(pickle.dumps(OrderedDict(b=1, a=[2]), protocol), refuse) == {"b": 1, "a": [2]}


def test_lists_and_dicts_that_are_built_at_once_are_read() -> None:
    """Python's pickler fills empty ones, other writers need not."""
    assert unpickle(b"(K\x01K\x02K\x03l.", refuse) == [1, 2, 3]
    assert unpickle(b"(X\x01\x00\x00\x00aK\x01NK\x02d.", refuse) == {"a": 1, None: 2}


@pytest.mark.parametrize("protocol", range(5))
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int64", "int16", "uint8", "bool"])
def test_arrays_of_numpy_are_read_in_either_order(protocol: int, dtype: str) -> None:
    rows = (np.arange(6) % 2 if dtype == "bool" else np.arange(6) - 2 * (dtype[0] != "u")).astype(dtype).reshape(2, 3)
    for array in (rows, np.asfortranarray(rows), rows[:, ::2], rows[0, 0].reshape(()), rows[:0]):
        same(unpickle(pickle.dumps(array, protocol), refuse), array)
    assert unpickle(pickle.dumps(rows[1, 2], protocol), refuse) == rows[1, 2]
    # One dtype object is shared by all arrays.
    same(unpickle(pickle.dumps([rows, rows.T, rows[1, 2]], protocol), refuse)[:2], [rows, rows.T])


@pytest.mark.parametrize("protocol", range(5))
def test_other_arrays_are_refused(protocol: int) -> None:
    for array in (np.arange(3, dtype=">f4"), np.array(["text"]), np.array([{}], object), np.zeros(2, complex)):
        with pytest.raises((RequestError, TypeError)):
            unpickle(pickle.dumps(array, protocol), refuse)
        with pytest.raises(RequestError):
            loads(archive(pickle.dumps(array, protocol)), "x.pt")
    whole = pickle.dumps(np.arange(4, dtype=np.uint8), 4)
    assert whole.count(b"\x04\x85") == 1  # the shape (4,), which becomes (5,)
    with pytest.raises(ValueError, match="truncated"):
        unpickle(whole.replace(b"\x04\x85", b"\x05\x85"), refuse)


def test_a_tensor_may_repeat_its_storage_many_times() -> None:
    same(loads(tensor_at(3, (1000,), (0,)), "x.pt"), np.full(1000, 3, np.float32))
    same(loads(tensor_at(2, (3, 2), (0, 1)), "x.pt"), np.array([[2, 3]] * 3, np.float32))


def test_numbers_of_the_other_byte_order_are_written_as_pytorch_reads_them() -> None:
    for dtype in ("f4", "i8", "i2"):
        same(loads(dumps([np.arange(5).astype(f">{dtype}")]), "x.pt"), [np.arange(5).astype(f"<{dtype}")])


def test_every_byte_but_zero_is_true() -> None:
    with zipfile.ZipFile(io.BytesIO(dumps(np.zeros(4, bool)))) as made:
        stream = made.read("archive/data.pkl")
    read = loads(archive(stream, {"0": b"\x00\x02\xff\x00"}), "x.pt")
    same(read, np.array([False, True, True, False]))
    assert read.view(np.uint8).tolist() == [0, 1, 1, 0]


def test_tensors_that_we_write_need_no_gradient() -> None:
    torch = pytest.importorskip("torch")
    assert not torch.load(io.BytesIO(dumps(np.zeros(2))), weights_only=True).requires_grad
