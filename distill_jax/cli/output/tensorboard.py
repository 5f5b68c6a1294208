"""TensorBoard event files with the lines of ``metrics.jsonl`` (``distill --tensorboard``), written by tensorboardX."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from distill_jax.types import RequestError


def require_tensorboard() -> None:
    """Raise RequestError if tensorboardX is not installed."""
    if importlib.util.find_spec("tensorboardX") is None:
        raise RequestError("--tensorboard needs tensorboardX: pip install tensorboardX, or leave the option out")


def event_writer(folder: Path, step: int) -> Callable[[Mapping[str, Any]], None]:
    """Return a function that adds a line of ``metrics.jsonl`` to the event files in ``folder``. TensorBoard ignores
    earlier events after ``step``, which an interrupted process may have written."""
    from tensorboardX import SummaryWriter  # pyright: ignore[reportMissingImports]

    writer = SummaryWriter(str(folder), purge_step=step + 1)

    def write(line: Mapping[str, Any]) -> None:
        for name, value in line.items():
            if name not in ("outer", "step"):
                writer.add_scalar(name, value, line["step"])
        writer.flush()

    return write
