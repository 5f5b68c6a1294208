"""ZCA whitening of a whole data set, which several published results of trajectory matching (MTT) use."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from distill_jax.data.dataset import Dataset, Whitening
from distill_jax.types import RequestError

LARGEST = 64 * 64 * 3
"""largest number of values per image; the matrix has the square of that number of entries"""
REACH = 6.0
"""number of standard deviations of the whitened values that a byte spans on either side of grey"""


def whitened(data: Dataset, eps: float = 0.1) -> Dataset:
    """Return ``data`` without the correlations between its pixels, again as uint8 images.

    Flattened pixels x in [0, 1] become U (S + eps)^(-1/2) U' (x - m), where m is the mean and U S U' the covariance
    of the training images (Krizhevsky 2009, appendix A; kornia's ``ZCAWhitening`` with the ``eps`` that MTT gives it).
    The same map transforms the test images. The result stores grey plus whitened values as bytes, so that it is
    an ordinary data set; rounding to a byte costs a twentieth of a standard deviation. ``whitening`` of the result is
    the map without the rounding.

    Raise RequestError for images of more than LARGEST values. CIFAR-10 takes about a minute.
    """
    values = int(np.prod(data.shape))
    if values > LARGEST:
        shape = "x".join(map(str, data.shape))
        raise RequestError(
            f"zca:{data.name}: images {shape} have more than the {LARGEST} values that can be whitened: leave out zca:"
        )
    rows = _rows(data.x_train)
    mean = rows.mean(axis=0)
    matrix = zca_matrix(rows - mean, eps)
    train = (rows - mean) @ matrix
    grey, unit = 127.5, 127.5 / (REACH * train.std())

    def as_bytes(white: np.ndarray) -> np.ndarray:
        return np.clip(np.rint(grey + unit * white), 0, 255).astype(np.uint8).reshape(-1, *data.shape)

    test = (_rows(data.x_test) - mean) @ matrix
    # One matrix that maps pixels to whitened pixels.
    linear = unit / 255 * matrix
    whitening = Whitening(np.vstack([linear, grey / 255 - mean @ linear]).astype(np.float32), float(unit / 255))
    name = f"zca:{data.name}"
    return replace(data, name=name, x_train=as_bytes(train), x_test=as_bytes(test), whitening=whitening)


def whiten(pixels: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Whiten ``pixels`` [N, H, W, c] in [0, 1] with the matrix of a ``Whitening``. Return float32 of the same shape."""
    rows = pixels.reshape(len(pixels), -1).astype(np.float32)
    return (rows @ matrix[:-1] + matrix[-1]).reshape(pixels.shape)


def zca_matrix(centred: np.ndarray, eps: float) -> np.ndarray:
    """Return the symmetric [d, d] that whitens rows [N, d] of mean zero; ``eps`` damps directions of less variance."""
    variances, directions = np.linalg.eigh(centred.T @ centred / (len(centred) - 1))
    return (directions / np.sqrt(np.maximum(variances, 0) + eps)) @ directions.T


def _rows(images: np.ndarray) -> np.ndarray:
    """Return float64 [N, d] in [0, 1]. Double precision makes the rounded bytes independent of the number of cores."""
    return (images / 255).reshape(len(images), -1)
