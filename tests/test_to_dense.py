"""`to_dense`: stock Keras models with the zeros baked in."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers, ops

import sparsity_tf
from sparsity_tf.layers import MaskedDense, VDDense, get_sparse_weights
from tests.layers.layer_checks import make_half_sparse
from tests.test_sparsify import Subclassed, functional_model, images, sequences

TECHNIQUES = ["masked", "vd", "l0", "str", "dnw"]


def half_sparse(model, technique):
    sparsity_tf.sparsify(model, technique)
    for layer in model._flatten_layers():
        if hasattr(layer, "sparse_weights"):
            make_half_sparse(layer)
    return model


def classes(model):
    return {type(layer).__module__.partition(".")[0] for layer in model._flatten_layers()}


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_functional_model(technique):
    model = half_sparse(functional_model(), technique)
    expected = model.predict(images(), verbose=0)
    values = [ops.convert_to_numpy(w.value()) for w in get_sparse_weights(model)]
    names = [w.layer.name for w in get_sparse_weights(model)]

    dense = sparsity_tf.to_dense(model)

    assert classes(dense) == {"keras"}
    assert "sparsity_tf" not in dense.to_json()
    # JAX compiles gates and product as one, and rounds otherwise than when the gates are computed alone.
    rounding = {"rtol": 1e-5, "atol": 1e-7} if keras.backend.backend() == "jax" else {"rtol": 0, "atol": 0}
    np.testing.assert_allclose(dense.predict(images(), verbose=0), expected, **rounding)
    for name, value in zip(names, values, strict=True):
        kernel = ops.convert_to_numpy(dense.get_layer(name).kernel)
        np.testing.assert_array_equal(kernel, value)
        assert (kernel == 0).any()
    # The sparse model is left as it was.
    assert len(get_sparse_weights(model)) == len(values)
    np.testing.assert_array_equal(model.predict(images(), verbose=0), expected)


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_the_variables_are_those_of_the_plain_model(technique):
    plain = functional_model()
    dense = sparsity_tf.to_dense(half_sparse(functional_model(), technique))
    assert [v.path for v in dense.variables] == [v.path for v in plain.variables]
    assert [v.path for v in dense.trainable_variables] == [v.path for v in plain.trainable_variables]
    assert [v.constraint for v in dense.trainable_variables] == [None] * len(plain.trainable_variables)


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_attention_nested_and_subclassed_models(technique):
    model = Subclassed()
    model(sequences())
    half_sparse(model, technique)
    dense = sparsity_tf.to_dense(model)
    assert type(dense) is Subclassed
    assert "sparsity_tf" not in json.dumps(keras.saving.serialize_keras_object(dense))
    np.testing.assert_allclose(
        dense.predict(sequences(), verbose=0), model.predict(sequences(), verbose=0), rtol=1e-6, atol=1e-7
    )


def test_a_model_built_from_sparse_layers_directly():
    inputs = keras.Input((6,))
    x = VDDense(5, activation="relu", log_sigma2_initializer=-4.0, name="one")(inputs)
    model = keras.Model(inputs, MaskedDense(2, name="two")(x))
    dense = sparsity_tf.to_dense(model)
    assert [type(layer) for layer in dense.layers[1:]] == [layers.Dense, layers.Dense]
    data = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")
    np.testing.assert_array_equal(dense.predict(data, verbose=0), model.predict(data, verbose=0))


def test_the_dense_model_trains_like_any_other():
    dense = sparsity_tf.to_dense(half_sparse(functional_model(), "vd"))
    dense.compile("adam", "mse")
    dense.fit(images(), np.zeros((4, 3)), verbose=0)
    dense.quantize("int8")


def test_the_file_loads_where_only_keras_is(tmp_path):
    model = half_sparse(functional_model(), "vd")
    path = tmp_path / "dense.keras"
    sparsity_tf.to_dense(model).save(path)
    np.savez(tmp_path / "data.npz", x=images(), y=model.predict(images(), verbose=0))
    code = (
        "import sys, keras, numpy as np\n"
        f"model = keras.saving.load_model({str(path)!r})\n"
        f"data = np.load({str(tmp_path / 'data.npz')!r})\n"
        "np.testing.assert_allclose(model.predict(data['x'], verbose=0), data['y'], rtol=1e-5, atol=1e-6)\n"
        "assert 'sparsity_tf' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def test_a_dense_model_is_copied():
    model = functional_model()
    dense = sparsity_tf.to_dense(model)
    assert dense is not model
    np.testing.assert_array_equal(dense.predict(images(), verbose=0), model.predict(images(), verbose=0))


def test_bad_input():
    with pytest.raises(ValueError, match="must be a Keras model"):
        sparsity_tf.to_dense(None)
    with pytest.raises(ValueError, match="must be built"):
        sparsity_tf.to_dense(keras.Sequential([layers.Dense(2)]))


def test_a_model_that_keras_cannot_rebuild_is_named():
    class Unregistered(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(3)

        def call(self, inputs):
            return self.dense(inputs)

    model = Unregistered()
    model(np.zeros((1, 4), "float32"))
    with pytest.raises(ValueError, match="can't be copied from its own config. Give Unregistered a `get_config`"):
        sparsity_tf.to_dense(sparsity_tf.sparsify(model, "masked"))


def test_the_users_own_constraint_outlives_the_mask():
    layer = MaskedDense(3, kernel_constraint="non_neg")
    model = keras.Sequential([keras.Input((4,)), layer])
    dense = sparsity_tf.to_dense(model)
    assert isinstance(dense.layers[0].kernel.constraint, keras.constraints.NonNeg)
