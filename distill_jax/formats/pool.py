"""Networks trained with PyTorch as a pool of early-stage models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distill_jax import tree
from distill_jax.formats.torch_file import loads
from distill_jax.nets import FlaxNet, from_torch
from distill_jax.types import Model, Net, RequestError

INSIDE = ("state_dict", "model_state_dict", "model", "net")
"""where checkpoints of more than weights have them"""


def pool_from_torch(net: Net, paths: Sequence[Path]) -> Model:
    """Model[P] of the weights in P files of ``torch.save``, each a state dict, a list of parameters in its order, or a
    checkpoint with a state dict inside.

    Layers are matched by kind and order, so the ConvNets of all published codes fit (``nets.from_torch``). Raises
    RequestError, naming the file, where one is missing, damaged, or holds the weights of another network, and where
    ``net`` is of the user's own.
    """
    if not isinstance(net, FlaxNet):
        raise RequestError(
            f"weights of PyTorch fit the networks of distill_jax alone: choose another than {type(net).__name__}"
        )
    return tree.stack([_model(net, path) for path in paths])


def _model(net: FlaxNet, path: Path) -> Model:
    try:
        held = loads(path.read_bytes(), str(path))
    except OSError as error:
        raise RequestError(f"cannot read {path} ({error.strerror}): check the path") from error
    try:
        return from_torch(net, _weights(held))
    except RequestError as error:
        raise RequestError(f"{path}: {error}") from error


def _weights(held: Any) -> Mapping[str, Any] | Sequence[Any]:
    """The arrays in what a file holds."""
    if isinstance(held, Mapping):
        inside = [held[key] for key in INSIDE if isinstance(held.get(key), Mapping)]
        held = inside[0] if inside else held
    arrays = list(held.values()) if isinstance(held, Mapping) else held
    if not isinstance(arrays, list) or not all(hasattr(array, "shape") for array in arrays):
        raise RequestError("no weights alone: give a state dict, or a checkpoint with state_dict")
    return held
