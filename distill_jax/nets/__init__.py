"""The networks. Each is a frozen dataclass (``types.Architecture``); ``ARCHITECTURES`` names them for the runners."""

from collections.abc import Callable

from distill_jax.nets.convnet import ConvNet
from distill_jax.nets.net import FlaxNet
from distill_jax.nets.torch_weights import from_torch
from distill_jax.types import Architecture

ARCHITECTURES: dict[str, Callable[[], Architecture]] = {"convnet": ConvNet}

__all__ = ["ARCHITECTURES", "ConvNet", "FlaxNet", "from_torch"]
