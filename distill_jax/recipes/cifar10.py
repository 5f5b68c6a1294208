"""CIFAR-10, 32x32x3, 10 classes, ConvNet-3. Published accuracies: published/tables/cifar10.toml.

Acc-DD takes a fifth of IDC's iterations, the paper's Ours5. MTT's images at ipc 1 and 10 are whitened,
``mtt zca:cifar10``, as are all images of DATM and RaT-BPTT. Here DATM uses MTT's experts, trained by plain SGD (the
release flattens its experts by GSAM), and RaT-BPTT uses MTT's whitening. RaT-BPTT's settings are published for ipc 10
only.

NCFM's protocol (2000 epochs of AdamW, the best reading on the test set) is not available here. Its settings are the
preset's for every ipc. The released code uses the same first 1024 images of each class in every step; here each step
draws new ones. The labelling network of random_soft also sees whitened images, ``random_soft zca:cifar10``, and stops
after 20 / 44 / 128 epochs, where its own accuracy is 56.0 / 65.1 / 74.9. On images that are not whitened, its learning
rate of 5e-4 is too small (results/cifar10_small.md). RDED's paper gives every view of an image a new label, and its
network has batch norm (--net.norm batch).

    python -m experiments.distill acc_dd cifar10 --ipc 10
"""

from distill_jax.recipes import (
    DREAMS,
    IDC_FAMILY,
    Overrides,
    datm,
    dc_loops,
    idc_rate,
    mtt,
    nearest,
    normalised,
    unrolled,
)

MTT = {
    1: mtt(50, 2, 2, 100.0, rate_lr=1e-7),
    10: mtt(30, 2, 20, 100.0, rate=1e-3),
    50: mtt(30, 2, 40, 1000.0, rate=1e-3),
}

LABELLED_AFTER = {1: 20, 10: 44, 50: 128, 100: 164}
"""epochs of the network that labels random images"""
DATM = {
    1: {**datm(80, 2, 0, (4, 4, 1), 100.0, 5.0, rate_lr=1e-7), "objective.threshold": 1.1},
    10: datm(80, 2, 0, (10, 20, 1000), 100.0, 2.0),
    50: datm(80, 2, 0, (20, 40, 2000), 1000.0, 2.0),
    500: datm(40, 2, 40, (60, 60, 1), 50.0, 10.0, batch=1000),
    1000: datm(100, 2, 40, (60, 60, 1), 50.0, 10.0, batch=1000),
}

STATISTICS = normalised((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
"""in nearly every code, the deviations are means over single images; those of the pixels are 0.247, 0.243, 0.261"""


def recipe(ipc: int, shape: tuple[int, int, int], factor: int) -> Overrides:
    rate = idc_rate(ipc, shape[0])
    overrides = {
        "*": STATISTICS,
        IDC_FAMILY: {"optimiser.lr": 5e-3 * rate, "update.images": 2000},
        "acc_dd dream_acc_dd": {"optimiser.lr": 1e-2 * rate},
        DREAMS: {"update.batch": 128},
        "dc dsa": dc_loops(ipc),
        "dm": {"optimiser.lr": 1.0 if ipc < 100 else 10.0},
        "mtt": nearest(MTT, ipc),
        "random_soft": {"models.epochs": nearest(LABELLED_AFTER, ipc), "models.optimiser.lr": 5e-4},
        "datm": nearest(DATM, ipc),
        "rat_bptt": unrolled(60, 200, 1e-3),
        # This keeps the number of steps constant for every size of the set.
        "@rat": {"protocol.epochs": max(1, round(1000 / -(-10 * ipc // 100)))},
    }
    return [overrides]
