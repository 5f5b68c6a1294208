"""Numbers as a person reads them: bytes, arithmetic, and tables of both."""

from __future__ import annotations

from collections.abc import Sequence


def binary(amount: float) -> str:
    """Bytes: 512 B, 1.5 KiB, 846 MiB."""
    return _scaled(amount, 1024, ["B", "KiB", "MiB", "GiB", "TiB", "PiB"])


def arithmetic(amount: float) -> str:
    """Operations: 54 FLOP, 1.1 TFLOP."""
    return _scaled(amount, 1000, ["FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP"])


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with the columns aligned: the first and the last to the left, the others to the right."""
    cells = [head, *rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    last = len(head) - 1

    def line(row: Sequence[str]) -> str:
        aligned = (c.rjust(w) if 0 < i < last else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        return "  ".join(aligned).rstrip()

    return [line(row) for row in cells]


def _scaled(amount: float, step: int, units: list[str]) -> str:
    place = 0
    while amount >= step and place < len(units) - 1:
        amount, place = amount / step, place + 1
    return f"{amount:.0f} {units[place]}" if place == 0 or amount >= 100 else f"{amount:.1f} {units[place]}"
