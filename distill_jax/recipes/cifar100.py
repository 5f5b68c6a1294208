"""CIFAR-100, 32x32x3, 100 classes, ConvNet-3: CIFAR-10's settings.

Published accuracy, ipc 1 / 10 / 50, each under its paper's protocol as for CIFAR-10: DC 12.8 / 25.2 / -, DSA 13.9 /
32.3 / 42.8, DM 11.4 / 29.7 / 43.6, CAFE 12.9 / 27.8 / 37.9, MTT 24.3 / 40.1 / 47.7, IDC 25.1 / 45.1 / -, DREAM 29.5 /
46.8 / 52.6, Acc-DD 29.8 / 45.6 / 52.6; random images 4.2 / 14.6 / 30.0, all data 56.2.

MTT's figures at ipc 1 and 50 are for whitened images, ``mtt zca:cifar100``.
NCFM 34.4 / 48.7 / 54.7, without its network that draws the frequencies, as here, - / 45.9 / 53.7: at ipc 10 alone its
images move by SGD. Random images under soft labels 16.0 / 34.3 / 47.1, RDED 19.6 / 48.1 / 57.0.
DC, DSA and DM normalise with CIFAR-100's statistics, the others with CIFAR-10's.
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
    mine = {
        "dc dsa dm": normalised((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
        "dm": {"optimiser.lr": 1.0},
        "mtt": nearest(MTT, ipc),
        "ncfm": {"optimiser": ClassByClassSGD(0.01, 0.5)} if ipc == 10 else {},
        "random_soft": {"models.epochs": nearest(LABELLED_AFTER, ipc), "models.optimiser.lr": 0.01},
    }
    return [*cifar10.recipe(ipc, shape, factor), mine]
