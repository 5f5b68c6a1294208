"""Converts PyTorch state dicts of the published networks to the parameters of this library's networks."""

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
    """Return the Model of ``net`` with PyTorch's ``weights``.

    ``weights``: a state dict (name -> array, buffers included), or only the parameters in state-dict order.
    Convolutions, norms and linear layers are matched in order within each kind. Their names and the interleaving of
    the kinds do not matter, so the ConvNets of IDC and Acc-DD (all convolutions first) and of DC, DSA, DM and MTT
    (block by block) both load. OIHW kernels become HWIO, and (out, in) matrices (in, out). The rows of a linear layer
    after flattened (C, H, W) maps are reordered to (H, W, C).

    Raise RequestError if a layer is missing, superfluous or of another shape.
    """
    parameters, means, variances = _split_by_kind(weights)
    template, layers = _layers_in_order(net)
    queues = {kind: iter([layer for layer in layers if _kind(layer[1]) == kind]) for kind in (4, 2, 1)}
    flattened = _flattened_shapes(net)
    params: dict[str, Any] = {}
    arrays = iter(parameters)
    for array in arrays:
        kind = array.ndim if array.ndim in (4, 2) else 1
        path, leaves = _next(queues[kind], f"a layer of shape {array.shape} is superfluous")
        layer = {"scale" if kind == 1 else "kernel": _convert(array, flattened if kind == 2 else ())}
        if kind == 2:
            flattened = ()
        if "bias" in leaves:
            layer["bias"] = _convert(_next(arrays, f"the bias of {'.'.join(path)} is missing"))
        _put(params, path, {name: _checked(path, name, layer[name], leaf) for name, leaf in leaves.items()})
    for queue in queues.values():
        for path, _ in queue:
            raise _mismatch(f"{'.'.join(path)} is missing")
    return Model(params, _statistics(template.stats, layers, means, variances))


def _split_by_kind(weights: Mapping[str, Any] | Sequence[Any]) -> tuple[list[np.ndarray], ...]:
    """Return the parameters, the running means and the running variances, each in order."""
    if not isinstance(weights, Mapping):
        return [np.asarray(w) for w in weights], [], []
    by_kind: dict[str, list[np.ndarray]] = {"": [], "running_mean": [], "running_var": [], "num_batches_tracked": []}
    for name, value in weights.items():
        last = name.rpartition(".")[2]
        by_kind[last if last in by_kind else ""].append(np.asarray(value))
    return by_kind[""], by_kind["running_mean"], by_kind["running_var"]


Layer = tuple[tuple[str, ...], dict[str, jax.ShapeDtypeStruct]]


@cache
def _layers_in_order(net: FlaxNet) -> tuple[Model, list[Layer]]:
    """Return the net's shapes, and its layers in call order."""
    paths: list[tuple[str, ...]] = []

    def init(key: jax.Array) -> None:
        # net.init is compiled, which would sort the names.
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
    """Return 4 for a convolution, 2 for a linear layer, 1 for a norm."""
    return leaves["kernel"].ndim if "kernel" in leaves else 1


@cache
def _flattened_shapes(net: FlaxNet) -> tuple[tuple[int, ...], ...]:
    """Return the maps (H, W, C) that the first linear layer may flatten: the output of the last block, or the image."""

    def last(key: jax.Array) -> jax.Array:
        out, _ = net.apply(net.init(key), jnp.zeros((1, *net.shape), net.dtype), False)
        return out.blocks[-1].after

    return jax.eval_shape(last, jax.random.key(0)).shape[1:], net.shape


def _convert(array: np.ndarray, flattened: tuple[tuple[int, ...], ...] = ()) -> np.ndarray:
    if array.ndim == 4:  # OIHW
        return array.transpose(2, 3, 1, 0)
    if array.ndim == 3:  # scale or bias of a layer norm, (C, H, W)
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
    """Return the running statistics in the order of the norms, with PyTorch's initial values for missing ones."""
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
    return RequestError(f"the PyTorch weights are of another network ({what}): choose its depth, width and norm")
