"""Ten classes of ImageNet (or Imagenette), 224x224x3, ResNetAP-10. Published at ipc 10: IDC 72.8, Acc-DD 74.6.

Factor 3, l1 matching at base rate 3e-3 with reference side 224, 500 outer iterations for IDC and a fifth of that for
Acc-DD, a pool of 10 epochs, cutmix at every step; evaluation epochs fall with the number of decoded images.
"""

from distill_jax.nets import ResNetAP
from distill_jax.recipes import IDC_FAMILY, Overrides, dc_loops, idc_rate


def recipe(ipc: int, shape: tuple[int, int, int], factor: int) -> Overrides:
    decode = {"parameterisation.decode_type": "bound"} if ipc >= 20 and factor == 3 else {}
    matching = {"objective.metric": "l1", "optimiser.lr": 3e-3 * idc_rate(ipc, shape[0], 224)}
    updating = {"update.images": 500, "update.cutmix": 1.0, "models.epochs": 10, "models.cutmix": 1.0}
    return {
        "*": {"net": ResNetAP(10), "protocol.epochs": epochs(min(ipc * factor**2, 128)), "protocol.cutmix": 1.0},
        IDC_FAMILY: {"parameterisation.factor": 3, "outer_steps": 500, **matching, **updating, **decode},
        "acc_dd dream_acc_dd": {"outer_steps": 100},
        "dc dsa": dc_loops(ipc),
    }


def epochs(decoded: int) -> int:
    """Evaluation epochs for so many decoded images per class."""
    for most, number in ((1, 3000), (10, 2000), (50, 1500), (200, 1000), (500, 500)):
        if decoded <= most:
            return number
    return 300
