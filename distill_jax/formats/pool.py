"""Imports networks trained with PyTorch as a pool of early-stage models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distill_jax import tree
from distill_jax.formats.torch_file import loads
from distill_jax.nets import FlaxNet, from_torch
from distill_jax.types import Model, Net, RequestError

STATE_KEYS = ("state_dict", "model_state_dict", "model", "net")
"""keys under which a checkpoint may hold its weights"""


def pool_from_torch(net: Net, paths: Sequence[Path]) -> Model:
    """Read P files of ``torch.save`` into Model[P]. Each file is a state dict, a list of parameters in the order of the
    state dict, or a checkpoint with a state dict inside.

    Layers are matched by kind and order, so that the ConvNets of all published codebases fit (``nets.from_torch``).
    Raise RequestError, which names the file, if a file is missing, damaged, or holds the weights of another network,
    and if ``net`` is the user's own network.
    """
    if not isinstance(net, FlaxNet):
        raise RequestError(
            f"PyTorch weights cannot be loaded into {type(net).__name__}: choose a network of distill_jax"
        )
    return tree.stack([_model(net, path) for path in paths])


def _model(net: FlaxNet, path: Path) -> Model:
    try:
        checkpoint = loads(path.read_bytes(), str(path))
    except OSError as error:
        raise RequestError(f"cannot read {path} ({error.strerror}): check the path") from error
    try:
        return from_torch(net, _weights(checkpoint))
    except RequestError as error:
        raise RequestError(f"{path}: {error}") from error


def _weights(checkpoint: Any) -> Mapping[str, Any] | Sequence[Any]:
    """Return the arrays of a checkpoint."""
    if isinstance(checkpoint, Mapping):
        nested = [checkpoint[key] for key in STATE_KEYS if isinstance(checkpoint.get(key), Mapping)]
        checkpoint = nested[0] if nested else checkpoint
    arrays = list(checkpoint.values()) if isinstance(checkpoint, Mapping) else checkpoint
    if not isinstance(arrays, list) or not all(hasattr(array, "shape") for array in arrays):
        raise RequestError("it is not a file of weights: give a state dict, or a checkpoint with a state_dict")
    return checkpoint
