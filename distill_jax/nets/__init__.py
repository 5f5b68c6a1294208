"""The networks. Each is a frozen dataclass (``contracts.Architecture``); ``ARCHITECTURES`` names them for runners."""

from collections.abc import Callable
from functools import partial

from distill_jax.contracts import Architecture
from distill_jax.nets.convnet import ConvNet
from distill_jax.nets.densenet import DenseNet
from distill_jax.nets.net import FlaxNet
from distill_jax.nets.resnet import ResNet, ResNetAP
from distill_jax.nets.small import MLP, VGG11, AlexNet, LeNet
from distill_jax.nets.torch_weights import from_torch
from distill_jax.nets.vit import ViT

ARCHITECTURES: dict[str, Callable[[], Architecture]] = {
    "convnet": ConvNet,
    "resnet10": partial(ResNet, 10),
    "resnet18": partial(ResNet, 18),
    "resnetap10": partial(ResNetAP, 10),
    "densenet121": DenseNet,
    "mlp": MLP,
    "lenet": LeNet,
    "alexnet": AlexNet,
    "vgg11": VGG11,
    "vit": ViT,
}

__all__ = [
    "ARCHITECTURES",
    "MLP",
    "VGG11",
    "AlexNet",
    "ConvNet",
    "DenseNet",
    "FlaxNet",
    "LeNet",
    "ResNet",
    "ResNetAP",
    "ViT",
    "from_torch",
]
