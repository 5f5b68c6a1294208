"""Tiny-ImageNet, 64x64x3, 200 classes, ConvNet-4: mse matching at base rate 5e-3, 1000 real images per model update.

Not in TFDS: use ``folder:PATH`` or ``npz:PATH`` with ``--recipe tiny``.
"""

from distill_jax.recipes import IDC_FAMILY, Overrides, dc_loops, idc_rate, mtt, nearest

MTT = {
    1: mtt(10, 2, 10, 10_000.0, rate_lr=1e-4),
    10: mtt(20, 2, 40, 10_000.0, rate_lr=1e-4, batch=200),
    50: mtt(20, 2, 40, 10_000.0, rate_lr=1e-4, batch=300),
}


def recipe(ipc: int, shape: tuple[int, int, int], factor: int) -> Overrides:
    return {
        IDC_FAMILY: {"optimiser.lr": 5e-3 * idc_rate(ipc, shape[0]), "update.images": 1000, "selector.batch": 64},
        "dc dsa": dc_loops(ipc),
        "mtt": nearest(MTT, ipc),
    }
