"""Implements the augmentations of evaluation in NumPy, for one image and one pixel at a time."""

import math
from itertools import permutations

import jax
import numpy as np
from scipy.ndimage import rotate as scipy_rotate


def to_network(augment, pixels):
    return (pixels - np.asarray(augment.mean)) / np.asarray(augment.std)


def resized(image, height, width):
    """Resize as PyTorch's interpolate: bilinear, half-pixel centres, not antialiased, edges repeated."""
    rows, columns = image.shape[:2]
    out = np.zeros((height, width, image.shape[2]))
    for i, j in np.ndindex(height, width):
        y, x = max((i + 0.5) * rows / height - 0.5, 0), max((j + 0.5) * columns / width - 0.5, 0)
        top, left = int(y), int(x)
        bottom, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
        upper = (1 - (x - left)) * image[top, left] + (x - left) * image[top, right]
        lower = (1 - (x - left)) * image[bottom, left] + (x - left) * image[bottom, right]
        out[i, j] = (1 - (y - top)) * upper + (y - top) * lower
    return out


def box(augment, height, width, draws):
    """Compute torchvision's RandomResizedCrop.get_params for given random numbers."""
    place = np.asarray(draws.place, np.float64)
    for area, ratio in np.asarray(draws.boxes, np.float64):
        area = height * width * (augment.smallest + (1 - augment.smallest) * area)
        ratio = math.exp(math.log(3 / 4) + (math.log(4 / 3) - math.log(3 / 4)) * ratio)
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(place[0] * (height - h + 1)), int(place[1] * (width - w + 1)), h, w
    if width / height < 3 / 4:
        w, h = width, round(width / (3 / 4))
    elif width / height > 4 / 3:
        h, w = height, round(height * (4 / 3))
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


def photo(augment, image, draws):
    """Transform ``image``, in network space, as PhotoAugment should."""
    height, width, channels = image.shape
    x = image * np.asarray(augment.std) + np.asarray(augment.mean)
    top, left, h, w = box(augment, height, width, draws)
    x = resized(x[top : top + h, left : left + w], height, width)
    if draws.flip < 0.5:
        x = x[:, ::-1]
    factors = 1 - augment.jitter + 2 * augment.jitter * np.asarray(draws.factors, np.float64)
    for which in list(permutations(range(3)))[int(float(draws.order) * 6)]:
        grey = x @ np.asarray([0.299, 0.587, 0.114])[:, None] if channels == 3 else x
        other = (0.0, grey.mean(), grey)[which]
        x = factors[which] * x + (1 - factors[which]) * other
    if channels == 3:
        alpha = augment.lighting * np.asarray(draws.alpha, np.float64)
        for c, row in enumerate([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]):
            x[..., c] += sum(a * value * v for a, value, v in zip(alpha, (0.2175, 0.0188, 0.0045), row, strict=True))
    return to_network(augment, x)


def basic(augment, image, draws):
    """Transform ``image`` as BasicAugment should: operations of DC's code, with the fill that our docstring gives."""
    height, width = image.shape[:2]
    level, crop = image.mean(axis=(0, 1)), augment.crop
    which = int(float(draws.choice) * 3)
    if which == 0:
        canvas = np.broadcast_to(level, (height + 2 * crop, width + 2 * crop, len(level))).copy()
        canvas[crop : crop + height, crop : crop + width] = image
        r, c = (int(float(u) * 2 * crop) for u in draws.shift)
        return canvas[r : r + height, c : c + width]
    if which == 1:
        h, w = (
            int((1 - augment.scale + 2 * augment.scale * float(u)) * side)
            for u, side in zip(draws.zoom, (height, width), strict=True)
        )
        side = max(h, w, height, width)
        canvas = np.broadcast_to(level, (side, side, len(level))).copy()
        r, c = (side - h) // 2, (side - w) // 2
        canvas[r : r + h, c : c + w] = resized(image, h, w)
        r, c = (side - height) // 2, (side - width) // 2
        return canvas[r : r + height, c : c + width]
    angle = (2 * float(draws.angle) - 1) * augment.rotate
    # Rotation is linear, so channels are rotated separately. The outside is the mean level, blended at the edge.
    turned = [
        scipy_rotate(image[..., c], angle, order=1, reshape=False, mode="grid-constant", cval=level[c])
        for c in range(len(level))
    ]
    return np.stack(turned, -1)


def one(draws, i):
    return jax.tree.map(lambda v: np.asarray(v[i]), draws)
