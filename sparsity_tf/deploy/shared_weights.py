"""Reduces each kernel to few distinct values, chosen by k-means: `share_weights`.

This is the second stage of Deep Compression (Han, Mao, Dally, ICLR 2016, arXiv 1510.00149). It clusters the weights
that pruning has left, layer by layer, and replaces each weight by its centroid. The centroids start evenly spread
between the smallest and the largest weight ("linear initialisation", the best of the paper's three). The paper then
trains the centroids and stores indices. Here the file holds the values themselves, and compression makes use of their
small number.
"""

import keras
import numpy as np

from sparsity_tf.inspection.weights import weight_records
from sparsity_tf.layers import flatten_layers

_ROUNDS = 50


def share_weights(model, bits):
    """Replaces the non-zero weights of every kernel by at most `2 ** bits - 1` values. Zeros and signs stay.

    Args:
        model: Built Keras model of plain layers. Only its kernels and embeddings change.
        bits: Integer of at least 2.
    """
    for layer in flatten_layers(model):
        for record in weight_records(layer):
            if "float" in record.variable.dtype:
                value = keras.ops.convert_to_numpy(keras.ops.cast(record.variable, "float32"))
                record.variable.assign(share_values(value, bits))


def share_values(values, bits):
    """Clusters the values of an array that are not zero.

    Negative and positive values are clustered separately, so that no centroid is zero. Each side gets centroids in
    proportion to its number of values.

    Args:
        values: Float array.
        bits: Integer of at least 2. With zero there are at most `2 ** bits` distinct values.

    Returns:
        Array of the same shape and dtype. Values that are not finite do not change, nor do arrays that have fewer
        distinct values.
    """
    shared = np.array(values)
    live = np.isfinite(shared) & (shared != 0)
    signs = [sign for sign in (live & (shared < 0), live & (shared > 0)) if sign.any()]
    codes = 2**bits - 1
    if not signs or len(np.unique(shared[live])) <= codes:
        return shared
    first = codes if len(signs) == 1 else round(codes * signs[0].sum() / live.sum())
    first = min(max(first, 1), codes - len(signs) + 1)
    for sign, count in zip(signs, (first, codes - first), strict=False):
        shared[sign] = _nearest_centroids(shared[sign].astype("float64"), count)
    return shared


def _nearest_centroids(values, count):
    """k-means in one dimension: the centroid of each value."""
    ordered = np.sort(values)
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    centroids = np.linspace(ordered[0], ordered[-1], count) if count > 1 else np.array([ordered.mean()])
    for _ in range(_ROUNDS):
        # Cluster i holds the values between two borders of the ordered values.
        borders = np.searchsorted(ordered, (centroids[1:] + centroids[:-1]) / 2)
        borders = np.concatenate([[0], borders, [len(ordered)]])
        sizes = np.diff(borders)
        means = np.diff(sums[borders]) / np.maximum(sizes, 1)
        moved = np.where(sizes > 0, means, centroids)
        if np.array_equal(moved, centroids):
            break
        centroids = np.sort(moved)
    return centroids[np.searchsorted((centroids[1:] + centroids[:-1]) / 2, values)]
