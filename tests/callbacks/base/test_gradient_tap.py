"""GradientTap: the gradient of the step, where each of Keras's optimizers receives it."""

import keras
import numpy as np
import pytest
from keras import ops

from sparsity_tf import callbacks
from sparsity_tf.callbacks.base import loss_gradients
from sparsity_tf.layers import get_sparse_weights
from tests.callbacks import algorithm_checks as checks

OPTIMIZERS = [
    *("SGD", "Adam", "AdamW", "Adamax", "Nadam", "RMSprop", "Adagrad", "Adadelta", "Lion"),
    # On torch Keras updates the variables of these one by one, and those of all others together.
    *("Ftrl", "Lamb"),
]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_gives_the_gradient_of_the_step(name):
    model = checks.make_model(checks.CASES["rigl"])
    model.compile(getattr(keras.optimizers, name)(0.01), "mse", run_eagerly=True)
    model.train_on_batch(checks.X, checks.Y)
    attributes = set(vars(model.optimizer))
    rigl = callbacks.RigL(0.5, frequency=1, end_step=9)
    rigl.prepare(model, 1, 12)
    variables = [weight.variable for weight in get_sparse_weights(model)]
    expected = loss_gradients.gradients(model, (checks.X, checks.Y), variables)
    model.train_on_batch(checks.X, checks.Y)
    for variable, gradient in zip(variables, expected, strict=True):
        assert np.count_nonzero(gradient) == gradient.size, "masked entries are included"
        np.testing.assert_allclose(ops.convert_to_numpy(rigl._tap.gradient(variable)), gradient, rtol=1e-4, atol=1e-6)
    rigl.finish()
    assert set(vars(model.optimizer)) == attributes
