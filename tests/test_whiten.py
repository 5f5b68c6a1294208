"""Tests ZCA whitening."""

from __future__ import annotations

import numpy as np
import pytest

from distill_jax.data import Dataset, digits, load
from distill_jax.data.whiten import whiten, whitened, zca_matrix
from distill_jax.types import RequestError
from tests.golden_weights import golden_figures


def test_matrix_whitens_and_is_symmetric() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(500, 6)) @ rng.normal(size=(6, 6))
    rows -= rows.mean(axis=0)
    matrix = zca_matrix(rows, eps=0.0)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-12)
    np.testing.assert_allclose(np.cov(rows @ matrix, rowvar=False), np.eye(6), atol=1e-10)
    # eps is added to the variance along each direction.
    variances = np.linalg.eigvalsh(np.cov(rows, rowvar=False))
    damped = np.linalg.eigvalsh(np.cov(rows @ zca_matrix(rows, eps=0.5), rowvar=False))
    np.testing.assert_allclose(damped, variances / (variances + 0.5), rtol=1e-10)


def test_whitening_golden() -> None:
    """Compares with the matrix and the whitened images of kornia's ``ZCAWhitening``, called as in MTT's release (golden
    README, section ZCA).
    """
    figures = golden_figures("zca")
    n, channels, side, _ = figures["train_u8"].shape
    train, test = (figures[f"{part}_u8"].transpose(0, 2, 3, 1) for part in ("train", "test"))
    data = Dataset.from_arrays("small", train, np.arange(n) % 2, test, np.arange(len(test)) % 2)
    white = whitened(data)

    # The original flattens channels first.
    ours = np.arange(channels * side**2).reshape(channels, side, side).transpose(1, 2, 0).reshape(-1)
    pixels = train.reshape(n, -1) / 255
    matrix = zca_matrix(pixels - pixels.mean(axis=0), 0.1)
    np.testing.assert_allclose(matrix, figures["matrix"][np.ix_(ours, ours)], atol=2e-6)
    exact = figures["test_white"].transpose(0, 2, 3, 1)
    assert white.whitening is not None
    through = (whiten(test / 255, white.whitening.matrix) - white.mean) / white.std
    np.testing.assert_allclose(through, exact, atol=2e-5)  # the matrix is stored in float32
    half_a_byte = 0.5 / 255 / white.whitening.unit
    np.testing.assert_allclose((white.x_test / 255 - white.mean) / white.std, exact, atol=half_a_byte + 1e-5)


def test_a_whitened_data_set_is_a_data_set() -> None:
    plain, white = digits(), load("zca:digits")
    assert (white.name, white.shape, white.x_train.dtype) == ("zca:digits", plain.shape, np.uint8)
    np.testing.assert_array_equal(white.counts, plain.counts)
    np.testing.assert_array_equal(white.y_test, plain.y_test)

    # Network inputs have little correlation left, even in images that the matrix was not computed from.
    def correlation(data: Dataset, images: np.ndarray) -> float:
        rows = ((images / 255 - data.mean) / data.std).reshape(len(images), -1)
        covariance = np.cov(rows, rowvar=False)
        # The strongest direction: the mean over all pairs is mostly the noise of few images.
        return float(np.linalg.norm(covariance - np.diag(np.diag(covariance)), 2))

    for part in ("x_train", "x_test"):
        assert correlation(white, getattr(white, part)) < 0.5 * correlation(plain, getattr(plain, part))

    # The bytes are the formula's values, less rounding.
    rows = (plain.x_train / 255).reshape(len(plain.x_train), -1)
    rows -= rows.mean(axis=0)
    exact = rows @ zca_matrix(rows, 0.1)
    ours = white.x_train.reshape(exact.shape).astype(float)
    assert np.corrcoef(exact.ravel(), ours.ravel())[0, 1] > 0.999
    # Statistics of a recipe belong to the original images.
    shown_with = white.real_data((0.3,), (0.2,)).normaliser
    np.testing.assert_array_equal([*shown_with.mean, *shown_with.std], [*white.mean, *white.std])
    # Networks see the whitened values unscaled, and the rounding of a byte is a twentieth of a standard deviation.
    shown = (white.x_train / 255 - white.mean) / white.std
    assert np.abs(shown.reshape(exact.shape) - exact).mean() < 0.02 * exact.std()


def test_bad_input() -> None:
    with pytest.raises(RequestError, match="whitened twice"):
        load("zca:zca:digits")
    with pytest.raises(RequestError, match="zca: without a data set"):
        load("zca:")
    labels = np.arange(2)
    images = np.zeros((2, 128, 128, 3), np.uint8)
    with pytest.raises(RequestError, match="128x128x3 have more than the 12288 values"):
        whitened(Dataset.from_arrays("large", images, labels, images, labels))
