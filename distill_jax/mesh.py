"""The device mesh: one axis, along which devices share classes, networks, evaluation repeats and sweep points.

``map_chunks`` maps a function over independent entries and gives each device an equal part of them. ``batch_sum`` sums
the gradient of a training step over the devices. XLA reduces everything else (the matching loss). On one device both
are plain calls and leave no trace in the program.

The devices of a CPU are its cores. A device without work leaves its core to the operations of the others, so it must
neither compute padding nor repeat what another device computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from distill_jax import hosts, tree
from distill_jax.platform import on_cpu
from distill_jax.types import Array, PyTree

AXIS = "devices"
MIN_PIXELS_TO_SUM, MIN_PIXELS_TO_SPLIT = 2**11, 2**14
"""Minimum number of pixels in each CPU device's part of a batch, for ``batch_sum`` and for ``split_batch``. Smaller
parts would cost more time for synchronising than sharing saves."""
MANY = 8
"""A map over more arrays than this joins them on a CPU: padding, slicing and writing back compile kernels for each."""
FEW = 4
"""A part of up to this many images is one micro-batch (``micro_batches.FEW``, a later module)."""

_devices: ContextVar[tuple[Any, ...] | None] = ContextVar("devices", default=None)
"""the devices of ``over``; None: all devices of this run"""
_on_one_device: ContextVar[bool] = ContextVar("on_one_device", default=False)
"""True while tracing a function that runs on one device of a map"""
_work_is_shared: ContextVar[list[bool] | None] = ContextVar("work_is_shared", default=None)
"""While ``_shares_work`` traces a function: a list that is not empty once the function has shared work"""


def size() -> int:
    """Return the number of devices that share a map: all devices, or one inside a map."""
    return 1 if _on_one_device.get() else all_devices().size


def all_devices() -> Mesh:
    """Return a mesh with all devices of this run on one axis."""
    return _mesh_of(_devices.get() or tuple(jax.devices()))


@cache
def _mesh_of(devices: tuple[Any, ...]) -> Mesh:
    return Mesh(np.asarray(devices), (AXIS,))


@contextmanager
def over(devices: Sequence[Any]) -> Iterator[None]:
    """Trace the block for ``devices``, which this process need not have. Functions under ``jit`` keep these traces."""
    token = _devices.set(tuple(devices))
    try:
        yield
    finally:
        _devices.reset(token)


def map_chunks(f: Callable[..., PyTree], xs: PyTree, chunk: int, *shared: PyTree) -> PyTree:
    """Map ``f(x, *shared)`` over the leading axis of ``xs``; each device visits ``chunk`` entries at a time.

    The arrays in ``shared`` are replicated. ``f`` must not close over arrays. If the number of devices does not divide
    the length, ``xs`` is padded and the results of the padding are dropped. The devices share the work of a single
    entry where ``f`` splits it, and otherwise one CPU device, or each accelerator, does all of it.
    """
    leaves = jax.tree.leaves(xs)
    n, length = size(), leaves[0].shape[0]
    if on_cpu() and length > 1 and len(leaves) > MANY:
        return _map_joined(f, xs, chunk, *shared)
    plain = n == 1 or length == 1
    if n > length == 1 and on_cpu():
        f = _traced_once(f)
        plain = _shares_work(f, tree.take(xs, 0), *shared)
    if plain:
        return tree.map_chunks(lambda x: f(x, *shared), xs, chunk)
    _note_sharing()
    whole = -(-length // n) * n
    rows = jnp.arange(whole)
    if whole > length:
        xs = jax.tree.map(lambda a: a[rows % length], xs)

    def share(xs: PyTree, rows: Array, *shared: PyTree) -> PyTree:
        def entry(x: tuple[PyTree, Array]) -> PyTree:
            return f(x[0], *shared) if whole == length else _unless_padding(x[1] < length, f, x[0], *shared)

        with on_one_device():
            return tree.map_chunks(entry, (xs, rows), chunk)

    specs = (PartitionSpec(AXIS), PartitionSpec(AXIS), *(PartitionSpec() for _ in shared))
    mapped = jax.shard_map(share, mesh=all_devices(), in_specs=specs, out_specs=PartitionSpec(AXIS), check_vma=False)
    out = mapped(xs, rows, *shared)
    # Gather once here: otherwise XLA would gather the result again at each use.
    return out if whole == length else replicated(jax.tree.map(lambda a: a[:length], out))


def _map_joined(f: Callable[..., PyTree], xs: PyTree, chunk: int, *shared: PyTree) -> PyTree:
    """Map as ``map_chunks``, over one array for each dtype."""
    joined, split = tree.join_leaves(xs, 1)
    split_results: list[Callable[..., PyTree]] = []

    def entry(x: tuple[Array, ...], *shared: PyTree) -> tuple[Array, ...]:
        results, split_result = tree.join_leaves(f(split(x), *shared), 0)
        split_results.append(split_result)
        return results

    results = map_chunks(entry, joined, chunk, *shared)
    return split_results[0](results)


def _unless_padding(real: Array, f: Callable[..., PyTree], *args: PyTree) -> PyTree:
    """Return ``f(*args)``, or on a CPU zeros for padding, where ``real`` is false."""
    if not on_cpu():
        return f(*args)
    f = _traced_once(f)
    like = jax.eval_shape(f, *args)
    return jax.lax.cond(real, f, lambda *_: jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), like), *args)


def _traced_once(f: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """Return ``f`` for several calls with equal shapes. For ``f`` itself jax might use an older trace, made where it
    shared its work."""
    return jax.jit(lambda *args: f(*args))


def _shares_work(f: Callable[..., PyTree], *args: PyTree) -> bool:
    """Return whether ``f`` shares work among the devices."""
    token = _work_is_shared.set([])
    try:
        jax.eval_shape(f, *args)
        shares = bool(_work_is_shared.get())
    finally:
        _work_is_shared.reset(token)
    if shares:
        _note_sharing()  # for a function around this one
    return shares


def _note_sharing() -> None:
    """Tell ``_shares_work`` that the function that is being traced shares work."""
    noted = _work_is_shared.get()
    if noted is not None:
        noted.append(True)


@contextmanager
def on_one_device() -> Iterator[None]:
    """Trace the block for one device: maps inside it are plain maps."""
    token = _on_one_device.set(True)
    try:
        yield
    finally:
        _on_one_device.reset(token)


def _shardings(arrays: PyTree, length: int) -> PyTree:
    """Return a sharding for each array: by its leading axis if that has ``length`` and the devices divide it, else
    replicated."""

    def sharding(a: Any) -> NamedSharding:
        split = a.ndim > 0 and 0 < a.shape[0] == length and length % size() == 0
        return NamedSharding(all_devices(), PartitionSpec(AXIS) if split else PartitionSpec())

    return jax.tree.map(sharding, arrays)


def replicated(arrays: PyTree) -> PyTree:
    """Replicate ``arrays`` on every device."""
    return shard_leading(arrays, 0)


def shard_leading(arrays: PyTree, length: int) -> PyTree:
    """Shard ``arrays`` by their leading axis if it has ``length`` and the devices divide it, inside or outside ``jit``.

    The carry of a loop of jitted calls must be sharded before the first call and at the end of each call. Otherwise the
    second call compiles again.
    """
    leaves = jax.tree.leaves(arrays)
    if size() == 1 and not any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves):
        return arrays
    _note_sharing()
    traced = any(isinstance(leaf, Tracer) for leaf in leaves)
    place = jax.lax.with_sharding_constraint if traced else _put
    return jax.tree.map(place, arrays, _shardings(arrays, length))


def _put(a: Any, sharding: NamedSharding) -> Array:
    """Place ``a``, an array or a ShapeDtypeStruct, according to ``sharding``. Of several hosts, which all hold the same
    ``a``, each places its part."""
    if isinstance(a, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding)  # type: ignore[return-value]
    if not hosts.is_multihost():
        return jax.device_put(a, sharding)
    if isinstance(a, jax.Array) and (not a.is_fully_addressable or jnp.issubdtype(a.dtype, jax.dtypes.prng_key)):
        return jax.jit(_identity, out_shardings=sharding)(a)
    # device_put would send the whole array to every host to check that all hold the same values.
    return jax.make_array_from_callback(a.shape, sharding, np.asarray(a).__getitem__)


def _identity(a: Array) -> Array:
    return a


def shard_state(state: Any) -> Any:
    """Shard a ``distill.State``: images and their optimiser state by class; everything else is replicated."""
    by_class = shard_leading((state.synthetic, state.optimiser), state.synthetic.images.shape[0])
    return shard_leading(state, 0)._replace(synthetic=by_class[0], optimiser=by_class[1])


def split_batch(batch: tuple[Array, ...], pad: bool) -> tuple[Array, ...]:
    """Split the batch of a training step, images [N, H, W, c] first and their weights last, over the devices if it is
    large enough. If they do not divide it, images of weight 0 fill it up; without ``pad`` it stays whole."""
    count, part = _shares(batch, MIN_PIXELS_TO_SPLIT)
    if count == 1 or count < size() or not (pad or len(batch[0]) % count == 0):
        return batch
    _note_sharing()
    batch = _filled_up(batch, part * size())
    # Replicate first, so that each device computes the whole batch and nothing is sent.
    for spec in (PartitionSpec(), PartitionSpec(AXIS)):
        batch = jax.lax.with_sharding_constraint(batch, NamedSharding(all_devices(), spec))
    return batch


def batch_sum(f: Callable[..., PyTree], batch: tuple[Array, ...], *shared: PyTree) -> PyTree:
    """Return ``f(batch, *shared)``, a weighted sum over the batch of a training step, images [N, H, W, c] first and
    their weights last.

    If the batch is large enough, each device computes the sum over its part. ``f`` must not close over arrays.
    """
    count, part = _shares(batch, MIN_PIXELS_TO_SUM)
    if count == 1:
        return f(batch, *shared)
    _note_sharing()
    n, busy = size(), -(-len(batch[0]) // part)  # the other devices have only images of weight 0

    def share(batch: tuple[Array, ...], *shared: PyTree) -> PyTree:
        with on_one_device():
            own = f if busy == n else partial(_unless_padding, jax.lax.axis_index(AXIS) < busy, f)
            leaves, structure = jax.tree.flatten(own(batch, *shared))
        # All arrays are reduced as one vector, so that CPU devices synchronise once. Scalars are reduced separately, so
        # that XLA can drop the unused ones.
        arrays = [i for i, a in enumerate(leaves) if a.ndim]
        vector, unravel = ravel_pytree([leaves[i] for i in arrays])
        total = dict(zip(arrays, unravel(jax.lax.psum(vector, AXIS)), strict=True))
        return structure.unflatten([total[i] if a.ndim else jax.lax.psum(a, AXIS) for i, a in enumerate(leaves)])

    specs = (PartitionSpec(AXIS), *(PartitionSpec() for _ in shared))
    mapped = jax.shard_map(share, mesh=all_devices(), in_specs=specs, out_specs=PartitionSpec(), check_vma=False)
    # Replicated first for the reason given in split_batch.
    return mapped(replicated(_filled_up(batch, part * n)), *shared)


def _shares(batch: tuple[Array, ...], pixels: int) -> tuple[int, int]:
    """Return how many devices share ``batch``, images [N, H, W, c] first, and how many images each gets at most. On a
    CPU each gets at least ``pixels`` pixels. A part is an even number, unless it is small or the devices divide the
    batch, because a prime number has no micro-batches."""
    n, height, width, _ = batch[0].shape
    count = min(size(), max(1, n * height * width // pixels) if on_cpu() else n)
    part = -(-n // count)
    return count, part if part <= FEW or n % count == 0 else part + part % 2


def _filled_up(batch: tuple[Array, ...], length: int) -> tuple[Array, ...]:
    """Return ``batch``, arrays [N, ...], with ``length`` entries. The new ones have weight 0."""
    n = len(batch[0])
    if n == length:
        return batch
    rows = jnp.arange(length)
    *arrays, weights = (a[rows % n] for a in batch)
    return (*arrays, jnp.where(rows < n, weights, 0))
