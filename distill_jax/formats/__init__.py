"""File formats of other codebases, one ``Format`` each.

    write(distilled, FORMATS["idc"], "out")                      # its files, card.json and use_in_pytorch.py
    distilled = read(FORMATS["mtt"], "images_best.pt", "labels_best.pt", class_names=..., mean=..., std=...)

To add a format, define another ``Format``; an entry in FORMATS gives it a name on the command line.
"""

from pathlib import Path

from distill_jax.formats.files import encode, read, write
from distill_jax.formats.format import Contents, Format
from distill_jax.formats.huggingface import HUGGINGFACE
from distill_jax.formats.kip import KIP
from distill_jax.formats.png import PNG
from distill_jax.formats.pool import pool_from_torch
from distill_jax.formats.tensors import DC, DD_RANKING, IDC, MTT

FORMATS: dict[str, Format] = {
    "idc": IDC,
    "dc": DC,
    "mtt": MTT,
    "dd-ranking": DD_RANKING,
    "kip": KIP,
    "png": PNG,
    "huggingface": HUGGINGFACE,
}

__all__ = ["FORMATS", "Contents", "Format", "encode", "pool_from_torch", "read", "recognised", "write"]


def recognised(path: Path) -> str | None:
    """Return the name of the format of a file or folder, recognised by the names of its files, or None."""
    for name, form in FORMATS.items():
        if path.is_dir():
            found = all(any(path.glob(pattern)) for pattern in form.files)
        else:
            found = path.is_file() and any(path.match(pattern) for pattern in form.files)
        if found:
            return name
    return None
