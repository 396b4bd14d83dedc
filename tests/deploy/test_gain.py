"""The sentence on what shipping gains: counts by hand, and the reasons where nothing is gained."""

import keras
import numpy as np
import pytest
from keras import layers

import sparsity_tf
from sparsity_tf.deploy import shipping_gain

pytestmark = pytest.mark.compiled


def mlp(units=20):
    return keras.Sequential([keras.Input((10,)), layers.Dense(units, "relu"), layers.Dense(2)])


def test_how_far_a_network_shrinks():
    # (10 + 1) 20 + 2 (20 + 1) = 262 parameters and 240 products; of 5 units 67 and 60.
    model = sparsity_tf.prune(mlp(), 0.75, structure="channel")
    text = "shipping: shrunk to 67 of 262 parameters (3.91 times fewer), 4.00 times fewer multiply-accumulates"
    assert shipping_gain(model) == text


def test_single_zeros_gain_a_smaller_file_and_no_speed():
    model = mlp()
    kernel = np.ones((10, 20), "float32")
    kernel[::2] = 0
    model.layers[0].set_weights([kernel, np.ones(20, "float32")])
    assert "no runtime gets faster: structure='channel'" in shipping_gain(model)
    assert "\n" not in shipping_gain(model)


def test_a_network_that_can_not_be_shrunk_has_the_reason():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(2)

        def call(self, inputs):
            return self.dense(inputs)

    model = Own()
    model(np.ones((1, 3), "float32"))
    assert shipping_gain(model).startswith("shipping: ")
    with pytest.raises(ValueError, match="`model`"):
        shipping_gain(None)
