"""Weights on a GPU are ranked there: the same masks as in numpy. (Here the CPU plays the accelerator.)"""

import keras
import numpy as np
import pytest

import sparsity_tf
from sparsity_tf import callbacks
from sparsity_tf.callbacks.base import mask_algorithm

ALGORITHMS = {
    "magnitude": lambda: callbacks.MagnitudePruning(0.8, begin_step=1, end_step=8, frequency=2),
    "magnitude, global": lambda: callbacks.MagnitudePruning(0.8, begin_step=1, end_step=8, frequency=2, scope="global"),
    "magnitude, blocks": lambda: callbacks.MagnitudePruning(0.8, begin_step=1, end_step=8, structure="4x1"),
    "random": lambda: callbacks.RandomPruning(0.8, begin_step=1, end_step=8, frequency=2),
    "SET": lambda: callbacks.SET(0.8, frequency=3),
    "RigL": lambda: callbacks.RigL(0.8, frequency=3),
    "sparse momentum": lambda: callbacks.SparseMomentum(0.8, frequency=3),
    "sparse momentum, global": lambda: callbacks.SparseMomentum(
        0.8, drop="global_magnitude", grow="global_momentum", frequency=3
    ),
    "DSR": lambda: callbacks.DynamicSparseReparameterization(0.8, frequency=3, prune_target=20),
    "SNIP": lambda: callbacks.SNIP(0.8, data=(inputs()[:8], np.arange(8) % 3)),
}


def inputs():
    return np.random.default_rng(0).normal(size=(72, 20)).astype("float32")


def trained(make, optimizer):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(32, "relu"), keras.layers.Dense(3)])
    sparsity_tf.sparsify(model, "masked")
    model.compile(optimizer(), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(inputs(), np.arange(72) % 3, batch_size=8, verbose=0, shuffle=False, callbacks=[make()])
    return [keras.ops.convert_to_numpy(weight.value()) for weight in sparsity_tf.get_sparse_weights(model)]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_masks_and_weights_are_those_of_numpy(name, monkeypatch):
    def sgd():
        return keras.optimizers.SGD(0.1, momentum=0.9)

    expected = trained(ALGORITHMS[name], sgd)
    monkeypatch.setattr(mask_algorithm, "is_on_accelerator", lambda tensor: True)
    for value, other in zip(trained(ALGORITHMS[name], sgd), expected, strict=True):
        np.testing.assert_array_equal(value, other)


def test_adam_has_the_same_momentum(monkeypatch):
    expected = trained(ALGORITHMS["sparse momentum"], keras.optimizers.Adam)
    monkeypatch.setattr(mask_algorithm, "is_on_accelerator", lambda tensor: True)
    for value, other in zip(trained(ALGORITHMS["sparse momentum"], keras.optimizers.Adam), expected, strict=True):
        np.testing.assert_array_equal(value != 0, other != 0)


def test_numbers_are_fetched_only_where_something_reads_them(monkeypatch):
    monkeypatch.setattr(mask_algorithm, "is_on_accelerator", lambda tensor: True)
    fetched = []
    array = callbacks.WeightView._array
    monkeypatch.setattr(callbacks.WeightView, "_array", lambda view, name: fetched.append(name) or array(view, name))
    for name in ("magnitude", "magnitude, global", "RigL"):
        trained(ALGORITHMS[name], lambda: keras.optimizers.SGD(0.1, momentum=0.9))
    assert not fetched
    trained(ALGORITHMS["SET"], lambda: keras.optimizers.SGD(0.1, momentum=0.9))
    assert set(fetched) == {"value"}
