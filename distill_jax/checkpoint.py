"""Checkpoints of runs, and pools of models, saved with orbax so that they survive a killed process.

A checkpoint consists of two orbax items: ``arrays`` holds the bytes of all leaves in one array, and ``header`` is JSON
with the caller's description, the name, dtype and shape of each leaf, and a SHA-256 of all of this.

Orbax can store one array per leaf. But then it refuses empty arrays, takes milliseconds per leaf, and prints tracebacks
if one of several arrays cannot be read. The digest is needed because readers do not notice every kind of damage.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from distill_jax import hosts
from distill_jax.types import Model, PyTree, RequestError

CHUNK_BYTES = 2**24
"""size of a stored chunk: chunks are compressed in parallel, and the compressor is limited to 2 GiB"""


class Restored(NamedTuple):
    """A restored checkpoint."""

    step: int
    state: PyTree
    """the saved state, bit for bit, in the structure of ``like``"""
    about: dict[str, Any]
    skipped: tuple[int, ...]
    """newer steps whose checkpoints are damaged, newest first"""


@dataclass(frozen=True)
class Checkpoints:
    """The last ``keep`` checkpoints of one run, in ``directory/<step>/``.

    A state is a pytree of arrays of any shape and dtype except typed PRNG keys, not all of size zero. None and empty
    containers are structure. A process killed while saving does not harm earlier checkpoints. Only one process saves at
    a time (the runners hold a lock); of several hosts only the first accesses the directory.
    """

    directory: Path
    keep: int = 2

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise RequestError(f"cannot keep {self.keep} checkpoints: keep at least 1")

    def steps(self) -> tuple[int, ...]:
        """Return the saved steps, newest first. Some of the checkpoints may be damaged."""
        found = hosts.broadcast(lambda: list(self.directory.iterdir()) if self.directory.is_dir() else [])
        return tuple(sorted((int(path.name) for path in found if path.name.isdecimal()), reverse=True))

    def save(self, step: int, state: PyTree, about: Mapping[str, Any] | None = None) -> None:
        """Write ``state`` and ``about`` (JSON values), and return when they are on disk.

        Checkpoints of ``step`` and later steps are deleted first: they are damaged, or belong to an overwritten run.
        """
        leaves, data = _pack(hosts.gather(state))
        if not hosts.is_first():
            return
        from orbax import checkpoint as ocp  # imported where it is used, because it takes half a second
        from orbax.checkpoint.checkpoint_managers import LatestN

        header = {"about": dict(about or {}), "leaves": leaves}
        items = ocp.args.Composite(
            header=ocp.args.JsonSave(header | {"sha256": _digest(header, data)}),
            arrays=ocp.args.ArraySave(data, save_args=ocp.SaveArgs(chunk_byte_size=CHUNK_BYTES)),
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=LatestN(self.keep),
            cleanup_tmp_directories=True,
            enable_async_checkpointing=False,
            lightweight_initialize=True,
            create=False,
            multiprocessing_options=_first_host(),
        )
        self.directory.mkdir(parents=True, exist_ok=True)
        with _quiet_orbax(), ocp.CheckpointManager(self.directory.absolute(), options=options) as manager:
            for later in manager.all_steps():
                if later >= step:
                    manager.delete(later)
            try:
                manager.save(step, args=items)
            except ValueError as error:  # tensorstore's form of an operating system error
                code = re.search(r"os_error_code='(\d+)'|OS error (\d+)", str(error))
                if code is None:
                    raise
                number = int(code[1] or code[2])
                raise OSError(number, os.strerror(number), str(self.directory)) from error

    def restore(self, like: PyTree = None) -> Restored | None:
        """Return the newest undamaged checkpoint, or None if nothing was saved.

        ``like`` has arrays or ``jax.ShapeDtypeStruct`` in the structure of the state. Each leaf gets the sharding that
        ``like`` has, or goes to the default device, whatever devices it was saved on. Without ``like`` the state is
        returned as nested dicts: lists and tuples get keys "0", "1", ..., and None and empty containers are lost.

        Raise RequestError, naming a leaf, if the saved state does not match ``like``, and if all checkpoints are
        damaged.
        """
        damaged: dict[int, Exception] = {}
        for step in self.steps():
            try:
                header, data = hosts.broadcast(partial(_read, (self.directory / str(step)).absolute()))
            except Exception as error:  # orbax and tensorstore raise many types on damaged files
                damaged[step] = error
            else:
                state = _unpack(header["leaves"], data, like, self.directory)
                return Restored(step, state, header["about"], tuple(damaged))
        if not damaged:
            return None
        steps = ", ".join(map(str, damaged))
        raise RequestError(
            f"all checkpoints in {self.directory} are damaged (step {steps}): delete that directory and start again"
        ) from damaged.popitem()[1]


# --------------------------------------------------------------------- pools


def save_pool(path: Path, pool: PyTree, about: Mapping[str, Any]) -> None:
    """Write a pool, Model[P], replacing any pool in ``path``.

    ``about`` (JSON values) identifies the pool for ``check_pool``: description of the network, fingerprint of the data,
    seed, ...
    """
    Checkpoints(path, keep=1).save(0, pool, about)


def load_pool(path: Path, like: PyTree = None) -> tuple[PyTree, dict[str, Any]]:
    """Return the pool in ``path`` and its description. ``like`` works as in ``Checkpoints.restore``; without it the
    result is a ``Model`` of nested dicts. Raise RequestError if the pool is missing, damaged or unlike ``like``."""
    found = Checkpoints(path).restore(like)
    if found is None:
        raise RequestError(f"no pool of models in {path}: give the directory that pretraining wrote")
    if like is not None:
        return found.state, found.about
    return Model(found.state["params"], found.state.get("stats", {}), found.state.get("target")), found.about


def check_pool(about: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raise RequestError, naming the field, if a pool's ``about`` differs from ``expected``.

    Nested dicts are compared field by field. Fields that are not in ``expected`` are ignored.
    """
    for name, want, got in _differences(json.loads(json.dumps(dict(expected))), about, ""):
        hint = " with the same data, --seed and --eval-every" if name == "data" else ""
        raise RequestError(
            f"the pool of models is for another run: {name} is {got}, not {want}; pretrain another pool{hint}"
        )


def _differences(want: Any, got: Any, name: str) -> Iterator[tuple[str, str, str]]:
    if isinstance(want, dict) and isinstance(got, Mapping):
        for key in want:
            yield from _differences(want[key], got.get(key), f"{name}.{key}" if name else key)
    elif want != got:
        yield name, json.dumps(want), json.dumps(got)


# -------------------------------------------------------------- one checkpoint


def _first_host() -> Any:
    """Return orbax's option for one host. The first host saves the gathered state, and broadcasts the restored one:
    states are small, so this is cheap; the hosts need no common file system, and the number of devices or hosts may
    change between runs."""
    from orbax import checkpoint as ocp

    return ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0})


def _read(path: Path) -> tuple[dict[str, Any], np.ndarray]:
    from orbax import checkpoint as ocp

    items = ocp.args.Composite(header=ocp.args.JsonRestore(), arrays=ocp.args.ArrayRestore())
    handler = ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(multiprocessing_options=_first_host())
    )
    with _quiet_orbax(), ocp.Checkpointer(handler, multiprocessing_options=_first_host()) as reader:
        found = reader.restore(path, items)
    header, data = dict(found["header"]), np.asarray(found["arrays"])
    if header.pop("sha256") != _digest(header, data):
        raise OSError(f"the digest of {path} does not match its content")
    return header, data


def _digest(header: dict[str, Any], data: np.ndarray) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    digest.update(data.data)
    return digest.hexdigest()


def _described(tree: PyTree) -> list[list[Any]]:
    """Return [name, dtype, shape] of every leaf. Named tuples and dicts give the same names."""
    return [
        [jax.tree_util.keystr(path, simple=True, separator="/"), np.dtype(leaf.dtype).name, list(leaf.shape)]
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    ]


def _pack(tree: PyTree) -> tuple[list[list[Any]], np.ndarray]:
    """Return (``_described``, uint8 [bytes of all leaves])."""
    leaves = [np.ascontiguousarray(leaf).reshape(-1).view(np.uint8) for leaf in jax.tree.leaves(tree)]
    return _described(tree), np.concatenate(leaves)


def _unpack(leaves: list[list[Any]], data: np.ndarray, like: PyTree, directory: Path) -> PyTree:
    """Invert ``_pack``, in the structure that ``Checkpoints.restore`` documents."""
    wanted = leaves if like is None else _described(like)
    saved, expected = ({name: f"{dtype}{shape}" for name, dtype, shape in each} for each in (leaves, wanted))
    for name in sorted(saved.keys() | expected.keys()):
        if saved.get(name) != expected.get(name):
            raise RequestError(
                f"{directory} has another configuration: {name} is {saved.get(name, 'missing')} there and "
                f"{expected.get(name, 'missing')} here; use the options and the version that it was made with"
            )
    shardings = [None] * len(leaves) if like is None else [getattr(x, "sharding", None) for x in jax.tree.leaves(like)]
    places = dict(zip(expected, shardings, strict=True))
    ends = np.cumsum([np.dtype(dtype).itemsize * math.prod(shape) for _, dtype, shape in leaves])
    arrays = {
        # copied, because a CPU array may alias the memory that it was made from, and all parts share one buffer
        name: jax.device_put(part.copy().view(dtype).reshape(shape), places[name])
        for (name, dtype, shape), part in zip(leaves, np.split(data, ends[:-1]), strict=True)
    }
    if like is not None:
        return jax.tree.unflatten(jax.tree.structure(like), [arrays[name] for name in expected])
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *nodes, last = name.split("/")
        node = tree
        for key in nodes:
            node = node.setdefault(key, {})
        node[last] = array
    return tree


@contextmanager
def _quiet_orbax() -> Iterator[None]:
    """Silence orbax, which logs its progress through absl."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
