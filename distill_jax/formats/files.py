"""Writes sets to the files of a format and reads them back. Every export has a card and a PyTorch script beside its
files. The export of a set that replaces whitened images also has the whitening matrix."""

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
from distill_jax.distilled import SCHEMA, DistilledSet
from distill_jax.formats.assemble import as_stored, assemble
from distill_jax.formats.format import Contents, Format
from distill_jax.formats.snippet import snippet
from distill_jax.types import RequestError

CARD, SCRIPT, ZCA = "card.json", "use_in_pytorch.py", "zca.npy"
SOFT = "export hard labels (--hard), or decoded images to dd-ranking or huggingface"


def write(distilled: DistilledSet, form: Format, folder: Path | str, packed: bool | None = None) -> DistilledSet:
    """Write ``distilled`` into the new folder ``folder``, and return the set that ``read`` would return.

    ``packed``: whether images stay packed, several in one (None: the convention of the format). Raise RequestError if
    the format cannot carry the set, or if the folder is not empty.
    """
    folder = Path(folder).absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RequestError(f"{folder} exists and is not empty: give a new folder")
    files, exported = encode(distilled, form, packed)
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
    return exported


def encode(distilled: DistilledSet, form: Format, packed: bool | None = None) -> tuple[dict[str, bytes], DistilledSet]:
    """Return the files of an export by name, and the set that a reader gets from them. See ``write``."""
    packed = bool(distilled.card["factor"] > 1 and (form.packed_by_custom if packed is None else packed))
    if packed and not form.packed:
        raise RequestError("readers of this format cannot decode packed images: export them decoded")
    if distilled.soft is not None and (packed or not form.soft):
        what = "soft labels belong to decoded images, not to packed ones" if packed else "this format has none"
        raise RequestError(f"cannot export the soft labels ({what}): {SOFT}")
    stored = as_stored(distilled, form.space, packed)
    contents = Contents(stored.images, stored.labels, stored.soft, stored.card)
    files = form.write(contents)
    # Reading the files back gives the rounded images, and shows whether the format keeps everything it should.
    try:
        exported = assemble(form.read(_select_readable(form, files)), stored.card, form, zca=stored.zca)
        if form.lossless and not _equal(stored, exported):
            raise RequestError("images or labels change their order")
    except RequestError as error:
        if distilled.soft is not None:  # a format without class numbers takes the most probable class
            raise RequestError(f"this format cannot carry the soft labels ({error}): {SOFT}") from error
        raise RequestError(f"this format cannot carry the set ({error}): export to another format") from error
    if not form.lossless:
        changed = not np.array_equal(stored.images, exported.images)
        exported = exported.with_card(bits=8, **({"score": None} if changed and "score" in exported.card else {}))
    files[CARD] = (json.dumps(dict(exported.card), indent=2, ensure_ascii=False) + "\n").encode()
    if exported.zca is not None:
        file = io.BytesIO()
        np.save(file, exported.zca)
        files[ZCA] = file.getvalue()
    files[SCRIPT] = snippet(exported, form).encode()
    return files, exported


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
    """Read the set in a folder, or in the files ``paths``, of the format ``form``.

    The arguments are fields of its card: ``class_names`` [C]; ``mean`` and ``std`` [c] of pixels in [0, 1]; ``factor``
    for a format that packs; ``space`` ('pixel' or 'normalised') if it is not the convention of the format. Arguments
    take precedence over a ``card.json`` beside the files, and the card over the files. Missing fields come from
    ``dataset``, the real data that the set replaces. The mean and std of normalised images are an exception, because
    many codebases normalise with rounded or other values. A set of whitened images takes the matrix from ``zca.npy``
    beside the files, or from a whitened ``dataset``. Images are sorted stably by class.

    Raise RequestError for files that are missing, damaged or of another format, and for inconsistent contents.
    """
    files, folder = _read_files(form, [Path(path) for path in paths])
    fields = {"class_names": class_names, "mean": mean, "std": std, "factor": factor, "space": space}
    card = _read_card(folder)
    try:
        contents = form.read(files)
    except (RequestError, MemoryError):
        raise
    except Exception as error:  # a reader may raise any exception for a damaged file
        raise RequestError(
            f"{' or '.join(files)} is damaged or of another format ({reason(error)}): export or copy it again"
        ) from error
    fields = {key: value for key, value in fields.items() if value is not None}
    distilled = assemble(contents, {**card, **fields}, form, dataset, _find_zca(folder, card, dataset))
    if card.get("hash", distilled.card["hash"]) != distilled.card["hash"]:
        raise RequestError(f"{folder / CARD} is the card of other images, not of the images beside it: move it away")
    return distilled


# ------------------------------------------------------------------ files


def _read_files(form: Format, paths: Sequence[Path]) -> tuple[dict[str, bytes], Path]:
    """Return the contents of the files to read, in the order of the format, and their folder."""
    folder = paths[0] if paths[0].is_dir() else paths[0].parent
    if len(paths) == 1 and paths[0].is_dir():
        matches = {pattern: sorted(folder.glob(pattern)) for pattern in (*form.files, *form.optional)}
        for pattern, found in matches.items():
            if not found and pattern in form.files:
                raise RequestError(f"{folder} has no {pattern}: give a folder or files of this format")
            if len(found) > 1 and not form.many:
                raise RequestError(f"{folder} has several {pattern}: give the files instead of the folder")
        paths = [path for found in matches.values() for path in found]
    elif (
        all(path.exists() for path in paths)
        and not form.many
        and not len(form.files) <= len(paths) <= len(form.files) + len(form.optional)
    ):
        raise RequestError(f"{len(paths)} files are given: give the files {' '.join((*form.files, *form.optional))}")
    try:
        return {str(path): path.read_bytes() for path in paths}, folder
    except OSError as error:
        raise RequestError(f"cannot read {error.filename} ({error.strerror}): check the path") from error


def _read_card(folder: Path) -> dict[str, Any]:
    """Return the card beside the files, or an empty dict if there is none."""
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(f"{folder / CARD} cannot be read ({reason(error)}): mend it, or move it away") from error
    if not isinstance(card, dict):
        raise RequestError(f"{folder / CARD} is not a card: mend it, or move it away")
    schema = card.get("schema", SCHEMA)
    if not isinstance(schema, int) or schema > SCHEMA:
        raise RequestError(
            f"{folder / CARD} has schema {schema}, and this version of distill_jax reads up to {SCHEMA}: update it"
        )
    return card


def _find_zca(folder: Path, card: Mapping[str, Any], dataset: Dataset | None) -> np.ndarray | None:
    """Return the matrix that whitens real images if the set replaces whitened images, else None. The matrix is the file
    beside the set; without that file, and unless the card says whether the set is whitened, that of ``dataset``."""
    path = folder / ZCA
    if not card.get("zca", path.exists()):
        whitening = None if "zca" in card or dataset is None else dataset.whitening
        return None if whitening is None else whitening.matrix
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise RequestError(
            f"{path}, which must whiten test images, cannot be read ({reason(error)}): copy it too"
        ) from error


def _select_readable(form: Format, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the written files that ``read`` would read, in its order."""
    patterns = (*form.files, *form.optional)
    return {name: files[name] for pattern in patterns for name in sorted(files) if Path(name).match(pattern)}


def _equal(one: DistilledSet, other: DistilledSet) -> bool:
    pairs = ((one.images, other.images), (one.targets(), other.targets()))
    return all(np.array_equal(a, b) for a, b in pairs)
