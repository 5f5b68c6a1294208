"""The networks. Each is a frozen dataclass (``types.Architecture``); ``ARCHITECTURES`` names them for the runners."""

from collections.abc import Callable
from functools import partial

from distill_jax.nets.convnet import ConvNet
from distill_jax.nets.net import FlaxNet
from distill_jax.nets.resnet import ResNet, ResNetAP
from distill_jax.nets.torch_weights import from_torch
from distill_jax.types import Architecture

ARCHITECTURES: dict[str, Callable[[], Architecture]] = {
    "convnet": ConvNet,
    "resnet10": partial(ResNet, 10),
    "resnet18": partial(ResNet, 18),
    "resnetap10": partial(ResNetAP, 10),
}

__all__ = ["ARCHITECTURES", "ConvNet", "FlaxNet", "ResNet", "ResNetAP", "from_torch"]
