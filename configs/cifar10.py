"""The papers' table for CIFAR-10: test accuracy in percent of a ConvNet-3 (width 128) trained from scratch on the set.

One cell is one command, for example

    python -m experiments.distill acc_dd cifar10 --ipc 10

on one GPU; no cell has been measured here yet (results/gpu.md). ``command`` makes the command of a cell. Each figure is
of its own paper's protocol, so two rows differ by a little more than their methods.
"""

IPCS = (1, 10, 50)

PUBLISHED = {
    "random": (14.4, 26.0, 43.4),
    "dc": (28.3, 44.9, 53.9),
    "dsa": (28.2, 52.1, 60.6),
    "dm": (26.0, 48.9, 63.0),
    "cafe": (30.3, 46.3, 55.5),
    "mtt": (46.3, 65.3, 71.6),
    "idc": (50.6, 67.5, 74.5),
    "dream": (51.1, 69.4, 74.8),
    "acc_dd": (49.2, 67.1, 73.8),
}
"""method -> figure at each of IPCS; ``acc_dd`` is the paper's Ours5, a fifth of IDC's iterations"""

ALL_DATA = 88.1
"""the same network trained on all 50 000 images"""

WHITENED = {("mtt", 1), ("mtt", 10)}
"""cells whose figure is for ZCA-whitened images: DATASET is ``zca:cifar10`` there"""


def command(method: str, ipc: int) -> str:
    """The command that reproduces a cell with the published settings."""
    dataset = "zca:cifar10" if (method, ipc) in WHITENED else "cifar10"
    return f"python -m experiments.distill {method} {dataset} --ipc {ipc}"
