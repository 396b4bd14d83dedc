"""The scores by which `prune` ranks weights: an array for each weight, of its shape."""

import keras
import numpy as np
from keras import ops

from sparsity_tf.callbacks import criteria
from sparsity_tf.callbacks.base import loss_gradients
from sparsity_tf.checks import check_callable
from sparsity_tf.inspection.forward import whole_batches
from sparsity_tf.inspection.input_norms import input_norms
from sparsity_tf.masks import structures

# The scores that need a loss, and so batches (x, y).
OF_LOSS = ("taylor", "fisher", "gradient")


def compute(by, model, weights, views, data, loss):
    """The scores of weights. The lowest entries, or groups by their mean, are pruned.

    Args:
        by: A name, or a function of a `WeightView`.
        model: The model.
        weights: List of its masked `SparseWeight`s.
        views: List of their `WeightView`s.
        data, loss: See `sparsity_tf.prune`.

    Returns:
        List of arrays.

    Raises:
        ValueError: A score of a live entry is NaN, or a function returns scores of a wrong shape.
    """
    found = _scores(by, model, weights, views, data, loss)
    for view, array in zip(views, found, strict=True):
        criteria.check_no_nan(by, view, array, view.mask)
    return found


def _scores(by, model, weights, views, data, loss):
    kinds = [structures.get(weight.technique.structure) for weight in weights]
    if callable(by):
        return [criteria.scores(by, view) for view in views]
    if by == "magnitude":
        return [np.abs(view.value) for view in views]
    if by == "random":
        pairs = zip(kinds, views, strict=True)
        return [kind.random_scores(view.rng, view.mask.shape, view.filter_axes) for kind, view in pairs]
    if by == "wanda":
        norms = input_norms(model, weights, data)
        return [np.abs(view.value) * np.maximum(n, 1e-30 * n.max()) for view, n in zip(views, norms, strict=True)]
    return _loss_scores(by, model, weights, views, kinds, data, loss)


def _loss_scores(by, model, weights, views, kinds, data, loss):
    variables, sums, count = [weight.variable for weight in weights], [0.0] * len(weights), 0
    for batch in whole_batches(data):
        if len(batch) not in (2, 3):
            raise ValueError(
                f"`data` must hold batches (x, y) or (x, y, sample_weight) for by={by!r}. Received: x alone"
            )
        gradients = loss_gradients.gradients(model, batch, variables, loss=loss, training=False)
        count += 1
        for index, (view, kind, slope) in enumerate(zip(views, kinds, gradients, strict=True)):
            slope = slope.astype("float64")
            if by == "gradient":
                sums[index] += np.abs(slope)
            else:
                change = view.value * slope
                sums[index] += (change if by == "fisher" else _of_groups(change, kind, view)) ** 2
    return [total / count for total in sums]


def _of_groups(entries, kind, view):
    """For blocks and filters, the sum over each group, written to all its entries. Other entries are left unchanged."""
    if kind.spec is None or isinstance(kind, structures.NM):
        return entries
    means = kind.reduce(entries, view.filter_axes)
    numbers = kind.expand(np.arange(means.size).reshape(means.shape), entries.shape, view.filter_axes)
    return np.bincount(numbers.reshape(-1), entries.reshape(-1))[numbers]


def mean_loss(loss):
    """A function of (y, outputs, sample_weight) for a user's loss: a Keras loss, its name, or a function."""
    try:
        found = keras.losses.get(loss)
    except Exception as error:  # Keras's `get` functions raise nearly every kind of error.
        found, cause = None, error
    else:
        cause = None
    if isinstance(found, keras.losses.Loss):
        return found
    if not callable(found):
        raise ValueError(
            f"`loss` must be a Keras loss, its name or a function of (y_true, y_pred). Received: loss={loss!r}"
        ) from cause
    check_callable("loss", found, "y_true", "y_pred")

    def mean(y, outputs, sample_weight=None):
        # A user's own function may not accept numpy arrays together with tensors.
        values = found(keras.tree.map_structure(ops.convert_to_tensor, y), outputs)
        if sample_weight is not None:
            values = values * ops.reshape(ops.cast(sample_weight, values.dtype), (-1,) + (1,) * (len(values.shape) - 1))
        return ops.mean(values)

    return mean
