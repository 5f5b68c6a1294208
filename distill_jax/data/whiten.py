"""ZCA whitening of a whole data set, which several of trajectory matching's published figures are for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from distill_jax.data.dataset import Dataset, Whitening
from distill_jax.types import RequestError

LARGEST = 64 * 64 * 3
"""values per image: the matrix has the square of that"""
REACH = 6.0
"""standard deviations of whitened values that a byte spans, on either side of grey"""


def whitened(data: Dataset, eps: float = 0.1) -> Dataset:
    """``data`` with the correlations between its pixels removed, as images of bytes again.

    Pixels x in [0, 1], flattened, become U (S + eps)^(-1/2) U' (x - m), where m is the mean and U S U' the covariance
    of the training images (Krizhevsky 2009, appendix A; kornia's ``ZCAWhitening`` with the ``eps`` that MTT gives it).
    The test images are transformed alike. Because the result is stored as grey plus whitened values, everything that
    takes a data set takes this one; a byte's rounding is a twentieth of a standard deviation. ``whitening`` of the
    result is the same map without the rounding.

    Raises RequestError for images of more than LARGEST values. Takes about a minute for CIFAR-10.
    """
    values = int(np.prod(data.shape))
    if values > LARGEST:
        shape = "x".join(map(str, data.shape))
        raise RequestError(
            f"zca:{data.name}: images {shape} have too many values to whiten, over {LARGEST}: leave out zca:"
        )
    rows = _rows(data.x_train)
    mean = rows.mean(axis=0)
    matrix = zca_matrix(rows - mean, eps)
    train = (rows - mean) @ matrix
    grey, unit = 127.5, 127.5 / (REACH * train.std())

    def as_bytes(white: np.ndarray) -> np.ndarray:
        return np.clip(np.rint(grey + unit * white), 0, 255).astype(np.uint8).reshape(-1, *data.shape)

    test = (_rows(data.x_test) - mean) @ matrix
    # The whole way from pixels to whitened pixels as one matrix.
    linear = unit / 255 * matrix
    whitening = Whitening(np.vstack([linear, grey / 255 - mean @ linear]).astype(np.float32), float(unit / 255))
    name = f"zca:{data.name}"
    return replace(data, name=name, x_train=as_bytes(train), x_test=as_bytes(test), whitening=whitening)


def whiten(pixels: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """``pixels`` [N, H, W, c] in [0, 1] as whitened ones, float32 of the same shape, by a ``Whitening``'s matrix."""
    rows = pixels.reshape(len(pixels), -1).astype(np.float32)
    return (rows @ matrix[:-1] + matrix[-1]).reshape(pixels.shape)


def zca_matrix(centred: np.ndarray, eps: float) -> np.ndarray:
    """The symmetric [d, d] that whitens rows [N, d] of mean zero; directions of variance below ``eps`` are damped."""
    variances, directions = np.linalg.eigh(centred.T @ centred / (len(centred) - 1))
    return (directions / np.sqrt(np.maximum(variances, 0) + eps)) @ directions.T


def _rows(images: np.ndarray) -> np.ndarray:
    """float64 [N, d] in [0, 1]. Double precision, so that bytes round alike whatever the number of cores."""
    return (images / 255).reshape(len(images), -1)
