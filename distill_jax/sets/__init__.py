"""Distilled sets that come with the library, to use at once: ``DistilledSet.load("digits-ipc1")``.

Each file is what ``experiments.distill --uint8`` wrote; its card holds the protocol and the score. docs/sets.md says
with which command each was made.
"""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent


def names() -> tuple[str, ...]:
    """What the sets are called."""
    return tuple(sorted(path.stem for path in HERE.glob("*.npz")))


def located(path: Path) -> Path:
    """The file of the set that ``path`` names; ``path`` itself where something is there, or no set is called so."""
    return HERE / f"{path}.npz" if str(path) in names() and not path.exists() else path
