"""A pickle reader that cannot run code: the subset of pickle that tensors in lists and dicts need.

Python's own unpickler calls whatever the stream names. This one interprets the opcodes itself: a name that the stream
gives is looked up in ``BUILDERS`` and ``NAMES`` below, never imported, and anything else is refused.
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
"""elements of a tensor that shows elements of its storage more than once: a few bytes could ask for any memory"""


@dataclass(frozen=True)
class Name:
    """What a stream refers to by name, such as ``torch.FloatStorage``."""

    full: str


def unpickled(stream: bytes, persistent: Callable[[Any], Any]) -> Any:
    """The value in ``stream``: dicts, lists, tuples, strings, bytes, numbers, None, NumPy arrays, and tensors as NumPy
    arrays. ``persistent`` resolves persistent ids (in PyTorch's files the storages, as arrays [n]).

    Raises RequestError, naming it, where the stream refers to anything else; other errors (of any type) where it makes
    no sense.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        start = marks.pop()
        values = stack[start:]
        del stack[start:]
        return values

    def last(n: int) -> list[Any]:
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
                stack.append(tuple(since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(last(int(opcode.name[-1]))))
            case "LIST":
                stack.append(since_mark())
            case "DICT":
                stack.append(_dict(_pairs(since_mark())))
            case "APPEND" | "APPENDS":
                values = last(1) if opcode.name == "APPEND" else since_mark()
                _of(list, stack[-1]).extend(values)
            case "SETITEM" | "SETITEMS":
                values = last(2) if opcode.name == "SETITEM" else since_mark()
                _of(dict, stack[-1]).update(_dict(_pairs(values)))
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                memo[_of(int, argument)] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET" | "GET":
                stack.append(memo[_of(int, argument)])
            case "GLOBAL":
                stack.append(_named(str(argument).replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                stack.append(_named(".".join(_of(str, part) for part in last(2))))
            case "BINPERSID":
                stack.append(persistent(stack.pop()))
            case "REDUCE":
                name, arguments = last(2)
                stack.append(BUILDERS[_of(Name, name).full](*_of(tuple, arguments)))
            case "BUILD":
                value, state = last(2)
                stack.append(_restored(value, state))
            case refused:
                raise RequestError(f"it holds an object that is built with {refused}: {MEND}")
    raise ValueError("the pickle does not end")


MEND = "only tensors in lists, tuples and dicts are read; save those alone with torch.save"

VALUES = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
}  # fmt: skip
"""opcodes that push their argument"""


def _of(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{type(value).__name__} in place of {kind.__name__}")
    return value


def _named(full: str) -> Name:
    if full not in BUILDERS and full not in NAMES:
        raise RequestError(f"it refers to {full}: {MEND}")
    return Name(full)


def _pairs(values: list[Any]) -> list[tuple[Any, Any]]:
    return list(zip(values[::2], values[1::2], strict=True))


def _dict(pairs: Iterable[Any] = ()) -> dict[Any, Any]:
    """A dict, in place of an OrderedDict as well. The hash of deeply nested tuples would overflow the stack of C."""
    made = {}
    for key, value in pairs:
        if not isinstance(key, str | int | float | bytes | None):
            raise TypeError(f"{type(key).__name__} as a key")
        made[key] = value
    return made


def _restored(value: Any, state: Any) -> Any:
    """An object whose state the stream sets: the contents of a NumPy array; of others it is not needed."""
    if isinstance(value, np.dtype):
        if _of(tuple, state)[1] not in ("<", "|", "="):
            raise TypeError("the numbers are big-endian")
    elif isinstance(value, np.ndarray):
        version, shape, dtype, fortran, content = _of(tuple, state)
        if len(_of(bytes, content)) != math.prod(_sizes(shape)) * _of(np.dtype, dtype).itemsize:
            raise ValueError("a NumPy array is cut short")
        value.__setstate__((version, shape, dtype, bool(fortran), content))  # type: ignore[arg-type]
    elif not isinstance(value, dict):
        raise TypeError(f"a state for a {type(value).__name__}")
    return value


# ------------------------------------------------------------------ what a stream may build


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> np.ndarray:
    """A copy of the elements at ``offset + index . stride`` of ``storage`` [n]; gradients and hooks are left out."""
    (begin,), shape, strides = _sizes((offset,)), _sizes(size), _sizes(stride)
    elements = math.prod(shape)
    if elements == 0:
        return np.empty(shape, _of(np.ndarray, storage).dtype)
    reach = begin + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if reach >= len(_of(np.ndarray, storage)):
        raise ValueError("a tensor reaches beyond its storage")
    if elements > max(len(storage), LARGEST_REPEATED):
        raise ValueError("a tensor is larger than its storage")
    item = storage.dtype.itemsize
    return as_strided(storage[begin:], shape, [step * item for step in strides]).copy(order="C")


def _sizes(values: Any) -> tuple[int, ...]:
    """Whole numbers of at least 0, such as a shape."""
    if any(_of(int, n) < 0 for n in _of(tuple, values)):
        raise ValueError(f"{values} is no shape")
    return values


def _parameter(tensor: Any, *_: Any) -> np.ndarray:
    return _of(np.ndarray, tensor)


def _dtype(name: Any, *_: Any) -> np.dtype:
    if not re.fullmatch("b1|[iu][1248]|f[248]", _of(str, name)):
        raise TypeError(f"numbers of type {name}")
    return np.dtype(name).newbyteorder("<")


def _scalar(dtype: Any, content: Any) -> np.generic:
    return np.frombuffer(_of(bytes, content), _of(np.dtype, dtype), 1)[0]


def _empty(kind: Any, shape: Any, code: Any) -> np.ndarray:
    return np.empty(0)


def _encoded(text: Any, encoding: Any) -> bytes:
    """How pickle of protocol 2 writes bytes."""
    if encoding != "latin1":
        raise ValueError(f"bytes as {encoding}")
    return _of(str, text).encode("latin1")


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
    "_codecs.encode": _encoded,
}
"""what a stream may call by name, and what is called instead"""

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
"""PyTorch's name of a typed storage -> dtype"""

NAMES = {*STORAGES, "numpy.ndarray"}
"""what a stream may mention"""
