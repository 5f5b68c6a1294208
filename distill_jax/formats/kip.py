"""The format of KIP: NumPy arrays ``images`` [N, H, W, c] and one-hot ``labels`` [N, C] in an npz file."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np

from distill_jax.formats.format import Contents, Format, with_labels
from distill_jax.types import RequestError


def _write(contents: Contents) -> dict[str, bytes]:
    labels = contents.soft
    if labels is None:
        assert contents.labels is not None
        labels = np.eye(len(contents.card["class_names"]), dtype=np.float32)[contents.labels]
    file = io.BytesIO()
    np.savez(file, images=contents.images, labels=labels)
    return {"kip.npz": file.getvalue()}


def _read(files: Mapping[str, bytes]) -> Contents:
    (name, content), *_ = files.items()
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        missing = {"images", "labels"} - set(arrays.files)
        if missing:
            raise RequestError(f"{name} has no {' and '.join(sorted(missing))}: give an npz file of KIP")
        images, labels = arrays["images"], arrays["labels"]
    if labels.ndim == 2 and np.allclose(labels.sum(1), 0, atol=1e-3):
        labels = labels + 1 / labels.shape[1]  # KIP's targets are one-hot labels minus 1/C
    return with_labels(images, labels, name)


KIP = Format(
    "KIP: npz, images channels last, one-hot labels, normalised",
    _write,
    _read,
    files=("*.npz",),
    snippet="""\
import numpy

with numpy.load(HERE / "kip.npz") as arrays:
    images = torch.from_numpy(arrays["images"]).permute(0, 3, 1, 2)
    labels = torch.from_numpy(arrays["labels"])""",
    soft=True,
)
