"""CIFAR-100, 32x32x3, 100 classes, ConvNet-3, with CIFAR-10's settings except those below. Published accuracies:
published/tables/cifar100.toml.

MTT's images at ipc 1 and 50 are whitened, ``mtt zca:cifar100``. NCFM updates images by SGD only at ipc 10.
RaT-BPTT sees as many real images in a step, and its networks take as many steps, as on CIFAR-10. DC, DSA and
DM normalise with CIFAR-100's statistics, all other methods with CIFAR-10's.
"""

from distill_jax.axes.optimiser import ClassByClassSGD
from distill_jax.recipes import Overrides, cifar10, mtt, nearest, normalised

MTT = {
    1: mtt(20, 3, 20, 1000.0),
    10: mtt(20, 2, 20, 1000.0),
    50: mtt(80, 2, 40, 1000.0, batch=125),
}


LABELLED_AFTER = {1: 13, 10: 36, 50: 125}


def recipe(ipc: int, shape: tuple[int, int, int], factor: int) -> Overrides:
    overrides = {
        "dc dsa dm": normalised((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
        "dm": {"optimiser.lr": 1.0},
        "mtt": nearest(MTT, ipc),
        "ncfm": {"optimiser": ClassByClassSGD(0.01, 0.5)} if ipc == 10 else {},
        "random_soft": {"models.epochs": nearest(LABELLED_AFTER, ipc), "models.optimiser.lr": 0.01},
        "rat_bptt": {"selector.batch": 50},
        "@rat": {"protocol.epochs": max(1, round(1000 / ipc))},
    }
    return [*cifar10.recipe(ipc, shape, factor), overrides]
