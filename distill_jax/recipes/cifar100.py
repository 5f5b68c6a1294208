"""CIFAR-100, 32x32x3, 100 classes, ConvNet-3, with CIFAR-10's settings except those below. Published accuracies:
published/tables/cifar100.toml.

MTT's images at ipc 1 and 50 are whitened, ``mtt zca:cifar100``, as are all images of DATM and RaT-BPTT. NCFM updates
images by SGD only at ipc 10. RaT-BPTT's settings are published for ipc 1 and 10; the release also learns labels, which
it uses as probabilities. At ipc 50, DATM's release takes each label from one expert, here from all that predict it. DC,
DSA and DM normalise with CIFAR-100's statistics, all other methods with CIFAR-10's.
"""

from distill_jax.axes.init import RandomReal
from distill_jax.axes.optimiser import ClassByClassSGD
from distill_jax.recipes import Overrides, cifar10, datm, mtt, nearest, normalised, unrolled

MTT = {
    1: mtt(20, 3, 20, 1000.0),
    10: mtt(20, 2, 20, 1000.0),
    50: mtt(80, 2, 40, 1000.0, batch=125),
}

DATM = {
    1: datm(40, 3, 0, (10, 20, 1000), 1000.0, 10.0),
    10: datm(80, 2, 0, (30, 50, 2000), 1000.0, 10.0),
    50: {**datm(80, 2, 20, (70, 70, 1), 1000.0, 10.0, batch=1000), "init": RandomReal()},
    100: datm(80, 2, 30, (70, 70, 1), 50.0, 10.0, batch=1000),
}

RAT_BPTT = {
    1: unrolled(90, 130, 3e-4, least=40, batch=1),
    10: unrolled(100, 300, 1e-3, batch=1),
}

LABELLED_AFTER = {1: 13, 10: 36, 50: 125}


def recipe(ipc: int, shape: tuple[int, int, int], factor: int) -> Overrides:
    overrides = {
        "dc dsa dm": normalised((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
        "dm": {"optimiser.lr": 1.0},
        "mtt": nearest(MTT, ipc),
        "ncfm": {"optimiser": ClassByClassSGD(0.01, 0.5)} if ipc == 10 else {},
        "random_soft": {"models.epochs": nearest(LABELLED_AFTER, ipc), "models.optimiser.lr": 0.01},
        "datm": {**nearest(DATM, ipc), "objective.threshold": 1.0},
        "rat_bptt": {**nearest(RAT_BPTT, ipc), "selector.batch": 50},  # 5000 real images in a step
        "@rat": {"protocol.epochs": max(1, round(1000 / ipc))},  # a thousand steps, as on CIFAR-10
    }
    return [*cifar10.recipe(ipc, shape, factor), overrides]
