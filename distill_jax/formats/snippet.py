"""Writes the Python file beside an export, which loads the export into PyTorch without this library."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from distill_jax.distilled import DistilledSet
from distill_jax.formats.format import Format

CELLS = '''
def cells(x, factor):
    """[n, c, H, W] -> [factor**2 * n, c, H, W]: cut every image into a grid and enlarge each cell to full size."""
    h, w = x.shape[-2:]
    x = F.pad(x, (0, -w % factor, 0, -h % factor), value=0.5)
    rows, columns = x.shape[-2] // factor, x.shape[-1] // factor
    grid = [
        x[..., i * rows : (i + 1) * rows, j * columns : (j + 1) * columns] for i in range(factor) for j in range(factor)
    ]
    return F.interpolate(torch.cat(grid), size=(h, w), mode="bilinear", align_corners=False)


def decode(x):
    """Return the decoded images of the packed images ``x`` of one class."""
'''

WHITEN = '''
def whiten(x):
    """Whiten real images in [0, 1] [N, c, H, W], as the images of this set are."""
    matrix = torch.from_numpy(numpy.load(HERE / "zca.npy"))
    rows = x.permute(0, 2, 3, 1).flatten(1) @ matrix[:-1] + matrix[-1]
    return rows.unflatten(1, (*x.shape[2:], x.shape[1])).permute(0, 3, 1, 2)

'''

DECODE = {
    "single": """\
    return cells(x, {factor})
""",
    "multi": """\
    return torch.cat([cells(x, factor) for factor in range(1, {factor} + 1)])
""",
    "bound": """\
    shown, spare = [], max(0, {bound} - len(x))
    for factor in range({factor}, 0, -1):
        n = len(x) if factor == 1 else min(spare // factor**2, len(x))
        if n:
            shown.append(cells(x[:n], factor))
        x, spare = x[n:], spare - n * (factor**2 - 1)
    return torch.cat(shown)
""",
}
"""bodies of ``decode``: the rules of ``MultiFormation``"""


def snippet(distilled: DistilledSet, form: Format) -> str:
    """Return the text of ``use_in_pytorch.py``. ``distilled`` is the set that a reader of the files gets."""
    card = distilled.card
    stored = f"{len(distilled.images)} images of {distilled.classes} classes"
    if card["packed"]:
        stored += f", packed: decode() returns {distilled.decoded_count} images"
    functions, steps = "", []
    if card["packed"]:
        functions = CELLS + DECODE[card["decode"]].format(factor=card["factor"], bound=card["bound"]) + "\n"
        steps += [
            "# Decode class by class, as the order of the decoded images requires.",
            "images = torch.cat([decode(x) for x in images.chunk(len(CLASSES))])",
            "labels = torch.arange(len(CLASSES)).repeat_interleave(len(images) // len(CLASSES))",
        ]
    if card["space"] == "pixel":
        steps += ["images = normalise(images)"]
    whitened = distilled.zca is not None
    return TEMPLATE.format(
        test_steps="``whiten`` and then ``normalise``" if whitened else "``normalise``",
        whiten=WHITEN if whitened else "",
        numpy="import numpy\n" if whitened else "",
        stored=stored,
        space="already normalised" if card["space"] == "normalised" else "pixels" + " in [0, 1]" * bool(card["range"]),
        pad="    import torch.nn.functional as F\n" if card["packed"] else "",
        classes=json.dumps(list(card["class_names"]), ensure_ascii=False),
        mean=_short(card["mean"]),
        std=_short(card["std"]),
        functions=functions,
        load=form.snippet,
        steps="\n".join(steps),
    ).replace("\n\n\n\n", "\n\n\n")


def _short(values: Sequence[float]) -> list[float]:
    """Return the shortest decimal numbers that are equal in float32."""
    return [float(str(np.float32(value))) for value in values]


TEMPLATE = '''\
"""Train on this distilled set with PyTorch.

    from use_in_pytorch import loader, normalise

The files hold {stored}; {space}.
``images`` are the float32 [N, c, H, W] input of a network. ``labels`` are classes [N] or class probabilities [N, C];
cross_entropy accepts both.
Apply {test_steps} to test images in [0, 1]. Train with augmentation for many epochs (1000 are usual).
"""

from pathlib import Path

{numpy}try:
    import torch
{pad}except ModuleNotFoundError:
    raise SystemExit("this script needs PyTorch: pip install torch") from None

HERE = Path(__file__).parent
CLASSES = {classes}
MEAN, STD = {mean}, {std}


def normalise(x):
    """Map pixels in [0, 1] [N, c, H, W] to the input of a network."""
    mean, std = (torch.tensor(v)[:, None, None] for v in (MEAN, STD))
    return (x - mean) / std

{whiten}{functions}
{load}
{steps}

dataset = torch.utils.data.TensorDataset(images, labels)
loader = torch.utils.data.DataLoader(dataset, batch_size=min(64, len(dataset)), shuffle=True)
'''
