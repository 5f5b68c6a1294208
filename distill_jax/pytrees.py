"""Register dataclasses as pytrees whose structures differ if their classes do."""

from __future__ import annotations

from typing import Any

import jax


def register(cls: type, data: tuple[str, ...], static: tuple[str, ...]) -> None:
    """Register ``cls`` as a pytree with the children ``data``.

    jax.tree_util.register_dataclass would do, but jax takes the tree structures of two dataclasses with equal static
    fields for equal (jax 0.10 and 0.12). Only their hashes differ, so ``jit`` sometimes runs the program that was
    compiled for another class: 5 of 300 times in an experiment.
    """
    keys = tuple(jax.tree_util.GetAttrKey(name) for name in data)

    def flatten(of: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        return tuple(getattr(of, name) for name in data), tuple(getattr(of, name) for name in static)

    def flatten_with_keys(of: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        children, values = flatten(of)
        return tuple(zip(keys, children, strict=True)), values

    def unflatten(values: tuple[Any, ...], children: Any) -> Any:
        return cls(**dict(zip(data, children, strict=True)), **dict(zip(static, values, strict=True)))

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
