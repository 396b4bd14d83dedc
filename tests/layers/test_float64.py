"""Layers of double precision train with a penalty while Keras's own losses are float32, as they are by default."""

import keras
import numpy as np
import pytest
from keras import ops

from sparsity_tf import layers, regularizers

LASSO = regularizers.GroupLasso(0.1)
DENSE = {
    "variational dropout": lambda: layers.VDDense(4, penalty_weight=0.1),
    "group variables": lambda: layers.GVDDense(4, penalty_weight=0.1),
    "structured Bayesian pruning": lambda: layers.SBPDense(4, penalty_weight=0.1),
    "L0": lambda: layers.L0Dense(4, penalty_weight=0.1),
    "soft threshold": lambda: layers.STRDense(4, threshold_regularizer="l2"),
    "Top-KAST": lambda: layers.TopKASTDense(4, kernel_regularizer=LASSO),
    "SR-STE": lambda: layers.SRSTEDense(4, structure="2:4", kernel_regularizer=LASSO),
    "group lasso": lambda: layers.MaskedDense(4, kernel_regularizer=LASSO),
    "group lasso of a layer of Keras": lambda: keras.layers.Dense(4, kernel_regularizer=LASSO),
}


@pytest.fixture(autouse=True)
def double_precision():
    keras.config.set_dtype_policy("float64")


@pytest.mark.parametrize("make", DENSE.values(), ids=DENSE)
def test_a_float64_layer_trains_with_a_penalty(make):
    check_step(keras.Sequential([keras.Input((8,)), make()]), (8,))


def test_a_float64_activation_trains_with_a_penalty():
    parts = [layers.SparseActivation("static", 0.5, lp_penalty=0.1), keras.layers.Flatten(), keras.layers.Dense(4)]
    check_step(keras.Sequential([keras.Input((3, 3, 2)), *parts]), (3, 3, 2))


def check_step(model, shape):
    assert keras.config.floatx() == "float32"
    x, y = np.random.default_rng(0).normal(size=(4, *shape)), np.zeros((4, 4))
    model.compile("sgd", "mse")
    before = [ops.convert_to_numpy(variable) for variable in model.trainable_variables]
    with_penalty = model.train_on_batch(x, y)
    assert np.isfinite(with_penalty)
    model(x, training=True)
    assert len(model.losses) == 1 and ops.convert_to_numpy(model.losses[0]) > 0
    after = [ops.convert_to_numpy(variable) for variable in model.trainable_variables]
    assert any((old != new).any() for old, new in zip(before, after, strict=True))
    if keras.backend.backend() != "jax":  # JAX has no float64 unless it is told so.
        assert {array.dtype for array in after} == {np.dtype("float64")}
