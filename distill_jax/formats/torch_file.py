"""Reads and writes PyTorch's files without PyTorch: tensors in lists, tuples and dicts.

A file of ``torch.save`` (1.6 and newer) is a zip archive: ``data.pkl``, a pickle in which every tensor refers to a
storage by its key, and the raw bytes of the storages, ``data/<key>``.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from typing import Any

import jax.numpy as jnp
import numpy as np

from distill_jax.data.dataset import reason
from distill_jax.formats.pickled import STORAGES, unpickle
from distill_jax.types import RequestError

LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""first bytes of a file of PyTorch before 1.6"""

STORAGE_OF = {dtype: name for name, dtype in STORAGES.items()}


def loads(content: bytes, name: str) -> Any:
    """Return the value that ``torch.save`` wrote into the file ``name`` with these bytes. Tensors of any device become
    NumPy arrays. Nothing in the file is executed.

    Raise RequestError if the file is damaged, of another kind, or holds another object, which the message names.
    """
    if content.startswith(LEGACY):
        raise RequestError(
            f"{name} was written by PyTorch before 1.6: load it with torch.load and save it again with a newer PyTorch"
        )
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return _read(archive)
    except RequestError as error:
        raise RequestError(f"{name} cannot be read: {error}") from error
    except Exception as error:  # zipfile, pickletools and numpy raise many types on damaged files
        raise RequestError(
            f"{name} is damaged or not a file of torch.save ({reason(error)}): save or copy it again"
        ) from error


def _read(archive: zipfile.ZipFile) -> Any:
    entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        # PyTorch never compresses, and a small compressed file can expand to fill any memory.
        raise RequestError("it is a compressed archive: save it with torch.save")
    roots = [entry.filename.removesuffix("data.pkl") for entry in entries if entry.filename.endswith("/data.pkl")]
    if len(roots) != 1:
        raise ValueError("no data.pkl")
    root = roots[0]
    if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
        raise RequestError("it was written on a big-endian machine: save it on a little-endian machine")
    storages: dict[str, np.ndarray] = {}

    def storage(persistent_id: Any) -> np.ndarray:
        kind, typed, key, _, size = persistent_id
        if kind != "storage":
            raise ValueError(f"an object of kind {kind}")
        if key not in storages:
            storages[key] = _numbers(archive.read(f"{root}data/{key}"), STORAGES[typed.full], size)
        return storages[key]

    return unpickle(archive.read(f"{root}data.pkl"), storage)


def _numbers(content: bytes, dtype: str, size: int) -> np.ndarray:
    if dtype == "bool":
        return np.frombuffer(content, np.uint8, size) != 0  # NumPy's logic fails for bytes other than 0 and 1
    stored = jnp.bfloat16 if dtype == "bfloat16" else np.dtype(dtype).newbyteorder("<")
    return np.frombuffer(content, stored, size).astype(np.dtype(stored).newbyteorder("="), copy=False)


# ------------------------------------------------------------------ writing


def dumps(value: Any) -> bytes:
    """Return a file that ``torch.load`` reads, also with ``weights_only=True``. Equal values give equal bytes.

    ``value``: NumPy arrays (which become contiguous CPU tensors), numbers, strings, booleans and None in lists, tuples
    and dicts. Raise RequestError for any other object.
    """
    storages: list[bytes] = []
    stream = pickle.PROTO + b"\x02" + _pickle(value, storages) + pickle.STOP
    records = {"data.pkl": stream, "byteorder": b"little"}
    records |= {f"data/{key}": storage for key, storage in enumerate(storages)}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, content in {**records, "version": b"3\n"}.items():
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), content)
    return file.getvalue()


def _pickle(value: Any, storages: list[bytes]) -> bytes:
    """Return the opcodes that push ``value``, and append the bytes of its tensors to ``storages``."""
    match value:
        case None:
            return pickle.NONE
        case bool():
            return pickle.NEWTRUE if value else pickle.NEWFALSE
        case int():
            number = pickle.encode_long(value)
            return pickle.LONG1 + struct.pack("<B", len(number)) + number
        case float():
            return pickle.BINFLOAT + struct.pack(">d", value)
        case str():
            text = value.encode()
            return pickle.BINUNICODE + struct.pack("<I", len(text)) + text
        case np.ndarray():
            return _tensor(value, storages)
        case tuple():
            return pickle.MARK + _pickle_all(value, storages) + pickle.TUPLE
        case list():
            return pickle.EMPTY_LIST + pickle.MARK + _pickle_all(value, storages) + pickle.APPENDS
        case dict():
            items = [part for item in value.items() for part in item]
            return pickle.EMPTY_DICT + pickle.MARK + _pickle_all(items, storages) + pickle.SETITEMS
    raise RequestError(f"a {type(value).__name__} cannot be written to a PyTorch file: give arrays in lists and dicts")


def _pickle_all(values: Any, storages: list[bytes]) -> bytes:
    return b"".join(_pickle(value, storages) for value in values)


def _tensor(array: np.ndarray, storages: list[bytes]) -> bytes:
    if array.dtype.name not in STORAGE_OF:
        raise RequestError(f"PyTorch has no tensors of {array.dtype}: give one of {', '.join(STORAGE_OF)}")
    little = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
    strides = tuple(stride // array.dtype.itemsize for stride in little.reshape(array.shape).strides)
    storage = _name(STORAGE_OF[array.dtype.name])
    key = _pickle_all(("storage",), storages) + storage + _pickle_all((str(len(storages)), "cpu", array.size), storages)
    storages.append(little.tobytes())
    view = pickle.MARK + key + pickle.TUPLE + pickle.BINPERSID + _pickle_all((0, array.shape, strides, False), storages)
    hooks = _name("collections.OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE
    return _name("torch._utils._rebuild_tensor_v2") + pickle.MARK + view + hooks + pickle.TUPLE + pickle.REDUCE


def _name(full: str) -> bytes:
    module, _, attribute = full.rpartition(".")
    return pickle.GLOBAL + f"{module}\n{attribute}\n".encode()
