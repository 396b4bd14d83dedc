"""ZCA whitening, as the SparseVD experiments on CIFAR use it (Molchanov et al., ICML 2017).

Let the rows of X be the training images, as pixel values 0..255 less their mean, and let
Sigma = X'X / n = U diag(S) U'. Whitening turns an image x into (x - mean) W with W = U diag(1 / sqrt(S + 1e-5)) U'.
The new pixels are uncorrelated and have variance 1, and the result still looks like the image.
"""

import numpy as np

_EPSILON = 1e-5
_ROWS = 2000  # images at a time: 50 MB as float64


def fit_zca(images):
    """Computes the whitening of a set of images. CIFAR takes 20 seconds on two cores.

    The arithmetic is in float64, because CIFAR's variances along the axes of U span seven orders of magnitude.

    Args:
        images: Array `(n, ...)` of values 0..255.

    Returns:
        `(mean, matrix)`: float64 `(d,)` and `(d, d)`, where d is the number of values of an image.
    """
    rows = images.reshape(len(images), -1)
    mean = rows.mean(axis=0, dtype=np.float64)
    covariance = np.zeros((rows.shape[1],) * 2)
    for start in range(0, len(rows), _ROWS):
        centred = rows[start : start + _ROWS] - mean
        covariance += centred.T @ centred
    values, vectors = np.linalg.eigh(covariance / len(rows))
    # With fewer images than pixels some variances are zero, and rounding makes some of those negative.
    scale = 1.0 / np.sqrt(np.maximum(values, 0.0) + _EPSILON)
    return mean, (vectors * scale) @ vectors.T


def apply_zca(images, mean, matrix):
    """Returns the whitened images: float32, of the shape of `images`."""
    rows = images.reshape(len(images), len(mean))
    white = np.empty(rows.shape, np.float32)
    for start in range(0, len(rows), _ROWS):
        white[start : start + _ROWS] = (rows[start : start + _ROWS] - mean) @ matrix
    return white.reshape(images.shape)
