"""Sparse momentum: the worked truncations of its public program, and what that program gets wrong."""

import keras
import numpy as np
import pytest
from keras import ops

from sparsity_tf import callbacks, layers
from sparsity_tf.layers import get_sparse_weights

# The worked example: weights of two bias-free layers and their momentum, as (inputs, outputs).
WEIGHTS = (
    np.array([[0.1, -0.2, 0.3, 0, 0], [0, 0, 0, 0.4, -0.5]], "float32").T,
    np.array([[0.6, 0], [0, -0.05], [0, 0.7]], "float32").T,
)
MOMENTUM = (
    np.array([[0.01, 0.02, 0.03, 0.9, 0.8], [0.7, 0.6, 0.5, 0.04, 0.05]], "float32").T,
    np.array([[0.06, 0.11], [0.12, 0.06], [0.13, 0.06]], "float32").T,
)


def worked_example(**modes):
    model = keras.Sequential(
        [keras.Input((5,)), layers.MaskedDense(2, use_bias=False), layers.MaskedDense(3, use_bias=False)]
    )
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    algorithm = callbacks.SparseMomentum(decay="constant", frequency=1, end_step=100, **modes)
    for weight, value in zip(get_sparse_weights(model), WEIGHTS, strict=True):
        weight.variable.assign(value)
        weight.assign_mask(value != 0)
    algorithm.prepare(model)
    for weight, value in zip(get_sparse_weights(model), MOMENTUM, strict=True):
        index = model.optimizer._get_variable_index(weight.variable)
        model.optimizer.momentums[index].assign(-0.1 * value)
    return model, algorithm


def as_text(model):
    """Masks, one row an output unit, as the sheet writes them."""
    found = []
    for weight in get_sparse_weights(model):
        rows = ops.convert_to_numpy(weight.mask()).T.astype(int)
        found.append("/".join("".join(map(str, row)) for row in rows))
    return tuple(found)


@pytest.mark.parametrize(
    "redistribution,masks,adjustment",
    [
        ("momentum", ("00011/00011", "11/10/11"), -1.75),
        ("magnitude", ("00011/00011", "01/10/11"), 0.0),
        ("nonzero", ("00011/11011", "00/10/11"), -1.75),
        ("none", ("00011/11011", "00/10/11"), -1.75),
    ],
)
def test_the_worked_truncation(redistribution, masks, adjustment):
    model, algorithm = worked_example(redistribution=redistribution)
    algorithm.change_masks(1)
    assert as_text(model) == masks
    assert algorithm.recall()["adjustment"] == pytest.approx(adjustment)
    assert algorithm.recall()["baseline"] == 8


def test_the_truncations_after_it():
    model, algorithm = worked_example()
    found = []
    for step in (1, 2, 3):
        algorithm.change_masks(step)
        found.append((as_text(model), round(algorithm.recall()["adjustment"], 3)))
    assert found == [
        (("00011/00011", "11/10/11"), -1.75),
        (("00011/10011", "10/00/11"), -0.938),
        (("00011/11011", "00/00/11"), -0.568),
    ]
