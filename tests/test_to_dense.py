"""`to_dense`: stock Keras models with the zeros baked in."""

import json

import keras
import numpy as np
import pytest
from keras import layers, ops

import sparsity_tf
from sparsity_tf.layers import MaskedDense, VDDense, get_sparse_weights
from tests import fresh_process
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
    finished = fresh_process.run(code, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr


def test_a_dense_model_is_copied():
    model = functional_model()
    dense = sparsity_tf.to_dense(model)
    assert dense is not model
    np.testing.assert_array_equal(dense.predict(images(), verbose=0), model.predict(images(), verbose=0))


def test_the_dense_model_counts_as_called_and_keeps_its_statistics_and_seeds():
    model = keras.Sequential(
        [keras.Input((None, 4)), layers.Dense(3), layers.BatchNormalization(), layers.Dropout(0.5, seed=1)]
    )
    model.layers[1].moving_mean.assign([1.0, 2.0, 3.0])
    before = [ops.convert_to_numpy(v) for v in model.variables]
    dense = sparsity_tf.to_dense(model)
    assert dense._called
    for old, new in zip(before, dense.variables, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(new), old)


def test_a_model_that_cannot_be_called_without_data_is_converted_all_the_same():
    class Choosy(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = MaskedDense(3)

        def build(self, shape):
            self.dense.build(shape)

        def call(self, x):
            return self.dense(x) if float(ops.sum(x)) > 0 else x

        def get_config(self):
            return {}

    model = Choosy()
    model.build((None, 4))
    with keras.saving.custom_object_scope({"Choosy": Choosy}):
        assert classes(sparsity_tf.to_dense(model).dense) == {"keras"}


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
    message = r"(?s)can't be copied from its own config: Could not locate class.*Give Unregistered a `get_config`"
    with pytest.raises(ValueError, match=message):
        sparsity_tf.to_dense(sparsity_tf.sparsify(model, "masked"))


def test_a_function_that_keras_cannot_find_is_named():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, activation=lambda_free_square)])
    with pytest.raises(ValueError, match="own config: .*'lambda_free_square'") as raised:
        sparsity_tf.to_dense(sparsity_tf.sparsify(model, "masked"))
    assert "Give Sequential" not in str(raised.value) and "config={" not in str(raised.value)


def lambda_free_square(x):
    return ops.square(x)


def test_statistics_of_data_are_copied():
    data = np.random.default_rng(0).normal(5, 3, (100, 4)).astype("float32")
    normalization = layers.Normalization()
    normalization.adapt(data)
    model = keras.Sequential([keras.Input((4,)), normalization, layers.Dense(2)])
    dense = sparsity_tf.to_dense(sparsity_tf.sparsify(model, "masked"))
    np.testing.assert_array_equal(dense.predict(data, verbose=0), model.predict(data, verbose=0))


@pytest.mark.tensorflow
@pytest.mark.parametrize("make", [layers.TextVectorization, layers.StringLookup])
def test_vocabularies_are_copied(make):
    import tensorflow as tf

    lookup = make()
    lookup.adapt(np.array(["to", "be", "or", "not"]))
    inputs = keras.Input((1,), dtype="string")
    model = keras.Model(inputs, layers.Embedding(9, 2)(lookup(inputs)))
    dense = sparsity_tf.to_dense(sparsity_tf.sparsify(model, "masked"))
    words = tf.constant([["be"], ["not"], ["yes"]])
    np.testing.assert_array_equal(dense(words), model(words))


def test_lambdas_are_copied_with_the_names_they_use():
    inputs = keras.Input((4,))
    x = layers.Dense(3, activation=lambda x: ops.square(x))(inputs)
    model = keras.Model(inputs, layers.Lambda(lambda x: ops.flip(x, 1))(x))
    sparsity_tf.sparsify(model, "vd", log_sigma2_initializer=lambda shape, dtype=None: ops.zeros(shape, dtype))
    dense = sparsity_tf.to_dense(model)
    data = np.random.default_rng(0).normal(size=(2, 4)).astype("float32")
    np.testing.assert_array_equal(*(ops.convert_to_numpy(m(data)) for m in (dense, model)))
    assert dense.layers[2].function is model.layers[2].function
    assert dense.layers[2].function.__name__ == "<lambda>"


@pytest.mark.parametrize(
    "technique", [pytest.param(one, marks=[] if one in ("masked", "vd") else [pytest.mark.slow]) for one in TECHNIQUES]
)
def test_quantization_is_refused_until_the_model_is_dense(technique):
    model = half_sparse(keras.Sequential([keras.Input((4,)), layers.Dense(8)]), technique)
    for quantize in (model.quantize, model.layers[0].quantize):
        with pytest.raises(ValueError, match=r"'dense.*' can't be quantized.*`sparsity_tf.to_dense\(model\)` first"):
            quantize("int8")
    dense = sparsity_tf.to_dense(model)
    dense.quantize("int8")
    assert dense.layers[0].quantization_mode == "int8"


def test_the_factors_of_lora_are_copied():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(4), layers.Dense(2)])
    model.layers[0].enable_lora(2)
    model.layers[0].lora_kernel_b.assign(np.ones((2, 4)))
    dense = sparsity_tf.to_dense(sparsity_tf.sparsify(model, "masked"))
    for ours, theirs in zip(model.layers[0].variables, dense.layers[0].variables, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(ours), ops.convert_to_numpy(theirs))


def test_a_model_of_which_only_a_part_was_sparsified_is_named():
    model = Subclassed()
    model(sequences())
    sparsity_tf.sparsify(model.block, "masked", where="dense")
    sparsity_tf.to_dense(model.block)
    with pytest.raises(ValueError, match="block/dense' is sparse. Was `sparsify` called on a part.*`where`"):
        sparsity_tf.to_dense(model)


def test_the_users_own_constraint_outlives_the_mask():
    layer = MaskedDense(3, kernel_constraint="non_neg")
    model = keras.Sequential([keras.Input((4,)), layer])
    dense = sparsity_tf.to_dense(model)
    assert isinstance(dense.layers[0].kernel.constraint, keras.constraints.NonNeg)
