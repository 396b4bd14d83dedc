"""SparseGPT for one layer: prunes input after input, and lets the inputs that follow make up for the error.

Frantar and Alistarh, "SparseGPT: massive language models can be accurately pruned in one shot", arXiv 2301.00774. With
H = X^T X and the upper Cholesky factor U of its inverse, H^-1 = U^T U, the score of a weight of input i is
w^2 / U_ii^2: by so much (times a half) the loss rises, if only the weights of later inputs adapt. Inputs are treated in
blocks of 128. At the start of a block its scores are ranked, over all output units together. Then, for each input of
the block in turn, the pruned weights w are set to zero and w / U_ii U_ij is taken from the weights of each later
input j.

The authors' code prunes the scores up to a threshold, which is one entry too many, and more if scores are equal. Here
counts are exact.
"""

import numpy as np

BLOCK = 128


def prune(weights, hessian, count, alive=None, per_output=False, group=None):
    """Prunes a layer's matrix of weights, and adapts the weights that are left.

    Args:
        weights: Float array, (inputs, outputs).
        hessian: Float array, (inputs, inputs): X^T X times any factor, positive definite.
        count: Number of zeros of the result, entries that were dead before included; with `per_output` in each column.
            Ignored with `group`. Each block gets its share, rounded.
        alive: Bool array, the shape of `weights`; dead entries stay zero. Default: all live.
        per_output: Whether each column gets `count` zeros.
        group: Tuple (array of the number of each input's group, number of entries that live in a full group), for N:M.
            The scores of a group are ranked when its first input is reached.

    Returns:
        Tuple: the new weights, float64, and a bool array, the entries that live.

    Example:

    >>> new, kept = prune(np.array([[1.0], [1.0], [0.5]]), np.array([[4.0, 2, 0], [2, 3, 1], [0, 1, 2]]), 1)
    >>> new.round(6).ravel().tolist(), kept.ravel().tolist()
    ([1.0, 1.0, 0.0], [True, True, False])
    """
    new = np.array(weights, "float64")
    kept = np.ones(new.shape, bool) if alive is None else np.array(alive, bool)
    factor = np.linalg.cholesky(np.linalg.inv(np.asarray(hessian, "float64"))).T
    axis = 0 if per_output else None
    fresh = None if group else np.atleast_1d(np.maximum(count - np.count_nonzero(~kept, axis=axis), 0))
    for start, stop in _blocks(len(new), group):
        if group is None:
            block, live = kept[start:stop], np.atleast_1d(np.count_nonzero(kept[start:], axis=axis))
            live_here = np.atleast_1d(np.count_nonzero(block, axis=axis))
            share = np.rint(fresh * live_here / np.maximum(live, 1)).astype(int)
            block[:] = _keep(_scores(new, factor, start, stop), block, share)
            fresh = fresh - share
        errors = np.zeros((stop - start, new.shape[1]))
        for i in range(start, stop):
            if group is not None and (i == start or group[0][i] != group[0][i - 1]):
                end = i + int(np.count_nonzero(group[0][i:stop] == group[0][i]))
                surplus = np.maximum(np.count_nonzero(kept[i:end], axis=0) - group[1], 0)
                kept[i:end] = _keep(_scores(new, factor, i, end), kept[i:end], surplus)
            error = np.where(kept[i], 0.0, new[i]) / factor[i, i]
            new[i] = np.where(kept[i], new[i], 0.0)
            new[i + 1 : stop] -= np.outer(factor[i, i + 1 : stop], error)
            errors[i - start] = error
        new[stop:] -= factor[start:stop, stop:].T @ errors
    return new, kept


def _blocks(inputs, group):
    """The first and the last input (exclusive) of each block. No group is divided."""
    start = 0
    while start < inputs:
        stop = min(start + BLOCK, inputs)
        while group is not None and stop < inputs and group[0][stop] == group[0][stop - 1]:
            stop += 1
        yield start, stop
        start = stop


def _scores(weights, factor, start, stop):
    return (weights[start:stop] / np.diagonal(factor)[start:stop, None]) ** 2


def _keep(scores, alive, count):
    """The entries that live: all live entries but those of the `count` lowest scores, of all or of each column.

    Args:
        scores: Float array, (inputs, outputs).
        alive: Bool array of the same shape.
        count: Int array: one number for all columns together, or a number for each column.
    """
    columns = scores.shape[1]
    if len(count) == 1:
        scores, alive = scores.reshape(-1, 1), alive.reshape(-1, 1)
    # The sort is stable: of equal scores the first entry is pruned. Dead entries come last.
    order = np.lexsort((scores, ~alive), axis=0)
    kept = np.ones(scores.shape, bool)
    np.put_along_axis(kept, order, np.arange(len(scores))[:, None] >= count, axis=0)
    return (kept & alive).reshape(-1, columns)
