"""The formats of the published PyTorch codebases: tensors in ``.pt`` files, images [N, c, H, W]."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from distill_jax.formats.format import (
    Contents,
    Format,
    channels_first,
    channels_last,
    dataset_name,
    labels_to_write,
    with_labels,
)
from distill_jax.formats.torch_file import dumps, loads
from distill_jax.types import RequestError


def _tensors(contents: Contents) -> list[np.ndarray]:
    return [channels_first(contents.images), labels_to_write(contents)]


def _to_contents(pair: Any, name: str, class_major: bool = False) -> Contents:
    if not isinstance(pair, list | tuple) or len(pair) < 2:
        raise RequestError(f"{name} holds no [images, labels]: give a file of this format")
    return with_labels(channels_last(pair[0], name), pair[1], name, class_major)


# ------------------------------------------------------------------ [images, labels]


def _write_list(contents: Contents) -> dict[str, bytes]:
    return {"data.pt": dumps(_tensors(contents))}


def _read_list(files: Mapping[str, bytes]) -> Contents:
    (name, content), *_ = files.items()
    return _to_contents(loads(content, name), name)


IDC = Format(
    "IDC, Acc-DD, DREAM, NCFM: data.pt, pixels, packed",
    _write_list,
    _read_list,
    files=("data*.pt",),
    snippet='images, labels = torch.load(HERE / "data.pt", weights_only=True)',
    space="pixel",
    packed=True,
    packed_by_custom=True,
)
"""a list [images, labels]; the original code does not clip the values"""


# ------------------------------------------------------------------ {"data": [[images, labels], ...]}


def _write_dict(contents: Contents) -> dict[str, bytes]:
    card = contents.card
    assert contents.labels is not None
    ipc = np.count_nonzero(contents.labels == 0)
    method, dataset = (
        re.sub(r"[^A-Za-z0-9]+", "", name).upper() for name in (str(card.get("method") or "DM"), dataset_name(card))
    )
    name = f"res_{method}_{dataset}_ConvNet_{ipc}ipc.pt"
    return {name: dumps({"data": [_tensors(contents)], "accs_all_exps": {}})}


def _read_dict(files: Mapping[str, bytes]) -> Contents:
    (name, content), *_ = files.items()
    result = loads(content, name)
    if not isinstance(result, dict) or not result.get("data"):
        raise RequestError(f"{name} holds no dict with 'data': give a res_*.pt of DC, DSA or DM")
    return _to_contents(result["data"][-1], name)


DC = Format(
    "DC, DSA, DM: res_METHOD_DATASET_ConvNet_IPCipc.pt, normalised",
    _write_dict,
    _read_dict,
    files=("res_*.pt",),
    snippet='images, labels = torch.load(next(HERE.glob("res_*.pt")), weights_only=True)["data"][-1]',
)
"""a dict whose ``data`` has one [images, labels] per experiment; the last one is read"""


# ------------------------------------------------------------------ images and labels in separate files


def _write_mtt(contents: Contents) -> dict[str, bytes]:
    images, labels = _tensors(contents)
    return {"images_best.pt": dumps(images), "labels_best.pt": dumps(labels)}


def _read_mtt(files: Mapping[str, bytes]) -> Contents:
    return _to_contents([loads(content, name) for name, content in files.items()], " and ".join(files))


MTT = Format(
    "MTT: images_best.pt and labels_best.pt, normalised",
    _write_mtt,
    _read_mtt,
    files=("images_best.pt", "labels_best.pt"),
    snippet="""\
images = torch.load(HERE / "images_best.pt", weights_only=True)
labels = torch.load(HERE / "labels_best.pt", weights_only=True)""",
    soft=True,
)
"""normalised, and ZCA-whitened if the run used whitened data"""


def _write_ranking(contents: Contents) -> dict[str, bytes]:
    images, labels = _tensors(contents)
    files = {"images.pt": dumps(images), "labels.pt": dumps(labels)}
    if contents.card.get("rate") is not None:
        files["lr.pt"] = dumps(np.array(contents.card["rate"], np.float32))
    return files


def _read_ranking(files: Mapping[str, bytes]) -> Contents:
    images, labels, *rates = (loads(content, name) for name, content in files.items())
    contents = _to_contents([images, labels], " and ".join([*files][:2]), class_major=True)
    if not rates:
        return contents
    rate = np.asarray(rates[0])
    if rate.size != 1 or rate.dtype.kind not in "fiuV" or not 0 < rate.astype(float).item() < np.inf:  # bfloat16: V
        raise RequestError(f"{[*files][2]} holds no learning rate: give one number above 0, or move it away")
    return contents._replace(card={"rate": rate.astype(float).item()})


DD_RANKING = Format(
    "DD-Ranking: images.pt, labels.pt and, if a rate was learned, lr.pt, normalised",
    _write_ranking,
    _read_ranking,
    files=("images.pt", "labels.pt"),
    optional=("lr.pt",),
    snippet="""\
images = torch.load(HERE / "images.pt", weights_only=True)
labels = torch.load(HERE / "labels.pt", weights_only=True)""",
    soft=True,
)
"""images in class order by definition, because the class need not be the most probable one of a soft label"""
