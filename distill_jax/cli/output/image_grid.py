"""The picture of a distilled set: for each class a strip of stored images and, if they are packed, decoded images."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from distill_jax.cli.output.display import last_part
from distill_jax.distilled import DistilledSet

SHOWN = 10
"""maximum number of stored, and of decoded, images per class"""
TILE, LARGEST = 64, 256
"""side in pixels that small images are enlarged to by a whole factor, and that large images may have if they fit"""
WIDTH, GAP, MARGIN, FONT = 1600, 2, 16, 13
PAPER, INK, GREY = "white", "black", (110, 110, 110)


class Strip(NamedTuple):
    """The images of one class."""

    name: str
    stored: np.ndarray
    """uint8 [n, H, W, 3]"""
    decoded: np.ndarray | None
    """uint8 [m, H, W, 3]; None if images are not packed"""


def draw(distilled: DistilledSet) -> Image.Image:
    """Draw an RGB picture of all classes, with at most SHOWN images per class, class names and a title."""
    strips = _strips(distilled)
    names, headline = _font(FONT), _font(FONT + 5)
    titles = list(zip(_title(distilled, len(strips[0].stored)), (headline, names), (INK, GREY), strict=True))
    side, across, cell = _layout(strips)
    top = MARGIN + 2 * FONT + 24
    wide = max(MARGIN + cell[0] * across, *(math.ceil(font.getlength(text)) + 2 * MARGIN for text, font, _ in titles))
    page = Image.new("RGB", (wide, top + cell[1] * -(-len(strips) // across)), PAPER)
    pen = ImageDraw.Draw(page)
    for line, (text, font, colour) in enumerate(titles):
        pen.text((MARGIN, MARGIN + line * (FONT + 9)), text, fill=colour, font=font)
    for k, strip in enumerate(strips):
        x, y = MARGIN + k % across * cell[0], top + k // across * cell[1]
        pen.text((x, y), _fitted(strip.name, names, cell[0] - MARGIN // 2), fill=INK, font=names)
        _paste(page, strip, x, y + FONT + 5, side)
    return page


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return matplotlib's font, which has the letters of most European languages; Pillow's own has ASCII only."""
    found = importlib.util.find_spec("matplotlib")  # importing it would take half a second
    path = Path(found.origin or "").parent / "mpl-data/fonts/ttf/DejaVuSans.ttf" if found else Path()
    return ImageFont.truetype(str(path), size) if path.is_file() else ImageFont.load_default(size)


def _layout(strips: list[Strip]) -> tuple[int, int, tuple[int, int]]:
    """Return the side of an image on the page, the number of strips per row, and (width, height) of a strip's cell."""
    first = strips[0]
    images = len(first.stored) + (0 if first.decoded is None else len(first.decoded) + 1)
    side = first.stored.shape[1]
    kept = min(side, LARGEST)
    enlarged = [side * times for times in range(TILE // side, 0, -1)]
    sides = enlarged or [*(size for size in (kept, kept // 2) if size > TILE), TILE]
    for shown in (*sides, min(sides[-1], TILE // 2)):
        cell = (max((shown + GAP) * images, 40) + MARGIN, shown + FONT + 5 + MARGIN)
        across = _across(len(strips), cell)
        if cell[0] * across <= WIDTH:
            break
    else:
        across = max(1, WIDTH // cell[0])
    return shown, across, cell


def _strips(distilled: DistilledSet) -> list[Strip]:
    ipc = len(distilled.images) // distilled.classes
    stored = _pixels(distilled, distilled.images).reshape(distilled.classes, ipc, *distilled.shape[:2], 3)
    names = map(str, distilled.card["class_names"])
    if distilled.card["factor"] == 1:
        return [Strip(name, images[:SHOWN], None) for name, images in zip(names, stored, strict=True)]
    decoded = _pixels(distilled, distilled.decoded()[0])
    decoded = decoded.reshape(distilled.classes, -1, *decoded.shape[1:])
    shown = max(1, SHOWN // distilled.card["factor"] ** 2)
    # Decoded images are ordered by cell and then by image, so the cells of one image are ``ipc`` apart.
    return [
        Strip(name, images[:shown], _of_first(cells, ipc, min(shown, ipc), distilled))
        for name, images, cells in zip(names, stored, decoded, strict=True)
    ]


def _of_first(cells: np.ndarray, ipc: int, shown: int, distilled: DistilledSet) -> np.ndarray:
    """Return the decoded images of the first ``shown`` stored images, image by image."""
    if distilled.card.get("decode", "single") != "single":
        return cells[:SHOWN]
    per_image = cells.reshape(-1, ipc, *cells.shape[1:])[:, :shown]
    return per_image.swapaxes(0, 1).reshape(-1, *cells.shape[1:])[: 2 * SHOWN]


def _pixels(distilled: DistilledSet, images: np.ndarray) -> np.ndarray:
    """Convert images [n, H, W, c] in the space of the set to uint8 [n, H, W, 3]."""
    if distilled.card["space"] == "normalised":
        images = images * distilled.std + distilled.mean
    colour = images[..., :3] if images.shape[-1] >= 3 else np.repeat(images[..., :1], 3, axis=-1)
    return np.rint(np.clip(colour, 0, 1) * 255).astype(np.uint8)


def _across(strips: int, cell: tuple[int, int]) -> int:
    """Return the number of strips per row that makes the page about 3:2 with few gaps in its last row."""

    def badness(across: int) -> float:
        down = -(-strips // across)
        return abs(math.log(cell[0] * across / (cell[1] * down) / 1.5)) + (across * down - strips) / across

    return min(range(1, strips + 1), key=badness)


def _title(distilled: DistilledSet, shown: int) -> tuple[str, str]:
    card = distilled.card
    first = " ".join(last_part(str(card[key])) for key in ("method", "dataset") if card.get(key))
    ipc = len(distilled.images) // distilled.classes
    stored = f"{ipc} stored image{'s' * (ipc > 1)} per class"
    if ipc > shown:
        stored += f", {shown} of them shown"
    if card["factor"] > 1:
        stored += f"; next to them, decoded with factor {card['factor']}"
    return first or "distilled images", stored


def _fitted(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Shorten ``text`` to ``width`` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def _paste(page: Image.Image, strip: Strip, x: int, y: int, side: int) -> None:
    for part in (strip.stored, strip.decoded):
        for pixels in () if part is None else part:
            how = Image.Resampling.NEAREST if side >= len(pixels) else Image.Resampling.LANCZOS
            page.paste(Image.fromarray(pixels).resize((side, side), how), (x, y))
            x += side + GAP
        x += side // 2
