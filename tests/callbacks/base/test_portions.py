"""Large networks are updated a portion of their weights at a time; the masks are those of one update of all weights."""

import keras
import numpy as np
import pytest
from keras import layers

import sparsity_tf
from sparsity_tf import callbacks
from sparsity_tf.callbacks.base import mask_writer
from sparsity_tf.callbacks.base.weight_view import read_mask


def compiled():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((12,)), layers.Dense(16), layers.Dense(16), layers.Dense(8), layers.Dense(4)])
    model = sparsity_tf.sparsify(model, "masked")
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    return model


def fitted(algorithm):
    """Masks, weights and momenta after a few steps with updates."""
    model = compiled()
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 12)), rng.normal(size=(40, 4))
    model.fit(x, y, batch_size=4, epochs=1, shuffle=False, verbose=0, callbacks=[algorithm()])
    masks = [read_mask(weight) for weight in sparsity_tf.get_sparse_weights(model)]
    variables = [*model.weights, *model.optimizer.variables]
    return masks + [keras.ops.convert_to_numpy(variable) for variable in variables]


ALGORITHMS = {
    "magnitude": lambda: callbacks.MagnitudePruning(0.8, 1, 8, frequency=2),
    "magnitude, global": lambda: callbacks.MagnitudePruning(0.8, 1, 8, frequency=2, scope="global"),
    "random": lambda: callbacks.RandomPruning(0.8, 1, 8, frequency=2, cumulative=False),
    "RigL": lambda: callbacks.RigL(0.7, frequency=3, end_step=9),
    "momenta shared out": lambda: callbacks.DropAndGrow(0.7, redistribution="momentum", frequency=3, end_step=9),
    "growth over all weights": lambda: callbacks.DropAndGrow(0.7, grow="global_momentum", frequency=3, end_step=9),
}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_portions_change_no_bit(monkeypatch, name):
    whole = fitted(ALGORITHMS[name])
    monkeypatch.setattr(mask_writer, "_ENTRIES_AT_ONCE", 200)
    for one, other in zip(fitted(ALGORITHMS[name]), whole, strict=True):
        np.testing.assert_array_equal(one, other)


def test_portions_hold_few_entries_or_one_weight(monkeypatch):
    monkeypatch.setattr(mask_writer, "_ENTRIES_AT_ONCE", 10)
    assert mask_writer.portions([4, 6, 1, 30, 2, 8]) == [[0, 1], [2], [3], [4, 5]]
    assert mask_writer.portions([]) == []


def test_ranking_of_live_weights_ignores_the_variable_under_the_mask():
    model = compiled()
    first = sparsity_tf.get_sparse_weights(model)[0]
    live = np.arange(first.size).reshape(first.shape) % 2 == 0
    first.assign_mask(live)
    # On JAX a variable may hold any number where it is masked.
    numbers = np.where(live, np.linspace(1, 2, first.size).reshape(first.shape), 100.0)
    first.variable.assign(numbers)
    pruning = callbacks.MagnitudePruning(0.75, 0, 4, where=lambda layer: layer is first.layer)
    pruning.prepare(model, epochs=1, steps_per_epoch=10)
    pruning.change_masks(4)
    expected = live & (numbers >= np.sort(numbers[live])[-first.size // 4])
    np.testing.assert_array_equal(read_mask(first), expected)
