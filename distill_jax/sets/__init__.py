"""Distilled sets that come with the library: ``DistilledSet.load("digits-ipc1")``.

``experiments.distill --uint8`` wrote each file. Its card holds the protocol and the score, and docs/sets.md gives the
command that made it.
"""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent
DISTILLED = "distilled.npz"
"""file of the set in a workdir"""


def names() -> tuple[str, ...]:
    """Return the names of the sets."""
    return tuple(sorted(path.stem for path in HERE.glob("*.npz")))


def located(path: Path) -> Path:
    """Return the file of the set that ``path`` names: a set of this package, the set in a workdir, or ``path``
    itself."""
    if path.is_dir():
        return path / DISTILLED
    return HERE / f"{path}.npz" if str(path) in names() and not path.exists() else path
