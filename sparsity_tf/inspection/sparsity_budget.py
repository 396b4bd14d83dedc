"""Makes a budget from the sparsities of a model, for another training run."""

import fractions

import keras

from sparsity_tf.distributions.base import exact_sparsity
from sparsity_tf.distributions.budgets import Budget
from sparsity_tf.layers import get_sparse_weights


def sparsity_budget(model: keras.layers.Layer) -> Budget:
    """Makes a budget of a model's present sparsities, counted as exact zeros at inference.

    Args:
        model: Built Keras model or layer with sparse layers. Layers without sparse weights get no entry, even if they
            hold zeros.

    Returns:
        A `Budget` with sizes. Names are paths ("encoder/dense_1/kernel"). For each entry `masks.number_of_zeros(s,
        size)` is the number of zeros counted.

    Raises:
        ValueError: The model has no sparse weights, or two sparse weights with the same path.

    Example:

    >>> model = sparsity_tf.prune(model, 0.75)
    >>> budget = sparsity_budget(model)
    >>> budget["hidden/kernel"]
    0.75
    """
    weights = get_sparse_weights(model)
    if not weights:
        raise ValueError(
            "`model` must have sparse weights: apply `sparsify` and build it. "
            f"Received: model={getattr(model, 'name', model)!r}"
        )
    sizes = {weight.path: weight.size for weight in weights}
    if len(sizes) < len(weights):
        raise ValueError(f"`model` must have distinct paths. Received: {[weight.path for weight in weights]}")
    zeros = {weight.path: fractions.Fraction(weight.size - weight.count(), weight.size) for weight in weights}
    return Budget({path: exact_sparsity(zeros[path], size) for path, size in sizes.items()}, sizes)
