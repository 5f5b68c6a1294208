"""One axis of devices under everything: CPU cores, GPUs or TPU chips share classes, networks, repeats and sweep points.

What is independent is mapped with ``map_chunks``, which gives every device its share; the gradient of a training step
is added up with ``batch_sum``, and what is left (the loss of the matching) XLA reduces. On one device these are a
plain map and a plain call, and the program has no trace of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
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
"""pixels of each CPU device's part of a batch, below which each does all of it, because the devices would wait for each
other for longer than they save: where one vector is summed (``batch_sum``), and where XLA sums (``split_batch``)"""

_alone: ContextVar[bool] = ContextVar("alone", default=False)
"""set while a function is traced that runs on one device of a map"""


def size() -> int:
    """How many devices share what is mapped here: all, but one within such a map."""
    return 1 if _alone.get() else jax.device_count()


@cache
def all_devices() -> Mesh:
    """Every device of this run on one axis."""
    return Mesh(np.asarray(jax.devices()), (AXIS,))


def map_chunks(f: Callable[..., PyTree], xs: PyTree, chunk: int, *shared: PyTree) -> PyTree:
    """``f(x, *shared)`` over the leading axis of ``xs``, shared out to the devices, ``chunk`` at a time on each.

    ``shared`` are arrays that every device has whole; ``f`` must close over none. Lengths that the devices do not
    divide are filled up with entries whose results are thrown away.
    """
    n, length = size(), jax.tree.leaves(xs)[0].shape[0]
    if n == 1 or length == 1:
        return tree.map_chunks(lambda x: f(x, *shared), xs, chunk)
    whole = -(-length // n) * n
    if whole > length:
        rows = jnp.arange(whole) % length
        xs = jax.tree.map(lambda a: a[rows], xs)

    def share(xs: PyTree, *shared: PyTree) -> PyTree:
        with on_one_device():
            return tree.map_chunks(lambda x: f(x, *shared), xs, chunk)

    specs = (PartitionSpec(AXIS), *(PartitionSpec() for _ in shared))
    mapped = jax.shard_map(share, mesh=all_devices(), in_specs=specs, out_specs=PartitionSpec(AXIS), check_vma=False)
    out = mapped(xs, *shared)
    # Whole on every device again, gathered once: what follows would otherwise be gathered wherever it is used.
    return out if whole == length else replicated(jax.tree.map(lambda a: a[:length], out))


@contextmanager
def on_one_device() -> Iterator[None]:
    """What is traced within runs on one device: maps in it are plain ones."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def _shardings(arrays: PyTree, length: int) -> PyTree:
    """Shardings of ``arrays``: those with a leading axis of ``length`` that the devices divide are shared out."""

    def of(a: Any) -> NamedSharding:
        split = a.ndim > 0 and 0 < a.shape[0] == length and length % size() == 0
        return NamedSharding(all_devices(), PartitionSpec(AXIS) if split else PartitionSpec())

    return jax.tree.map(of, arrays)


def replicated(arrays: PyTree) -> PyTree:
    """``arrays`` on every device."""
    return shard_leading(arrays, 0)


def shard_leading(arrays: PyTree, length: int) -> PyTree:
    """``arrays`` shared out by their leading axis of ``length``, where the devices divide it; within a program and
    outside of one. What goes round a loop of calls must be kept alike before the first call and at the end of each, or
    the second call compiles anew."""
    if size() == 1:
        return arrays
    traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(arrays))
    place = jax.lax.with_sharding_constraint if traced else _put
    return jax.tree.map(place, arrays, _shardings(arrays, length))


def _put(a: Any, sharding: NamedSharding) -> Array:
    """``a`` where ``sharding`` says; with several hosts, which all have the same ``a``, each puts its part."""
    if not hosts.is_multihost():
        return jax.device_put(a, sharding)
    if isinstance(a, jax.Array) and (not a.is_fully_addressable or jnp.issubdtype(a.dtype, jax.dtypes.prng_key)):
        return jax.jit(_same, out_shardings=sharding)(a)
    # device_put would send the whole array around to see that it is the same everywhere.
    return jax.make_array_from_callback(a.shape, sharding, np.asarray(a).__getitem__)


def _same(a: Array) -> Array:
    return a


def shard_state(state: Any) -> Any:
    """A ``distill.State`` where the devices keep it: images with the device that has their class, the rest on all."""
    by_class = shard_leading((state.synthetic, state.optimiser), len(state.synthetic.images))
    return shard_leading(state, 0)._replace(synthetic=by_class[0], optimiser=by_class[1])


def split_batch(batch: PyTree) -> PyTree:
    """The batch of a training step, images [N, H, W, c] first, each device a part of it, where it is worth it."""
    if not _worth_sharing(batch, MIN_PIXELS_TO_SPLIT):
        return batch
    # Whole on every device first: what comes before is done by each, and nothing is sent.
    for spec in (PartitionSpec(), PartitionSpec(AXIS)):
        batch = jax.lax.with_sharding_constraint(batch, NamedSharding(all_devices(), spec))
    return batch


def batch_sum(f: Callable[..., PyTree], batch: PyTree, *shared: PyTree) -> PyTree:
    """``f(batch, *shared)``, which is a sum over the batch of a training step, images [N, H, W, c] first: where it is
    worth it, the sum of what the devices find for a part each. ``f`` must close over no arrays."""
    if not _worth_sharing(batch, MIN_PIXELS_TO_SUM):
        return f(batch, *shared)

    def share(batch: PyTree, *shared: PyTree) -> PyTree:
        with on_one_device():
            found, structure = jax.tree.flatten(f(batch, *shared))
        # Arrays travel as one vector: CPU devices wait for each other once, not for every array. Numbers travel alone,
        # so that those that nobody reads do not.
        arrays = [i for i, a in enumerate(found) if a.ndim]
        vector, undone = ravel_pytree([found[i] for i in arrays])
        total = dict(zip(arrays, undone(jax.lax.psum(vector, AXIS)), strict=True))
        return structure.unflatten([total[i] if a.ndim else jax.lax.psum(a, AXIS) for i, a in enumerate(found)])

    specs = (PartitionSpec(AXIS), *(PartitionSpec() for _ in shared))
    mapped = jax.shard_map(share, mesh=all_devices(), in_specs=specs, out_specs=PartitionSpec(), check_vma=False)
    return mapped(replicated(batch), *shared)  # whole on every device first, as in split_batch


def _worth_sharing(batch: PyTree, pixels: int) -> bool:
    """Whether the devices divide a batch, and on CPUs whether each has so many ``pixels`` of it."""
    n, height, width, _ = jax.tree.leaves(batch)[0].shape
    return size() > 1 and n % size() == 0 and not (on_cpu() and n * height * width < pixels * size())
