"""Sets out into files of a format, and back in. Every export carries a card and a PyTorch script beside its files, and
that of a set that stands for whitened images the matrix that whitens them."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distill_jax.data.dataset import Dataset, reason
from distill_jax.distilled import DistilledSet
from distill_jax.formats.assemble import as_stored, assembled
from distill_jax.formats.format import Contents, Format
from distill_jax.formats.snippet import snippet
from distill_jax.types import RequestError

CARD, SCRIPT, ZCA = "card.json", "use_in_pytorch.py", "zca.npy"


def write(distilled: DistilledSet, form: Format, folder: Path | str, packed: bool | None = None) -> DistilledSet:
    """Write ``distilled`` into the new folder ``folder``, and return it as it will be read from there.

    ``packed``: whether several images stay stored in one (None: as is the custom of the format). Raises RequestError
    where the format cannot carry the set, and where the folder holds something.
    """
    folder = Path(folder).absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RequestError(f"{folder} holds something already: give a new folder")
    files, arrives = encode(distilled, form, packed)
    temporary = folder.with_name(f".tmp-{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        for name, content in files.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            (temporary / name).write_bytes(content)
        os.replace(temporary, folder)
    except OSError as error:
        raise RequestError(f"cannot write {folder} ({error.strerror}): give another folder") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return arrives


def encode(distilled: DistilledSet, form: Format, packed: bool | None = None) -> tuple[dict[str, bytes], DistilledSet]:
    """(the files of an export by name, the set that a reader gets from them); see ``write``."""
    packed = bool(distilled.card["factor"] > 1 and (form.packed_by_custom if packed is None else packed))
    if packed and not form.packed:
        raise RequestError("readers of this format take images as they are, not packed: export them decoded")
    if distilled.soft is not None and (packed or not form.soft):
        what = "packed images have no soft labels, which are of decoded ones" if packed else "this format has none"
        raise RequestError(f"soft labels cannot travel ({what}): export hard labels, or decoded images elsewhere")
    sent = as_stored(distilled, form.space, packed)
    contents = Contents(sent.images, sent.labels, sent.soft, sent.card)
    files = form.write(contents)
    # Reading back tells what the files really hold, after rounding, and whether they tell what they should.
    try:
        arrives = assembled(form.read(_as_read(form, files)), sent.card, form, zca=sent.zca)
        if form.lossless and not _equal(sent, arrives):
            raise RequestError("images or labels come in another order")
    except RequestError as error:
        raise RequestError(f"this format cannot carry the set ({error}): export to another") from error
    files[CARD] = (json.dumps(dict(arrives.card), indent=2, ensure_ascii=False) + "\n").encode()
    if arrives.zca is not None:
        file = io.BytesIO()
        np.save(file, arrives.zca)
        files[ZCA] = file.getvalue()
    files[SCRIPT] = snippet(arrives, form).encode()
    return files, arrives


def read(
    form: Format,
    *paths: Path | str,
    class_names: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    factor: int | None = None,
    space: str | None = None,
    dataset: Dataset | None = None,
) -> DistilledSet:
    """The set in a folder, or in these files, of the format ``form``.

    What the files do not say is taken from the ``card.json`` beside them, where there is one, and has to be told
    otherwise: ``class_names`` [C]; ``mean`` and ``std`` [c] of pixels in [0, 1]; ``factor`` for a format that packs;
    ``space`` ('pixel' or 'normalised') where it is not the custom of the format. What is still missing comes from
    ``dataset``, the real data that the set stands for; not the mean and std of normalised images, though, which are
    those of the codebase that made them: many use rounded or other ones. A set of whitened images has the matrix in
    ``zca.npy`` beside it, or that of a whitened ``dataset``. Images are sorted by class, stably.

    Raises RequestError for files that are missing, damaged or of another format, and for what makes no sense.
    """
    files, folder = _found(form, [Path(path) for path in paths])
    told = {"class_names": class_names, "mean": mean, "std": std, "factor": factor, "space": space}
    card = _card_in(folder)
    try:
        contents = form.read(files)
    except RequestError:
        raise
    except Exception as error:  # a damaged file may break its reader in any way
        raise RequestError(f"{' or '.join(files)} is damaged or of another format: {reason(error)}") from error
    told = {key: value for key, value in told.items() if value is not None}
    distilled = assembled(contents, {**card, **told}, form, dataset, _zca_in(folder, card, dataset))
    if card.get("hash", distilled.card["hash"]) != distilled.card["hash"]:
        raise RequestError(f"{folder / CARD} is the card of other images than those beside it: move it away")
    return distilled


# ------------------------------------------------------------------ files


def _found(form: Format, paths: Sequence[Path]) -> tuple[dict[str, bytes], Path]:
    """The files to read, in the order of the format, and the folder that they are in."""
    folder = paths[0] if paths[0].is_dir() else paths[0].parent
    if len(paths) == 1 and paths[0].is_dir():
        matches = {pattern: sorted(folder.glob(pattern)) for pattern in (*form.files, *form.optional)}
        for pattern, found in matches.items():
            if not found and pattern in form.files:
                raise RequestError(f"{folder} has no {pattern}: give a folder or the files of this format")
            if len(found) > 1 and not form.many:
                raise RequestError(f"{folder} has several {pattern}: give the files themselves")
        paths = [path for found in matches.values() for path in found]
    elif not form.many and not len(form.files) <= len(paths) <= len(form.files) + len(form.optional):
        raise RequestError(f"{len(paths)} files are given: this format has {' '.join((*form.files, *form.optional))}")
    try:
        return {str(path): path.read_bytes() for path in paths}, folder
    except OSError as error:
        raise RequestError(f"cannot read {error.filename} ({error.strerror}): check the path") from error


def _card_in(folder: Path) -> dict[str, Any]:
    """The card beside the files; empty where there is none."""
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(f"{folder / CARD} cannot be read ({reason(error)}): mend it, or move it away") from error
    if not isinstance(card, dict):
        raise RequestError(f"{folder / CARD} is no card: mend it, or move it away")
    return card


def _zca_in(folder: Path, card: Mapping[str, Any], dataset: Dataset | None) -> np.ndarray | None:
    """The matrix that whitens real images, where the set stands for whitened ones: that beside the files, or without a
    card that of the data set."""
    path = folder / ZCA
    if not card.get("zca", not card and path.exists()):
        return None if card or dataset is None or dataset.whitening is None else dataset.whitening.matrix
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise RequestError(
            f"{path} must whiten test images, and cannot be read ({reason(error)}): copy it too"
        ) from error


def _as_read(form: Format, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Of the files written, those that ``read`` would read, in its order."""
    patterns = (*form.files, *form.optional)
    return {name: files[name] for pattern in patterns for name in sorted(files) if Path(name).match(pattern)}


def _equal(one: DistilledSet, other: DistilledSet) -> bool:
    pairs = ((one.images, other.images), (one.targets(), other.targets()))
    return all(np.array_equal(a, b) for a, b in pairs)
