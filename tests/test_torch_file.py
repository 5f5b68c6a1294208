"""Tests reading and writing of PyTorch's files without PyTorch, and that reading never runs code from a file."""

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax.formats.torch_file import LEGACY, dumps, loads
from distill_jax.types import RequestError

MADE_BY_TORCH = Path(__file__).parent / "torch_files"
"""files written by torch.save of PyTorch 2.13; ``test_files_of_pytorch_are_read`` has their contents"""

DTYPES = ["float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]


def array(dtype: str, *shape: int) -> np.ndarray:
    counted = np.arange(np.prod(shape, dtype=int)) % (2 if dtype == "bool" else 100)
    return counted.astype(jnp.dtype(dtype)).reshape(shape)


def same(one: Any, other: Any) -> None:
    """Return whether two values are equal in structure, types, dtypes and values."""
    if isinstance(other, dict):
        assert isinstance(one, dict) and list(one) == list(other)
        one, other = list(one.values()), list(other.values())
    if isinstance(other, list | tuple):
        assert type(one) is type(other) and len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            same(a, b)
    elif isinstance(other, np.ndarray):
        assert isinstance(one, np.ndarray) and one.dtype == other.dtype and one.shape == other.shape
        np.testing.assert_array_equal(one, other)
    else:
        assert one == other and type(one) is type(other)


def archive(stream: bytes, storages: dict[str, bytes] | None = None, **more: bytes) -> bytes:
    """Return a file with the given pickle stream."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        for name, content in {"data.pkl": stream, **more}.items():
            made.writestr(f"archive/{name}", content)
        for key, content in (storages or {"0": bytes(64)}).items():
            made.writestr(f"archive/data/{key}", content)
    return file.getvalue()


# ------------------------------------------------------------------ written here


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2, 3), (), (0, 2), (1,)])
def test_arrays_are_read_back(dtype: str, shape: tuple[int, ...]) -> None:
    same(loads(dumps(array(dtype, *shape)), "x.pt"), array(dtype, *shape))


VALUES = {
    "images": [array("float32", 2, 3).T, array("int64", 4)[::2]],
    "numbers": (0, -1, 2**31, -(2**40), 1.5, True, False, None, "crème brûlée", ""),
    "nothing": [[], (), {}],
    3: {"inner": array("uint8", 2)},
}


def test_structures_are_read_back() -> None:
    same(loads(dumps(VALUES), "x.pt"), VALUES)


def test_the_same_value_gives_the_same_bytes() -> None:
    assert dumps(VALUES) == dumps(VALUES)


@pytest.mark.parametrize("value", [object(), array("complex64", 2), [b"bytes"], {"a": {1, 2}}, np.array(["text"])])
def test_dtypes_that_pytorch_lacks_are_refused(value: Any) -> None:
    with pytest.raises(RequestError, match="give"):
        dumps(value)


# ------------------------------------------------------------------ written by PyTorch


def test_files_of_pytorch_are_read() -> None:
    images, labels = loads((MADE_BY_TORCH / "list.pt").read_bytes(), "list.pt")
    same([images, labels], [np.arange(8, dtype=np.float32).reshape(2, 1, 2, 2) / 8, np.arange(2)])
    checkpoint = loads((MADE_BY_TORCH / "checkpoint.pt").read_bytes(), "checkpoint.pt")
    assert (checkpoint["epoch"], float(checkpoint["best"])) == (3, 0.5)
    np.testing.assert_array_equal(checkpoint["history"], np.arange(3))
    weights = checkpoint["state_dict"]
    assert list(weights) == [
        "0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked",
    ]  # fmt: skip
    same(weights["0.weight"], np.arange(2, dtype=np.float32).reshape(2, 1, 1, 1))
    same(weights["1.num_batches_tracked"], np.array(0))


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch")


def saved(torch: Any, value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


@pytest.mark.parametrize("dtype", DTYPES)
def test_pytorch_reads_our_files(torch: Any, dtype: str) -> None:
    values = {"x": [array(dtype, 2, 3), array(dtype), array(dtype, 0, 2)], "y": (1, -(2**40), 0.5, None, True, "é")}
    read = torch.load(io.BytesIO(dumps(values)), weights_only=True)
    assert read["y"] == values["y"]
    for tensor, expected in zip(read["x"], values["x"], strict=True):
        assert tensor.dtype is getattr(torch, dtype) and tuple(tensor.shape) == expected.shape
        assert tensor.is_contiguous() and tensor.double().tolist() == expected.astype(np.float64).tolist()


@pytest.mark.parametrize("dtype", DTYPES)
def test_files_that_pytorch_writes_now_are_read(torch: Any, dtype: str) -> None:
    counted = torch.arange(24).remainder(2 if dtype == "bool" else 24).to(getattr(torch, dtype))
    cube = counted.reshape(2, 3, 4)
    views = [cube, cube.permute(2, 0, 1), cube[1:, ::2, 3], cube[0, 0, 0], cube[:0], counted[5:6].expand(2, 3)]
    for read, view in zip(loads(saved(torch, views), "x.pt"), views, strict=True):
        assert read.shape == tuple(view.shape) and read.dtype == jnp.dtype(dtype)
        assert read.astype(np.float64).tolist() == view.double().tolist()


def test_objects_of_pytorch_that_hold_tensors_are_read(torch: Any) -> None:
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.BatchNorm2d(2))
    read = loads(saved(torch, {"weights": net.state_dict(), "parameters": list(net.parameters())}), "x.pt")
    for name, tensor in net.state_dict().items():
        np.testing.assert_array_equal(read["weights"][name], tensor.numpy())
    for array, parameter in zip(read["parameters"], net.parameters(), strict=True):
        np.testing.assert_array_equal(array, parameter.detach().numpy())
    other = {"n": np.float64(0.5), "a": np.arange(6).reshape(2, 3), "s": torch.Size([2, 3]), "o": OrderedDict(a=1)}
    read = loads(saved(torch, other), "x.pt")
    assert (read["n"], read["s"], read["o"]) == (0.5, (2, 3), {"a": 1})
    same(read["a"], other["a"])


def test_old_files_of_pytorch_are_recognised(torch: Any) -> None:
    file = io.BytesIO()
    torch.save(torch.zeros(2), file, _use_new_zipfile_serialization=False)
    assert file.getvalue().startswith(LEGACY)


# ------------------------------------------------------------------ nothing is run


class Calls:
    """An object whose pickle calls an arbitrary function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


class Plain:
    """An object whose pickle has a state."""

    def __init__(self) -> None:
        self.field = 1


def evil(marker: Path) -> list[Any]:
    import os
    import subprocess

    command = f"touch {marker}"
    return [
        Calls(os.system, command), Calls(eval, f"open({str(marker)!r}, 'w')"),
        Calls(subprocess.call, ["touch", marker]), Calls(getattr, "x", "upper"), Calls(__import__, "os"),
        Plain(), Calls(np.load, str(marker)), {"x": [os.system]},
    ]  # fmt: skip


@pytest.mark.parametrize("protocol", range(6))
def test_no_pickle_runs_code(tmp_path: Path, protocol: int) -> None:
    marker = tmp_path / "was here"
    for value in evil(marker):
        with pytest.raises(RequestError, match=r"x\.pt .*: it (refers to [\w.]+|holds an object)") as refused:
            loads(archive(pickle.dumps(value, protocol)), "x.pt")
        assert "\n" not in str(refused.value)
    assert not marker.exists()


@pytest.mark.parametrize(
    "stream, said",
    [
        (b"cos\nsystem\n(X\x02\x00\x00\x00lstR.", "os.system"),
        (b"(ios\nsystem\n.", "INST"),
        (b"(cos\nsystem\no.", "os.system"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "os.system"),
        (b"\x80\x02]cnumpy\nndarray\n)\x81.", "NEWOBJ"),
        (b"\x82\x01.", "EXT1"),
        (b"ccollections\nOrderedDict\n}b.", "a state for a Name"),
        (b"ccollections\nOrderedDict\n.x", None),
        (b"\x80\x02X\x01\x00\x00\x00a)R.", "in place of Name"),
        (b"cnumpy\nndarray\n)R.", "damaged"),
    ],
)
def test_hand_written_streams_run_nothing(stream: bytes, said: str | None) -> None:
    if said is None:  # a name that is allowed but never called
        loads(archive(stream), "x.pt")
        return
    with pytest.raises(RequestError, match=said):
        loads(archive(stream), "x.pt")


def tensor_at(offset: int, size: tuple[int, ...], stride: tuple[int, ...], storage: int = 4) -> bytes:
    """Return a file with one float32 tensor of the given storage offset, size and stride."""

    def whole(*numbers: int) -> bytes:
        return b"(" + b"".join(b"\x8a\x08" + struct.pack("<q", n) for n in numbers) + b"t"

    key = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK" + bytes([storage])
    view = b"tQ\x8a\x08" + struct.pack("<q", offset) + whole(*size) + whole(*stride) + b"\x89}tR."
    stream = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + key + view
    return archive(stream, {"0": np.arange(4, dtype=np.float32).tobytes()})


def test_a_tensor_shows_its_part_of_the_storage() -> None:
    same(loads(tensor_at(1, (3,), (1,)), "x.pt"), np.arange(1, 4, dtype=np.float32))
    same(loads(tensor_at(0, (2, 2), (1, 2)), "x.pt"), np.arange(4, dtype=np.float32).reshape(2, 2).T)
    same(loads(tensor_at(3, (2,), (0,)), "x.pt"), np.full(2, 3, np.float32))


@pytest.mark.parametrize(
    "offset, size, stride, storage",
    [
        (2, (3,), (1,), 4), (0, (5,), (1,), 4), (0, (2,), (4,), 4), (4, (1,), (1,), 4), (-1, (1,), (1,), 4),
        (0, (-1,), (1,), 4), (3, (2,), (-1,), 4), (0, (2, 2), (1,), 4), (0, (4,), (1,), 5), (2**62, (1,), (1,), 4),
        (0, (2**62,), (0,), 4), (0, (2**40, 2**40), (0, 0), 4), (0, (3,), (2**62,), 4), (0, (1,) * 99, (1,) * 99, 4),
    ],
)  # fmt: skip
def test_no_tensor_reaches_beyond_its_storage(offset: int, size: tuple, stride: tuple, storage: int) -> None:
    with pytest.raises(RequestError, match="damaged"):
        loads(tensor_at(offset, size, stride, storage), "x.pt")


# ------------------------------------------------------------------ damage


def test_other_files_are_refused() -> None:
    with pytest.raises(RequestError, match="before 1.6"):
        loads(LEGACY + bytes(100), "x.pt")
    for content in (b"", b"PK\x03\x04", b"hello", pickle.dumps([1]), bytes(1000)):
        with pytest.raises(RequestError, match="x.pt is damaged or not a file of torch.save"):
            loads(content, "x.pt")
    with pytest.raises(RequestError, match="big-endian"):
        loads(archive(b"\x80\x02N.", byteorder=b"big"), "x.pt")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("archive/data.pkl", bytes(10**6))
    with pytest.raises(RequestError, match="compressed"):
        loads(packed.getvalue(), "x.pt")
    assert loads(archive(b"\x80\x02N."), "x.pt") is None


def test_nesting_cannot_overflow_the_stack() -> None:
    deep = 50_000
    for stream in (b"N" + b"\x85" * deep + b".", b"]" * deep + b"a" * (deep - 1) + b"."):
        loads(archive(b"\x80\x02" + stream), "x.pt")
    with pytest.raises(RequestError, match="tuple as a key"):
        loads(archive(b"\x80\x02}N" + b"\x85" * deep + b"Ns."), "x.pt")


def test_damaged_files_are_refused() -> None:
    whole = dumps(VALUES)
    with zipfile.ZipFile(io.BytesIO(whole)) as made:
        stream = made.read("archive/data.pkl")
        storages = {name[13:]: made.read(name) for name in made.namelist() if name.startswith("archive/data/")}
    rng = np.random.default_rng(0)
    damaged = [whole[:size] for size in rng.integers(0, len(whole), 100)]
    for _ in range(400):
        # Checksums of the archive detect most damage; damage in the bare stream reaches the reader.
        for content in (whole, stream):
            mutable = bytearray(content)
            for place in rng.integers(0, len(content), rng.integers(1, 4)):
                mutable[place] = rng.integers(256)
            damaged.append(bytes(mutable) if content is whole else archive(bytes(mutable), storages))
    damaged += [archive(stream[:size], storages) for size in range(0, len(stream), 3)]
    refused = 0
    for content in damaged:
        try:
            loads(content, "x.pt")
        except RequestError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > len(damaged) // 2
