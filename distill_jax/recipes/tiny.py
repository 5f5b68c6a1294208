"""Tiny-ImageNet, 64x64x3, 200 classes: mse matching at base learning rate 5e-3, 1000 real images per model update.

ConvNet-4 for IDC's family and MTT, ConvNet-3 for DC, DSA and DM, as in their code. MTT's commands for ipc 1 and 10 give
no depth; its paper says 4. The images of DATM and RaT-BPTT are whitened, ``datm zca:folder:PATH``. RaT-BPTT's settings
are those released for ipc 10, without its learned labels. DREAM's release has a base learning rate of 1e-6 at ipc 50,
which applies to DREAM only. Published accuracies: published/tables/tiny.toml. TFDS does not have this data set: use
``folder:PATH`` or ``npz:PATH`` with ``--recipe tiny``.
"""

from distill_jax.nets import ConvNet
from distill_jax.recipes import IDC_FAMILY, IMAGENET, Overrides, datm, dc_loops, idc_rate, mtt, nearest, unrolled

MTT = {
    1: mtt(10, 2, 10, 10_000.0, rate_lr=1e-4),
    10: mtt(20, 2, 40, 10_000.0, rate_lr=1e-4, batch=200),
    50: mtt(20, 2, 40, 10_000.0, rate_lr=1e-4, batch=300),
}

DATM = {
    1: datm(40, 2, 0, (15, 20, 2000), 10_000.0, 10.0, rate_lr=1e-4),
    10: datm(40, 2, 10, (50, 50, 1), 100.0, 10.0, rate_lr=1e-4, batch=500),
    50: datm(20, 2, 40, (70, 70, 1), 100.0, 10.0, rate_lr=1e-4, batch=1000),
}


def recipe(ipc: int, shape: tuple[int, int, int], factor: int) -> Overrides:
    rate = idc_rate(ipc, shape[0])
    overrides = {
        "*": IMAGENET,
        IDC_FAMILY: {
            "optimiser.lr": 5e-3 * rate, "update.images": 1000, "selector.batch": 64,
        },
        "dream": {"optimiser.lr": (1e-6 if ipc == 50 else 5e-3) * rate},
        "dc dsa dm": {"net": ConvNet(depth=3)},
        "dc dsa": dc_loops(ipc),
        "mtt": nearest(MTT, ipc),
        "datm": nearest(DATM, ipc),
        # A thousand real images in a step, over all classes.
        "rat_bptt": {**unrolled(100, 300, 3e-4, batch=1, classes=50), "selector.batch": 5},
        "@rat": {"protocol.batch": 50, "protocol.epochs": max(1, round(250 / ipc))},  # a thousand steps
        "random_soft": {"models.epochs": nearest({1: 11, 10: 50, 50: 90, 100: 102}, ipc)},
    }  # fmt: skip
    return [overrides]
