"""A pickle reader that cannot run code. It supports the subset of pickle that tensors in lists and dicts need.

Python's own unpickler calls anything that the stream names. This one interprets the opcodes itself. It looks names up
in ``BUILDERS`` and ``NAMES`` below, never imports them, and rejects all other names.
"""

from __future__ import annotations

import math
import pickletools
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from distill_jax.types import RequestError

LARGEST_REPEATED = 2**24
"""largest tensor that may repeat elements of its storage; without a limit a tiny file could request any memory"""


@dataclass(frozen=True)
class Name:
    """A name in a stream, such as ``torch.FloatStorage``."""

    full: str


def unpickle(stream: bytes, persistent: Callable[[Any], Any]) -> Any:
    """Return the value in ``stream``: dicts, lists, tuples, strings, bytes, numbers, None, NumPy arrays, and tensors as
    NumPy arrays. ``persistent`` resolves persistent ids, which are storages in PyTorch's files, to arrays [n].

    Raise RequestError, with the name, if the stream refers to any other object. An invalid stream may raise any error.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def pop_to_mark() -> list[Any]:
        start = marks.pop()
        values = stack[start:]
        del stack[start:]
        return values

    def pop(n: int) -> list[Any]:
        if len(stack) < n:
            raise ValueError("the stack is empty")
        values = stack[len(stack) - n :]
        del stack[len(stack) - n :]
        return values

    for opcode, argument, _ in pickletools.genops(stream):
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                (value,) = stack
                return value
            case "MARK":
                marks.append(len(stack))
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode.name])
            case name if name in VALUES:
                stack.append(argument)
            case "EMPTY_LIST" | "EMPTY_DICT" | "EMPTY_TUPLE":
                stack.append({"EMPTY_LIST": [], "EMPTY_DICT": {}, "EMPTY_TUPLE": ()}[opcode.name])
            case "TUPLE":
                stack.append(tuple(pop_to_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(pop(int(opcode.name[-1]))))
            case "LIST":
                stack.append(pop_to_mark())
            case "DICT":
                stack.append(_dict(_pairs(pop_to_mark())))
            case "APPEND" | "APPENDS":
                values = pop(1) if opcode.name == "APPEND" else pop_to_mark()
                _expect(list, stack[-1]).extend(values)
            case "SETITEM" | "SETITEMS":
                values = pop(2) if opcode.name == "SETITEM" else pop_to_mark()
                _expect(dict, stack[-1]).update(_dict(_pairs(values)))
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                memo[_expect(int, argument)] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET" | "GET":
                stack.append(memo[_expect(int, argument)])
            case "GLOBAL":
                stack.append(_resolve(str(argument).replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                stack.append(_resolve(".".join(_expect(str, part) for part in pop(2))))
            case "BINPERSID":
                stack.append(persistent(stack.pop()))
            case "REDUCE":
                name, arguments = pop(2)
                stack.append(BUILDERS[_expect(Name, name).full](*_expect(tuple, arguments)))
            case "BUILD":
                value, state = pop(2)
                stack.append(_set_state(value, state))
            case other:
                raise RequestError(f"it holds an object that is built with {other}: {MEND}")
    raise ValueError("the pickle does not end")


MEND = "save only tensors in lists, tuples and dicts with torch.save"

VALUES = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
}  # fmt: skip
"""opcodes that push their argument"""


def _expect(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{type(value).__name__} in place of {kind.__name__}")
    return value


def _resolve(full: str) -> Name:
    if full not in BUILDERS and full not in NAMES:
        raise RequestError(f"it refers to {full}: {MEND}")
    return Name(full)


def _pairs(values: list[Any]) -> list[tuple[Any, Any]]:
    return list(zip(values[::2], values[1::2], strict=True))


def _dict(pairs: Iterable[Any] = ()) -> dict[Any, Any]:
    """Build a dict, also for an OrderedDict. Tuples are rejected as keys, because the hash of a deeply nested one would
    overflow the C stack."""
    result = {}
    for key, value in pairs:
        if not isinstance(key, str | int | float | bytes | None):
            raise TypeError(f"{type(key).__name__} as a key")
        result[key] = value
    return result


def _set_state(value: Any, state: Any) -> Any:
    """Set the state of a NumPy array, which is its contents, and return it. Ignore the state of dtypes and dicts."""
    if isinstance(value, np.dtype):
        if _expect(tuple, state)[1] not in ("<", "|", "="):
            raise TypeError("the numbers are big-endian")
    elif isinstance(value, np.ndarray):
        version, shape, dtype, fortran, content = _expect(tuple, state)
        if len(_expect(bytes, content)) != math.prod(_sizes(shape)) * _expect(np.dtype, dtype).itemsize:
            raise ValueError("a NumPy array is truncated")
        value.__setstate__((version, shape, dtype, bool(fortran), content))  # type: ignore[arg-type]
    elif not isinstance(value, dict):
        raise TypeError(f"a state for a {type(value).__name__}")
    return value


# ------------------------------------------------------------------ builders


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> np.ndarray:
    """Copy the elements at ``offset + index . stride`` of ``storage`` [n]. Gradients and hooks are ignored."""
    (begin,), shape, strides = _sizes((offset,)), _sizes(size), _sizes(stride)
    elements = math.prod(shape)
    if elements == 0:
        return np.empty(shape, _expect(np.ndarray, storage).dtype)
    reach = begin + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if reach >= len(_expect(np.ndarray, storage)):
        raise ValueError("a tensor reaches beyond its storage")
    if elements > max(len(storage), LARGEST_REPEATED):
        raise ValueError("a tensor is larger than its storage")
    item = storage.dtype.itemsize
    return as_strided(storage[begin:], shape, [step * item for step in strides]).copy(order="C")


def _sizes(values: Any) -> tuple[int, ...]:
    """Check that ``values`` is a tuple of non-negative integers, such as a shape, and return it."""
    if any(_expect(int, n) < 0 for n in _expect(tuple, values)):
        raise ValueError(f"{values} is not a shape")
    return values


def _parameter(tensor: Any, *_: Any) -> np.ndarray:
    return _expect(np.ndarray, tensor)


def _dtype(name: Any, *_: Any) -> np.dtype:
    if not re.fullmatch("b1|[iu][1248]|f[248]", _expect(str, name)):
        raise TypeError(f"numbers of type {name}")
    return np.dtype(name).newbyteorder("<")


def _scalar(dtype: Any, content: Any) -> np.generic:
    return np.frombuffer(_expect(bytes, content), _expect(np.dtype, dtype), 1)[0]


def _empty(kind: Any, shape: Any, code: Any) -> np.ndarray:
    return np.empty(0)


def _encode(text: Any, encoding: Any) -> bytes:
    """Return the bytes that pickle protocol 2 writes as text."""
    if encoding != "latin1":
        raise ValueError(f"bytes as {encoding}")
    return _expect(str, text).encode("latin1")


def _no_bytes() -> bytes:
    """Return the empty bytes, which pickle protocol 2 writes as a call. Arguments raise TypeError."""
    return b""


BUILDERS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _dict,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.Size": _sizes,
    "numpy.dtype": _dtype,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy.core.multiarray._reconstruct": _empty,
    "numpy._core.multiarray._reconstruct": _empty,
    "_codecs.encode": _encode,
    "__builtin__.bytes": _no_bytes,
}
"""{name that a stream may call: function that is called instead}"""

STORAGES: dict[str, str] = {
    "torch.FloatStorage": "float32",
    "torch.DoubleStorage": "float64",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
}
"""{PyTorch's name of a typed storage: dtype}"""

NAMES = {*STORAGES, "numpy.ndarray"}
"""names that a stream may mention but not call"""
