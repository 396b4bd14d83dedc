"""`shrink` on models of other dtypes, shapes and formats: handled, or left alone with a reason."""

import keras
import numpy as np
import pytest
from keras import layers

from sparsity_tf.deploy import shrink
from tests.deploy.models import assert_equal_models, images, randomize, zero_channels


def why(model):
    return {row.layer: row.why for row in model.shrink_report}


def conv_net(shape=(8, 8, 3), **arguments):
    inputs = keras.Input(shape)
    x = layers.Conv2D(6, 3, activation="relu", name="first", **arguments)(inputs)
    x = layers.Conv2D(4, 3, strides=2, name="second", **arguments)(x)
    x = layers.GlobalAveragePooling2D(data_format=arguments.get("data_format"))(x)
    model = randomize(keras.Model(inputs, layers.Dense(2, dtype="float32", name="last")(x)))
    zero_channels(model.get_layer("first"), [0, 1], bias=[0.5, -1.0])
    return model


def mlp():
    inputs = keras.Input((6,))
    x = layers.Dense(8, activation="relu", name="first")(inputs)
    x = layers.Dense(8, name="second")(x)
    model = randomize(keras.Model(inputs, layers.Dense(2, name="last")(x)))
    zero_channels(model.get_layer("first"), [0, 1], bias=0.0)
    zero_channels(model.get_layer("second"), [0, 1], bias=0.0)
    return model


def vectors():
    return np.random.default_rng(0).normal(size=(3, 6)).astype("float32")


@pytest.mark.parametrize("policy, rounding", [("mixed_float16", 0.01), ("mixed_bfloat16", 0.05), ("float64", 1e-6)])
def test_every_precision_shrinks(policy, rounding):
    keras.config.set_dtype_policy(policy)
    model = conv_net()
    small = shrink(model)
    assert small.get_layer("first").filters == 4
    assert small.get_layer("first").dtype_policy.name == policy
    assert small.shrink_report.difference < rounding


def test_images_of_unknown_size_shrink():
    model = conv_net((None, None, 3))
    small = shrink(model)
    assert small.get_layer("first").filters == 4
    assert small.input_shape == (None, None, None, 3)
    assert_equal_models(model, small, images((2, 11, 9, 3)))


@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="TensorFlow has no such convolutions on a CPU")
def test_channels_first_shrinks():
    model = conv_net((3, 8, 8), data_format="channels_first")
    small = shrink(model)
    assert small.get_layer("first").filters == 4
    assert_equal_models(model, small, images((2, 3, 8, 8)))


def test_channels_first_shrinks_around_pooling_and_flattening():
    inputs = keras.Input((3, 8, 8))
    x = layers.Conv2D(6, 3, padding="same", name="conv")(layers.Permute((2, 3, 1))(inputs))
    x = layers.BatchNormalization(axis=1, name="bn")(layers.Permute((3, 1, 2))(x))
    x = layers.Flatten(data_format="channels_first")(layers.ReLU()(x))
    model = randomize(keras.Model(inputs, layers.Dense(2, name="last")(x)))
    zero_channels(model.get_layer("conv"), [0, 1], bias=0.0)
    small = shrink(model)
    assert small.get_layer("bn").gamma.shape == (4,)
    assert small.get_layer("last").kernel.shape == (4 * 64, 2)
    assert_equal_models(model, small, images((2, 3, 8, 8)))


def test_sequences_of_unknown_length_shrink():
    inputs = keras.Input((None,), dtype="int32")
    x = layers.Embedding(20, 4)(inputs)
    x = layers.Conv1D(6, 3, padding="causal", activation="relu", name="first")(x)
    model = randomize(keras.Model(inputs, layers.Dense(2, name="last")(layers.GRU(4)(x))))
    zero_channels(model.get_layer("first"), [0, 1], bias=0.0)
    small = shrink(model)
    assert small.get_layer("first").filters == 4
    assert_equal_models(model, small, np.arange(10).reshape(2, 5))


def test_a_model_that_needs_a_certain_size_is_asked_for_it():
    inputs = keras.Input((None, None, 3))
    x = layers.Lambda(lambda x: keras.ops.reshape(x, (-1, 7 * 7 * 3)), output_shape=(7 * 7 * 3,))(inputs)
    model = keras.Model(inputs, layers.Dense(2)(x))
    with pytest.raises(ValueError, match=r"does not run on random inputs of the shapes \[\(2, 32, 32, 3\)\]"):
        shrink(model)


def test_a_quantized_layer_stays_and_the_layers_before_it_shrink():
    model = mlp()
    model.get_layer("last").quantize("int8")
    small = shrink(model)
    assert small.get_layer("first").units == 6
    assert small.get_layer("second").units == 8
    assert why(small)["last"] == "it is quantized (int8)"


def test_a_layer_with_lora_stays():
    model = mlp()
    model.get_layer("last").enable_lora(2)
    small = shrink(model)
    assert small.get_layer("first").units == 6
    assert why(small)["last"] == "LoRA is enabled"
    assert_equal_models(model, small, vectors())


def test_zeros_that_stay_are_explained():
    inputs = keras.Input((6,))
    x = layers.LayerNormalization(name="norm")(layers.Dense(8, name="first")(inputs))
    model = randomize(keras.Model(inputs, layers.Dense(2)(x)))
    zero_channels(model.get_layer("first"), [0, 1])
    small = shrink(model)
    assert why(small)["first"] == "2 constant, but needed by a border, a layer or an output"
    assert_equal_models(model, small, vectors())


def test_an_input_that_nothing_needs_stays_an_input():
    one, two = keras.Input((6,), name="one"), keras.Input((6,), name="two")
    silent = layers.Dense(4, name="silent")(two)
    model = randomize(keras.Model([one, two], layers.Dense(2)(layers.Add()([layers.Dense(4)(one), silent]))))
    zero_channels(model.get_layer("silent"), range(4), bias=0.0)
    small = shrink(model)
    assert [x.name for x in small.inputs] == ["one", "two"]
    assert small.count_params() == 6 * 4 + 4 + 4 * 2 + 2
    assert_equal_models(model, small, vectors(), vectors())


def test_frozen_layers_stay_frozen():
    model = mlp()
    model.get_layer("first").trainable = False
    small = shrink(model)
    assert not small.get_layer("first").trainable
    assert len(small.trainable_variables) == len(model.trainable_variables)


@pytest.mark.tensorflow
def test_models_of_strings_are_refused():
    inputs = keras.Input((1,), dtype="string")
    x = layers.StringLookup(vocabulary=["a", "b"])(inputs)
    model = keras.Model(inputs, layers.Embedding(4, 3)(x))
    with pytest.raises(ValueError, match="`model` must have numeric inputs. Received: an input of dtype string"):
        shrink(model)
