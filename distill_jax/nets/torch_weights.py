"""PyTorch state dicts of the published networks as our parameters."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from distill_jax.nets.net import FlaxNet
from distill_jax.types import Model, RequestError


def from_torch(net: FlaxNet, weights: Mapping[str, Any] | Sequence[Any]) -> Model:
    """The Model of ``net`` with PyTorch's weights.

    ``weights``: a state dict (name -> array, buffers included), or the parameters alone in state-dict order.
    Convolutions, norms and linear layers are each taken in order, whatever their names and however the three kinds are
    interleaved; so the ConvNets of IDC and Acc-DD (all convolutions first) and of DC, DSA, DM and MTT (block by block)
    both load. OIHW kernels become HWIO, (out, in) matrices (in, out), and rows that a
    linear layer takes from flattened (C, H, W) maps are reordered to our (H, W, C).

    Raises RequestError where a layer is missing, left over or of another shape.
    """
    parameters, means, variances = _sorted_by_kind(weights)
    template, layers = _layers_in_order(net)
    queues = {kind: iter([layer for layer in layers if _kind(layer[1]) == kind]) for kind in (4, 2, 1)}
    flattened = _flattened_shapes(net)
    params: dict[str, Any] = {}
    arrays = iter(parameters)
    for array in arrays:
        kind = array.ndim if array.ndim in (4, 2) else 1
        path, leaves = _next(queues[kind], f"a layer of shape {array.shape} is left over")
        layer = {"scale" if kind == 1 else "kernel": _ours(array, flattened if kind == 2 else ())}
        if kind == 2:
            flattened = ()
        if "bias" in leaves:
            layer["bias"] = _ours(_next(arrays, f"the bias of {'.'.join(path)} is missing"))
        _put(params, path, {name: _checked(path, name, layer[name], leaf) for name, leaf in leaves.items()})
    for queue in queues.values():
        for path, _ in queue:
            raise _mismatch(f"{'.'.join(path)} is missing")
    return Model(params, _statistics(template.stats, layers, means, variances))


def _sorted_by_kind(weights: Mapping[str, Any] | Sequence[Any]) -> tuple[list[np.ndarray], ...]:
    """(parameters, running means, running variances), each in order"""
    if not isinstance(weights, Mapping):
        return [np.asarray(w) for w in weights], [], []
    found: dict[str, list[np.ndarray]] = {"": [], "running_mean": [], "running_var": [], "num_batches_tracked": []}
    for name, value in weights.items():
        last = name.rpartition(".")[2]
        found[last if last in found else ""].append(np.asarray(value))
    return found[""], found["running_mean"], found["running_var"]


Layer = tuple[tuple[str, ...], dict[str, jax.ShapeDtypeStruct]]


@cache
def _layers_in_order(net: FlaxNet) -> tuple[Model, list[Layer]]:
    """The net's shapes, and its layers in the order in which they are called."""
    paths: list[tuple[str, ...]] = []

    def init(key: jax.Array) -> None:
        # Not net.init, whose compilation sorts the names.
        variables = net.module.init(key, jnp.zeros((1, *net.shape), net.dtype), False)
        paths.extend(_walk(variables["params"]))

    jax.eval_shape(init, jax.random.key(0))
    template = jax.eval_shape(lambda: net.init(jax.random.key(0)))
    return template, [(path, _get(template.params, path)) for path in paths]


def _walk(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if not any(isinstance(child, Mapping) for child in tree.values()):
        yield path
        return
    for name, child in tree.items():
        yield from _walk(child, (*path, name))


def _get(tree: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        tree = tree[name]
    return tree


def _put(tree: dict[str, Any], path: tuple[str, ...], layer: dict[str, Any]) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = layer


def _kind(leaves: Mapping[str, Any]) -> int:
    """4 convolution, 2 linear, 1 norm"""
    return leaves["kernel"].ndim if "kernel" in leaves else 1


@cache
def _flattened_shapes(net: FlaxNet) -> tuple[tuple[int, ...], ...]:
    """Maps (H, W, C) that the first linear layer may have flattened: the last block's, or the image itself."""

    def last(key: jax.Array) -> jax.Array:
        out, _ = net.apply(net.init(key), jnp.zeros((1, *net.shape), net.dtype), False)
        return out.blocks[-1].after

    return jax.eval_shape(last, jax.random.key(0)).shape[1:], net.shape


def _ours(array: np.ndarray, flattened: tuple[tuple[int, ...], ...] = ()) -> np.ndarray:
    if array.ndim == 4:  # OIHW
        return array.transpose(2, 3, 1, 0)
    if array.ndim == 3:  # scale or bias of layer norm, (C, H, W)
        return array.transpose(1, 2, 0)
    if array.ndim != 2:
        return array
    for height, width, channels in flattened:
        if math.prod((height, width, channels)) == array.shape[1]:
            maps = array.reshape(-1, channels, height, width)
            return maps.transpose(2, 3, 1, 0).reshape(array.shape[1], -1)
    return array.T


def _statistics(
    stats: Any, layers: list[Layer], means: list[np.ndarray], variances: list[np.ndarray]
) -> dict[str, Any]:
    """Running statistics in the order of the norms; PyTorch's starting values where the weights have none."""
    result: dict[str, Any] = {}
    if not stats:
        return result
    norms = [path for path, leaves in layers if _kind(leaves) == 1]
    for i, path in enumerate(norms):
        leaf = _get(stats, path)
        mean = means[i] if i < len(means) else np.zeros(leaf["mean"].shape)
        variance = variances[i] if i < len(variances) else np.ones(leaf["var"].shape)
        given = {"mean": mean, "var": variance}
        _put(result, path, {name: _checked(path, name, given[name], leaf[name]) for name in given})
    return result


def _checked(path: tuple[str, ...], name: str, array: np.ndarray, leaf: jax.ShapeDtypeStruct) -> jax.Array:
    if array.shape != leaf.shape:
        raise _mismatch(f"{'.'.join((*path, name))} has shape {array.shape}, not {leaf.shape}")
    return jnp.asarray(array, leaf.dtype)


def _next(iterator: Iterator[Any], missing: str) -> Any:
    for value in iterator:
        return value
    raise _mismatch(missing)


def _mismatch(what: str) -> RequestError:
    return RequestError(f"the PyTorch weights are of another network: {what}; choose its depth, width and norm")
