"""A warning points to the line of the user that led to it, also through several functions of the package."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers

import sparsity_tf
from sparsity_tf import callbacks


@keras.saving.register_keras_serializable("test_user_warning")
class OwnDense(layers.Layer):
    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(input_shape[-1], 3), name="kernel")

    def call(self, inputs):
        return keras.ops.matmul(inputs, self.kernel)


def model_with_a_layer_of_the_users():
    return keras.Sequential([keras.Input((6,)), layers.Dense(8, name="known"), OwnDense(name="own")])


def fit(model, algorithm):
    model.compile("sgd", "mse", run_eagerly=True)
    model.fit(np.ones((8, 6)), np.ones((8, 3)), batch_size=2, verbose=0, callbacks=[algorithm])


WAYS = {
    "sparsify": lambda model: sparsity_tf.sparsify(model, "masked"),
    "prune": lambda model: sparsity_tf.prune(model, 0.5),
    "fit": lambda model: fit(model, callbacks.MagnitudePruning(final_sparsity=0.5)),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_warning_of_a_layer_without_a_sparse_form_points_to_the_users_line(way):
    assert_points_here("has no sparse form", lambda: WAYS[way](model_with_a_layer_of_the_users()))


def test_other_warnings_of_prune_point_to_the_users_line():
    model = keras.Sequential([keras.Input((6,)), layers.Dense(8, name="known"), layers.Dense(3, name="last")])
    assert_points_here("less sparse than the structure says", lambda: sparsity_tf.prune(model, 0.5, structure="2:4"))
    model = keras.Sequential([keras.Input((6,)), layers.Dense(8, name="known"), layers.Dense(3, name="last")])
    assert_points_here("output layers stay dense", lambda: sparsity_tf.prune(model, 0.5, structure="filter"))


def assert_points_here(text, call):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        call()
    places = [warning.filename for warning in found if text in str(warning.message)]
    assert places == [__file__]


def test_a_warning_from_inside_a_compiled_step_points_to_the_users_line():
    """The backend traces the step, so its frames lie in between."""
    from sparsity_tf.layers import STRDense

    model = keras.Sequential([keras.Input((6,)), STRDense(3)])
    model.compile("sgd", "mse")
    x, y = np.ones((8, 6)), np.ones((8, 3))
    assert_points_here("Nothing raises the threshold", lambda: model.fit(x, y, verbose=0))
