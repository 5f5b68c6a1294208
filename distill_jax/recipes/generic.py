"""Any data set that no other recipe is meant for: CIFAR's settings, scaled to the image side; nothing is mirrored."""

from distill_jax.recipes import IDC_FAMILY, Overrides, dc_loops, idc_rate, without_flip


def recipe(ipc: int, shape: tuple[int, int, int], factor: int) -> Overrides:
    mine = {
        IDC_FAMILY: {"optimiser.lr": 5e-3 * idc_rate(ipc, shape[0]), "update.images": 500},
        "acc_dd dream_acc_dd": {"optimiser.lr": 1e-2 * idc_rate(ipc, shape[0])},
        "dc dsa": dc_loops(ipc),
        "mtt": {"models.size": 10, "outer_steps": 2000},
    }
    # A mirrored image may be another class; only a recipe that knows the data turns flipping on.
    return [*without_flip(), mine]
