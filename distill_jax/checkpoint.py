"""Arrays on disk: run state that survives a killed process, and pools of models. Orbax behind save and restore.

A checkpoint is two orbax items: ``arrays``, the bytes of all leaves one after another, and ``header``, a JSON file with
what the caller says about them, each leaf's name, dtype and shape, and a SHA-256 of all this.

Orbax can store a tree itself, one array per leaf. But then it refuses empty arrays, takes milliseconds for each leaf,
and writes tracebacks to standard error where one of several arrays cannot be read: hence one array. The digest, because
not every damage is an error to a reader.
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
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import LatestN

from distill_jax import hosts
from distill_jax.types import Model, PyTree, RequestError

CHUNK_BYTES = 2**24
"""what is stored in one file: chunks are compressed side by side, and the compressor cannot take 2 GiB"""

FIRST_HOST = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0})
"""Of several hosts the first gathers what is saved, and sends round what is restored. States are small, and so the
others need no file system in common with it, and no other number of devices or hosts is a special case."""


class Restored(NamedTuple):
    """What ``Checkpoints.restore`` returns."""

    step: int
    state: PyTree
    """bit for bit what was saved, in the structure of ``like``"""
    about: dict[str, Any]
    skipped: tuple[int, ...]
    """newer steps that are damaged, newest first"""


@dataclass(frozen=True)
class Checkpoints:
    """The last ``keep`` checkpoints of one run, in ``directory/<step>/``.

    A state is a pytree of arrays of any shape and dtype (typed PRNG keys aside), not all of size zero; None and
    empty containers are structure. A process killed while saving leaves the checkpoints before as they were. One
    process saves at a time (the runners hold a lock); of several hosts the first, which alone needs the directory.
    """

    directory: Path
    keep: int = 2

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise RequestError(f"cannot keep {self.keep} checkpoints: keep at least 1")

    def steps(self) -> tuple[int, ...]:
        """The steps that were saved, newest first. Some may have been damaged since."""
        found = hosts.broadcast(lambda: list(self.directory.iterdir()) if self.directory.is_dir() else [])
        return tuple(sorted((int(path.name) for path in found if path.name.isdecimal()), reverse=True))

    def save(self, step: int, state: PyTree, about: Mapping[str, Any] | None = None) -> None:
        """Write ``state`` and ``about`` (JSON values); returns once they are in place.

        Checkpoints of ``step`` and later are dropped first: they are damaged, or of a run that was begun again.
        """
        leaves, data = _pack(hosts.gather(state))
        if not hosts.is_first():
            return
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
            multiprocessing_options=FIRST_HOST,
        )
        self.directory.mkdir(parents=True, exist_ok=True)
        with _quiet_orbax(), ocp.CheckpointManager(self.directory.absolute(), options=options) as manager:
            for later in manager.all_steps():
                if later >= step:
                    manager.delete(later)
            try:
                manager.save(step, args=items)
            except ValueError as error:  # how tensorstore says what the system said
                code = re.search(r"os_error_code='(\d+)'|OS error (\d+)", str(error))
                if code is None:
                    raise
                number = int(code[1] or code[2])
                raise OSError(number, os.strerror(number), str(self.directory)) from error

    def restore(self, like: PyTree = None) -> Restored | None:
        """The newest undamaged checkpoint; None where nothing was saved yet.

        ``like``: arrays or ``jax.ShapeDtypeStruct`` in the structure of the state. Each leaf is put where ``like`` has
        it (its sharding), or on the default device, on however many devices it was saved. Without ``like`` the state
        comes back as nested dicts: lists and tuples with keys "0", "1", ..., and without None and empty containers.

        Raises RequestError where the state saved is not like ``like`` (naming a leaf), and where all checkpoints are
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
            f"everything in {self.directory} is damaged (step {steps}): delete that directory and start again"
        ) from damaged.popitem()[1]


# --------------------------------------------------------------------- pools


def save_pool(path: Path, pool: PyTree, about: Mapping[str, Any]) -> None:
    """Write a pool, a ``Model`` whose leaves have a leading P axis, in place of any pool in ``path``.

    ``about`` (JSON values): what makes it the right pool for a run, compared by ``check_pool``: the network's
    description, the data's fingerprint, the seed, ...
    """
    Checkpoints(path, keep=1).save(0, pool, about)


def load_pool(path: Path, like: PyTree = None) -> tuple[PyTree, dict[str, Any]]:
    """The pool in ``path`` and what was said about it. ``like`` as for ``Checkpoints.restore``; without it a ``Model``
    of nested dicts comes back. Raises RequestError where there is no pool, or a damaged one, or one not like ``like``.
    """
    found = Checkpoints(path).restore(like)
    if found is None:
        raise RequestError(f"no pool of models in {path}: give the directory that pretraining wrote")
    if like is not None:
        return found.state, found.about
    return Model(found.state["params"], found.state.get("stats", {}), found.state.get("target")), found.about


def check_pool(about: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raise RequestError, naming the field, where a pool's ``about`` differs from ``expected``.

    Nested dicts are compared field by field; fields that ``expected`` does not have may be anything.
    """
    for name, want, got in _differences(json.loads(json.dumps(dict(expected))), about, ""):
        raise RequestError(f"the pool of models is for another run: {name} is {got}, not {want}; pretrain another pool")


def _differences(want: Any, got: Any, name: str) -> Iterator[tuple[str, str, str]]:
    if isinstance(want, dict) and isinstance(got, Mapping):
        for key in want:
            yield from _differences(want[key], got.get(key), f"{name}.{key}" if name else key)
    elif want != got:
        yield name, json.dumps(want), json.dumps(got)


# -------------------------------------------------------------- one checkpoint


def _read(path: Path) -> tuple[dict[str, Any], np.ndarray]:
    items = ocp.args.Composite(header=ocp.args.JsonRestore(), arrays=ocp.args.ArrayRestore())
    handler = ocp.CompositeCheckpointHandler(composite_options=ocp.CompositeOptions(multiprocessing_options=FIRST_HOST))
    with _quiet_orbax(), ocp.Checkpointer(handler, multiprocessing_options=FIRST_HOST) as reader:
        found = reader.restore(path, items)
    header, data = dict(found["header"]), np.asarray(found["arrays"])
    if header.pop("sha256") != _digest(header, data):
        raise OSError(f"{path} is not what was saved there")
    return header, data


def _digest(header: dict[str, Any], data: np.ndarray) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    digest.update(data.data)
    return digest.hexdigest()


def _described(tree: PyTree) -> list[list[Any]]:
    """[name, dtype, shape] of every leaf. The name is the same whether a node is a named tuple or a dict."""
    return [
        [jax.tree_util.keystr(path, simple=True, separator="/"), np.dtype(leaf.dtype).name, list(leaf.shape)]
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    ]


def _pack(tree: PyTree) -> tuple[list[list[Any]], np.ndarray]:
    """(``_described``, uint8 [bytes of all leaves])"""
    leaves = [np.ascontiguousarray(leaf).reshape(-1).view(np.uint8) for leaf in jax.tree.leaves(tree)]
    return _described(tree), np.concatenate(leaves)


def _unpack(leaves: list[list[Any]], data: np.ndarray, like: PyTree, directory: Path) -> PyTree:
    """The tree that ``_pack`` was given, as ``Checkpoints.restore`` promises it."""
    wanted = leaves if like is None else _described(like)
    there, here = ({name: f"{dtype}{shape}" for name, dtype, shape in described} for described in (leaves, wanted))
    for name in sorted(there.keys() | here.keys()):
        if there.get(name) != here.get(name):
            raise RequestError(
                f"{directory} is of another configuration: {name} is {there.get(name, 'missing')} there and "
                f"{here.get(name, 'missing')} here; use the options it was made with"
            )
    shardings = [None] * len(leaves) if like is None else [getattr(x, "sharding", None) for x in jax.tree.leaves(like)]
    places = dict(zip(here, shardings, strict=True))
    ends = np.cumsum([np.dtype(dtype).itemsize * math.prod(shape) for _, dtype, shape in leaves])
    arrays = {
        # a copy: on CPU a device array may go on using the memory it was made from, and here all would share one buffer
        name: jax.device_put(part.copy().view(dtype).reshape(shape), places[name])
        for (name, dtype, shape), part in zip(leaves, np.split(data, ends[:-1]), strict=True)
    }
    if like is not None:
        return jax.tree.unflatten(jax.tree.structure(like), [arrays[name] for name in here])
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
    """Orbax reports its progress through absl; what matters here comes back as a value or an exception."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
