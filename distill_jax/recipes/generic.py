"""Any data set without a recipe of its own: CIFAR's settings, scaled to the image side; nothing is mirrored."""

from distill_jax.recipes import IDC_FAMILY, Overrides, dc_loops, idc_rate, without_flip


def recipe(ipc: int, shape: tuple[int, int, int], factor: int) -> Overrides:
    overrides = {
        IDC_FAMILY: {"optimiser.lr": 5e-3 * idc_rate(ipc, shape[0]), "update.images": 500},
        "acc_dd dream_acc_dd": {"optimiser.lr": 1e-2 * idc_rate(ipc, shape[0])},
        "dc dsa": dc_loops(ipc),
        "mtt": {"models.size": 10, "outer_steps": 2000},
    }
    # A mirrored image may belong to another class; only a recipe for known data enables flipping.
    return [*without_flip(), overrides]
