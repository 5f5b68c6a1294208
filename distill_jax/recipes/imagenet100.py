"""A hundred classes of ImageNet, 224x224x3, ResNetAP-10: ImageNet-10's settings with the differences below.

IDC draws from a pool of ten networks trained for five epochs. Its images are distilled in five parts of 20 classes,
with networks for all classes: ``--classes 0:20`` and so on, then ``experiments.join``. Evaluation takes two thirds of
ImageNet-10's epochs, rounded down to hundreds.
"""

from distill_jax.axes.models import EarlyStagePool
from distill_jax.recipes import IDC_FAMILY, Overrides, idc_rate, imagenet10
from distill_jax.train import NetworkSGD

SGD = NetworkSGD(0.1, weight_decay=1e-4)


def recipe(ipc: int, shape: tuple[int, int, int], factor: int) -> Overrides:
    few = imagenet10.epochs(ipc * factor**2) * 2 // 3 // 100 * 100
    pool = EarlyStagePool(10, 5, SGD, batch=128, cutmix=1.0, schedule="constant")
    overrides = {
        "@idc": {
            "protocol.epochs": few, "protocol.rate": 0.1, "protocol.weight_decay": 1e-4, "protocol.batch": 128,
        },
        IDC_FAMILY: {
            "optimiser.lr": 1e-3 * idc_rate(ipc, shape[0], 224), "update.optimiser": SGD, "update.batch": 128,
        },
        "acc_dd dream_acc_dd": {"models.optimiser": SGD, "models.batch": 128},
        "acc_dd": {"selector.batch": 128},
        "idc": {"models": pool, "update.early": 0},
    }  # fmt: skip
    return [*imagenet10.recipe(ipc, shape, factor), overrides]
