"""`shrink` on models of other dtypes, shapes and formats: handled, or left alone with a reason."""

import keras
import numpy as np
import pytest
from keras import layers

from sparsity_tf.deploy import constants, shrink
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


def dead_dense(size=8):
    """A layer that will have two dead units; `finished` gives them a constant."""
    return layers.Dense(size, activation="relu", name="dead")


def finished(inputs, outputs):
    model = randomize(keras.Model(inputs, outputs))
    zero_channels(model.get_layer("dead"), [0, 1], bias=0.7)
    return model


def sequences(length, size=3):
    return np.random.default_rng(0).normal(size=(2, length, size)).astype("float32")


def test_a_sum_over_an_unknown_length_is_no_constant():
    inputs = keras.Input((None, 3))
    x = keras.ops.sum(dead_dense()(inputs), axis=1)
    model = finished(inputs, layers.Dense(2)(x))
    small = shrink(model)
    for length in (3, 8, 17):
        assert_equal_models(model, small, sequences(length))
    zero_channels(model.get_layer("dead"), [0, 1], bias=0.0)
    assert shrink(model).get_layer("dead").units == 6


def test_the_check_of_the_result_sees_a_constant_that_holds_at_one_size_only(monkeypatch):
    monkeypatch.setattr(constants, "_LARGER", ())  # As if only one size had been tried.
    inputs = keras.Input((None, 3))
    model = finished(inputs, layers.Dense(2)(keras.ops.sum(dead_dense()(inputs), axis=1)))
    with pytest.raises(RuntimeError, match="does not predict the same"):
        shrink(model)


def test_a_model_that_needs_certain_sizes_is_compared_on_those():
    inputs = keras.Input((None, None, 3))
    x = layers.Conv2D(8, 3, strides=4, padding="same", activation="relu", name="dead")(inputs)
    x = layers.Concatenate()([inputs, layers.UpSampling2D(4)(x)])  # Runs on multiples of four alone.
    model = finished(inputs, layers.GlobalAveragePooling2D()(layers.Conv2D(2, 1)(x)))
    zero_channels(model.get_layer("dead"), [0, 1], bias=0.0)
    small = shrink(model)
    assert small.get_layer("dead").filters == 6
    assert_equal_models(model, small, images((2, 32, 32, 3)))


@pytest.mark.parametrize("stride", [2, 4])
def test_a_border_that_only_some_sizes_have_is_seen(stride):
    inputs = keras.Input((None, None, 3))
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="dead")(inputs)
    x = layers.Conv2D(4, stride, strides=stride, padding="same", activation="relu", name="patches")(x)
    model = finished(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    kernel = np.array(keras.ops.convert_to_numpy(model.get_layer("patches").kernel))
    kernel[:, :, 2:, :2] = 0  # Two patches read only constants.
    model.get_layer("patches").kernel.assign(kernel)
    small = shrink(model)
    for size in (32, 33):
        assert_equal_models(model, small, images((2, size, size, 3)))


@pytest.mark.parametrize("length, size", [(3, 8), (8, 3)])
def test_a_reshape_that_moves_steps_into_the_batch_and_back(length, size):
    inputs = keras.Input((length, 3))
    x = dead_dense(size)(keras.ops.reshape(inputs, (-1, 3)))
    model = finished(inputs, layers.Dense(2)(keras.ops.reshape(x, (-1, length, size))))
    small = shrink(model)
    assert small.get_layer("dead").units == size - 2
    assert_equal_models(model, small, sequences(length))


def test_a_reshape_that_moves_channels_into_the_batch_keeps_them():
    inputs = keras.Input((4, 3))
    x = keras.ops.reshape(dead_dense()(inputs), (-1, 16))
    model = finished(inputs, layers.Dense(2)(x))
    small = shrink(model)
    assert small.get_layer("dead").units == 8
    assert_equal_models(model, small, sequences(4))


def test_a_fixed_batch_size_is_kept():
    inputs = keras.Input(batch_shape=(2, 6))
    x = dead_dense()(inputs)
    one = keras.ops.concatenate([np.ones((2, 3), "float32"), x], axis=-1)
    two = layers.Dense(11, name="two")(keras.ops.reshape(layers.Dense(4, name="wide")(x), (2, 4)))
    model = finished(inputs, layers.Dense(2)(layers.Add()([one, two])))
    small = shrink(model)
    assert small.get_layer("dead").units == 8
    assert_equal_models(model, small, vectors()[:2])


def test_numbers_for_each_channel_in_a_config_keep_the_channels():
    inputs = keras.Input((5, 3))
    x = layers.Rescaling([1.0, 2.0, 3.0, 4.0], offset=[0.1, 0.2, 0.3, 0.4])(dead_dense(4)(inputs))
    model = finished(inputs, layers.Dense(2)(x))
    small = shrink(model)
    assert_equal_models(model, small, sequences(5))
    assert small.get_layer("dead").units == 4
    x = layers.Dropout(0.5, noise_shape=(None, 1, 4))(dead_dense(4)(inputs))
    model = finished(inputs, layers.Dense(2)(x))
    small = shrink(model)
    assert_equal_models(model, small, sequences(5))
    small(sequences(5), training=True)


def test_an_activation_with_weights_keeps_them():
    inputs = keras.Input((6,))
    x = layers.Dense(7, activation=layers.PReLU(), name="second")(dead_dense()(inputs))
    model = keras.Model(inputs, layers.Dense(2)(x))
    model(vectors())  # Keras builds the activation in the first call.
    model = finished(inputs, model.outputs)
    small = shrink(model)
    assert why(small)["second"] == "its activation has weights of its own"
    assert_equal_models(model, small, vectors())


def test_an_activation_that_cannot_be_hashed_is_tried():
    @keras.saving.register_keras_serializable("tests.deploy")
    class Scaled:
        __hash__ = None

        def __call__(self, x):
            return keras.ops.relu(x) * 2

        def get_config(self):
            return {}

        @classmethod
        def from_config(cls, config):
            return cls()

    inputs = keras.Input((6,))
    x = layers.Dense(8, activation=Scaled(), name="dead")(inputs)
    model = finished(inputs, layers.Dense(2)(x))
    small = shrink(model)
    assert small.get_layer("dead").units == 6
    assert_equal_models(model, small, vectors())


@pytest.mark.parametrize("layer", [layers.RandomFlip, lambda: layers.Resizing(6, 6)])
def test_augmentation_and_resizing_do_nothing_at_inference_that_shrinking_must_fear(layer):
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, activation="relu", name="dead")(layer()(inputs))
    model = finished(inputs, layers.Dense(2)(layers.Flatten()(x)))
    small = shrink(model)
    assert small.get_layer("dead").filters == 6
    assert_equal_models(model, small, images())


def test_an_output_without_a_batch_is_kept():
    inputs = keras.Input((6,))
    x = dead_dense()(inputs)
    model = finished(inputs, [keras.ops.sum(layers.Dense(2)(x)), keras.ops.sum(layers.Dense(2)(x), axis=0)])
    small = shrink(model)
    assert small.get_layer("dead").units == 6
    assert_equal_models(model, small, vectors())
