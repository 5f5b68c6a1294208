"""A hundred classes of ImageNet, 224x224x3, ResNetAP-10: ImageNet-10's settings but for what is named here.

The paper distils it in five parts of 20 classes: put each part into a folder of its own and run ``folder:PATH``.
Evaluation takes two thirds of ImageNet-10's epochs, rounded down to hundreds.
"""

from distill_jax.recipes import IDC_FAMILY, Overrides, idc_rate, imagenet10, merged
from distill_jax.train import NetworkSGD


def recipe(ipc: int, shape: tuple[int, int, int], factor: int) -> Overrides:
    few = imagenet10.epochs(min(ipc * factor**2, 128)) * 2 // 3 // 100 * 100
    rates = {
        "optimiser.lr": 1e-3 * idc_rate(ipc, shape[0], 224),
        "update.optimiser": NetworkSGD(0.1, weight_decay=1e-4),
        "models.optimiser": NetworkSGD(0.1, weight_decay=1e-4),
    }
    batches = {"update.batch": 128, "models.batch": 128, "selector.batch": 128}
    mine = {
        "*": {"protocol.epochs": few, "protocol.rate": 0.1, "protocol.weight_decay": 1e-4, "protocol.batch": 128},
        IDC_FAMILY: {**rates, **batches},
    }
    return merged(imagenet10.recipe(ipc, shape, factor), mine)
