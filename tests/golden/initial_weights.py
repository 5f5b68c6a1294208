"""Writes initial_weights.json (README.md, at the end): python tests/golden/initial_weights.py, with PyTorch installed.

The layers of each network as its authors' code lists them, for 32x32x3 images (ResNetAP-10 also for 224x224x3) and 10
classes; torch draws them. Nothing is run forward.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch  # type: ignore
from torch import nn  # type: ignore

Layers = dict[str, Any]  # name -> nn.Module


def convnet(width: int = 128, depth: int = 3) -> Layers:
    """IDC, models/convnet.py"""
    convs = {f"layers.conv.{d}": nn.Conv2d(width if d else 3, width, 3) for d in range(depth)}
    norms = {f"layers.norm.{d}": nn.GroupNorm(width, width) for d in range(depth)}
    return convs | norms | {"classifier": nn.Linear(width * (32 // 2**depth) ** 2, 10)}


def resnet(per_stage: int, first: int = 32, stem: int = 3, pooled: bool = False) -> Layers:
    """IDC, models/resnet.py and resnet_ap.py"""
    found: Layers = {}

    def conv(name: str, inputs: int, outputs: int, size: int, norm: str) -> None:
        found[name] = nn.Conv2d(inputs, outputs, size, bias=False)
        found[norm] = nn.GroupNorm(outputs, outputs)

    conv("layer0.conv1", 3, first, stem, "layer0.bn1")
    inputs = first
    for stage in range(4):
        width = first * 2**stage
        for b in range(per_stage):
            block = f"layer{stage + 1}.{b}"
            conv(f"{block}.conv1", inputs, width, 3, f"{block}.bn1")
            conv(f"{block}.conv2", width, width, 3, f"{block}.bn2")
            if inputs != width:
                conv(f"{block}.downsample.0", inputs, width, 1, f"{block}.downsample.{2 if pooled else 1}")
            inputs = width
    for module in found.values():
        if isinstance(module, nn.Conv2d):
            module.weight.data.normal_(0, math.sqrt(2.0 / (module.kernel_size[0] ** 2 * module.out_channels)))
        else:
            module.weight.data.fill_(1)
            module.bias.data.zero_()
    return found | {"fc": nn.Linear(inputs, 10)}


def densenet(growth: int = 12) -> Layers:
    """IDC, models/densenet_cifar.py"""
    width = 2 * growth
    found: Layers = {"conv1": nn.Conv2d(3, width, 3, bias=False)}
    for stage, layers in enumerate((6, 12, 24, 16), start=1):
        for i in range(layers):
            found[f"dense{stage}.{i}.bn1"] = nn.BatchNorm2d(width)
            found[f"dense{stage}.{i}.conv1"] = nn.Conv2d(width, 4 * growth, 1, bias=False)
            found[f"dense{stage}.{i}.bn2"] = nn.BatchNorm2d(4 * growth)
            found[f"dense{stage}.{i}.conv2"] = nn.Conv2d(4 * growth, growth, 3, bias=False)
            width += growth
        if stage < 4:
            found[f"trans{stage}.bn"] = nn.BatchNorm2d(width)
            found[f"trans{stage}.conv"] = nn.Conv2d(width, width // 2, 1, bias=False)
            width //= 2
    return found | {"bn": nn.BatchNorm2d(width), "linear": nn.Linear(width, 10)}


def plain(widths: tuple[int, ...], sizes: tuple[int, ...], hidden: tuple[int, ...], norm: bool = False) -> Layers:
    """DC, networks.py: LeNet, AlexNet, VGG; ``hidden`` begins with what the first linear layer reads"""
    found: Layers = {}
    for i, (inputs, outputs, size) in enumerate(zip((3, *widths), widths, sizes, strict=False)):
        found[f"conv{i}"] = nn.Conv2d(inputs, outputs, size)
        if norm:
            found[f"norm{i}"] = nn.GroupNorm(outputs, outputs)
    for i, (inputs, outputs) in enumerate(zip(hidden, (*hidden[1:], 10), strict=True), start=1):
        found[f"fc_{i}"] = nn.Linear(inputs, outputs)
    return found


def vit(width: int = 128, depth: int = 4, tokens: int = 64, patch: int = 4) -> Layers:
    """No authors' PyTorch code: PyTorch's default layers; positions of std 0.02, as Dosovitskiy et al. release them"""
    position = nn.ParameterList([nn.Parameter(nn.init.normal_(torch.empty(tokens, width), std=0.02))])
    found: Layers = {"patches": nn.Linear(3 * patch**2, width), "position": position}
    for b in range(depth):
        found[f"{b}.norm1"] = nn.LayerNorm(width)
        found[f"{b}.qkv"] = nn.Linear(width, 3 * width)
        found[f"{b}.attended"] = nn.Linear(width, width)
        found[f"{b}.norm2"] = nn.LayerNorm(width)
        found[f"{b}.expand"] = nn.Linear(width, 4 * width)
        found[f"{b}.contract"] = nn.Linear(4 * width, width)
    return found | {"norm": nn.LayerNorm(width), "classifier": nn.Linear(width, 10)}


def figures(layers: Layers) -> dict[str, list]:
    """parameter -> [kind, shape, mean, std, min, max]"""
    kinds = {nn.Conv2d: "conv", nn.Linear: "linear", nn.ParameterList: "position"}
    found = {}
    for name, module in layers.items():
        for parameter, w in module.named_parameters():
            w = w.detach().double()
            numbers = [w.mean(), w.std(correction=0), w.min(), w.max()]
            numbers = [float(f"{n.item():.{3 if i == 0 else 5}g}") for i, n in enumerate(numbers)]
            numbers = [int(n) if n == int(n) else n for n in numbers]
            found[f"{name}.{parameter}"] = [kinds.get(type(module), "norm"), list(w.shape), *numbers]
    return found


NETS = {
    "convnet": convnet,
    "resnet10": lambda: resnet(1),
    "resnet18": lambda: resnet(2),
    "resnetap10": lambda: resnet(1, pooled=True),
    "resnetap10 224": lambda: resnet(1, 64, 7, pooled=True),
    "densenet121": densenet,
    "mlp": lambda: plain((), (), (3072, 128, 128)),
    "lenet": lambda: plain((6, 16), (5, 5), (400, 120, 84)),
    "alexnet": lambda: plain((128, 192, 256, 192, 192), (5, 5, 3, 3, 3), (3072,)),
    "vgg11": lambda: plain((64, 128, 256, 256, 512, 512, 512, 512), (3,) * 8, (512,), norm=True),
    "vit": vit,
}


def main() -> None:
    torch.manual_seed(0)
    rows = []
    for name, layers in NETS.items():
        parameters = (f"{json.dumps(p)}:{json.dumps(f, separators=(',', ':'))}" for p, f in figures(layers()).items())
        rows.append(json.dumps(name) + ":{\n" + ",\n".join(parameters) + "}")
    Path(__file__).with_suffix(".json").write_text("{" + ",\n".join(rows) + "}\n")


if __name__ == "__main__":
    main()
