"""`shrink`: an equal, smaller model. Each case is small enough to be counted by hand."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import sparsity_tf
from sparsity_tf.deploy import shrink
from tests.deploy.models import assert_equal_models, images, predictions, randomize, widths, zero_channels


def vectors(size=6, seed=0):
    return np.random.default_rng(seed).normal(size=(3, size)).astype("float32")


def mlp(activation="relu"):
    inputs = keras.Input((6,))
    x = layers.Dense(8, activation=activation, name="first")(inputs)
    x = layers.Dense(5, activation="tanh", name="second")(x)
    return randomize(keras.Model(inputs, layers.Dense(3, activation="softmax", name="last")(x)))


def test_it_is_exported_at_the_top():
    assert sparsity_tf.shrink is shrink
    assert sparsity_tf.deploy.shrink is shrink


def test_a_dead_unit_goes_and_its_constant_goes_into_the_next_bias():
    model = mlp()
    zero_channels(model.get_layer("first"), [1, 4], bias=0.75)
    small = shrink(model)
    assert widths(small) == {**widths(model), "first": 6}
    assert small.count_params() == (6 * 6 + 6) + (6 * 5 + 5) + (5 * 3 + 3)
    assert_equal_models(model, small, vectors())
    kernel, bias = model.get_layer("second").get_weights()
    expected = bias + 0.75 * (kernel[1] + kernel[4])
    np.testing.assert_allclose(ops.convert_to_numpy(small.get_layer("second").bias), expected, rtol=1e-6)


def test_a_unit_that_nobody_reads_goes():
    model = mlp()
    kernel = np.array(ops.convert_to_numpy(model.get_layer("second").kernel))
    kernel[[0, 2, 7]] = 0
    model.get_layer("second").kernel.assign(kernel)
    small = shrink(model)
    assert widths(small)["first"] == 5
    assert_equal_models(model, small, vectors())


def test_units_that_only_dead_units_read_go_too():
    model = mlp()
    zero_channels(model.get_layer("second"), [3])
    kernel = np.array(ops.convert_to_numpy(model.get_layer("second").kernel))
    kernel[2, [0, 1, 2, 4]] = 0
    kernel[2, 3] = 1.0
    model.get_layer("second").kernel.assign(kernel)
    last = np.array(ops.convert_to_numpy(model.get_layer("last").kernel))
    last[3] = 0
    model.get_layer("last").kernel.assign(last)
    small = shrink(model)
    assert widths(small)["first"] == 7
    assert widths(small)["second"] == 4
    assert_equal_models(model, small, vectors())


def test_a_bias_is_made_where_a_constant_needs_one():
    inputs = keras.Input((6,))
    x = layers.Dense(4, activation="sigmoid", name="first")(inputs)
    model = randomize(keras.Model(inputs, layers.Dense(2, use_bias=False, name="last")(x)))
    zero_channels(model.get_layer("first"), [0])
    small = shrink(model)
    assert small.get_layer("last").use_bias
    assert small.get_layer("first").units == 3
    assert_equal_models(model, small, vectors())


def test_no_bias_is_made_for_outputs_that_nothing_needs():
    inputs = keras.Input((6,))
    x = layers.Dense(4, activation="sigmoid", name="first")(inputs)
    x = layers.Dense(2, use_bias=False, name="idle")(x)
    # The first factor is 0, so that the second does not matter. It is there for its partner.
    model = keras.Model(inputs, layers.Multiply()([layers.Dense(2, name="zero")(inputs), x]))
    randomize(model)
    zero_channels(model.get_layer("zero"), [0, 1], bias=0.0)
    zero_channels(model.get_layer("first"), [0])
    small = shrink(model)
    assert not small.get_layer("idle").use_bias
    assert_equal_models(model, small, vectors())


def test_no_bias_is_made_where_the_constant_is_zero():
    inputs = keras.Input((6,))
    x = layers.Dense(4, activation="relu", use_bias=False, name="first")(inputs)
    model = randomize(keras.Model(inputs, layers.Dense(2, use_bias=False, name="last")(x)))
    zero_channels(model.get_layer("first"), [0])
    small = shrink(model)
    assert not small.get_layer("last").use_bias
    assert small.count_params() == 6 * 3 + 3 * 2


def test_without_zeros_the_model_is_the_same():
    model = mlp()
    small = shrink(model)
    assert small is not model
    assert small.get_config() == model.get_config()
    for one, two in zip(model.get_weights(), small.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    assert not small.shrink_report.changed


def test_shrinking_twice_is_shrinking_once():
    model = mlp()
    zero_channels(model.get_layer("first"), [1, 4], bias=0.75)
    once = shrink(model)
    assert shrink(once).get_config() == once.get_config()


def test_the_given_model_is_not_changed():
    model = mlp()
    zero_channels(model.get_layer("first"), [1, 4])
    config, weights = model.get_config(), model.get_weights()
    nodes = [len(layer._inbound_nodes) for layer in model.layers]
    shrink(model)
    assert model.get_config() == config
    assert [len(layer._inbound_nodes) for layer in model.layers] == nodes
    for one, two in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_model_of_zeros_keeps_one_unit_a_layer():
    model = mlp()
    for layer in model.layers[1:]:
        layer.kernel.assign(np.zeros(layer.kernel.shape))
    small = shrink(model)
    assert [small.get_layer(name).units for name in ("first", "second", "last")] == [1, 1, 3]
    assert_equal_models(model, small, vectors())


def test_a_softmax_keeps_its_outputs_but_not_its_inputs():
    model = mlp()
    zero_channels(model.get_layer("last"), [0])
    zero_channels(model.get_layer("second"), [0, 1, 2])
    small = shrink(model)
    assert widths(small)["second"] == 2
    assert widths(small)["last"] == 3
    assert_equal_models(model, small, vectors())


@pytest.mark.parametrize(
    "activation, units",
    [(lambda x: ops.gelu(x, approximate=True), 6), (lambda x: x / ops.sum(ops.abs(x), axis=-1, keepdims=True), 8)],
    ids=["each entry alone", "all entries"],
)
def test_an_activation_that_nobody_knows_is_tried(activation, units):
    model = mlp()
    model.get_layer("first").activation = activation
    zero_channels(model.get_layer("first"), [0, 1])
    small = shrink(model)
    assert widths(small)["first"] == units
    reason = "its activation looks at all channels"
    assert (reason in small.shrink_report.rows[0].why) == (units == 8)
    assert_equal_models(model, small, vectors())


def test_a_sequential_model_stays_sequential():
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(8, "relu"), layers.Dropout(0.5), layers.Dense(2)], name="net"
    )
    zero_channels(randomize(model).layers[0], range(5))
    small = shrink(model)
    assert isinstance(small, keras.Sequential)
    assert small.name == "net"
    assert [layer.name for layer in small.layers] == [layer.name for layer in model.layers]
    assert small.layers[0].units == 3
    assert_equal_models(model, small, vectors())


def test_the_small_model_is_plain_and_saves(tmp_path):
    model = mlp()
    zero_channels(model.get_layer("first"), [1, 4])
    small = shrink(model)
    small.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    for one, two in zip(predictions(small, vectors()), predictions(loaded, vectors()), strict=True):
        np.testing.assert_array_equal(one, two)


def test_the_small_model_trains():
    model = mlp()
    zero_channels(model.get_layer("first"), [1, 4])
    small = shrink(model)
    small.compile("sgd", "sparse_categorical_crossentropy")
    small.fit(vectors(), np.zeros(3), verbose=0)


def test_a_sparse_model_is_made_dense_first():
    model = sparsity_tf.sparsify(mlp(), "masked", where=["first", "second"])
    weight = sparsity_tf.get_sparse_weights(model)[0]
    mask = np.ones(weight.shape, bool)
    mask[:, [2, 3]] = False
    weight.assign_mask(mask)
    small = shrink(model)
    assert {type(layer).__module__.partition(".")[0] for layer in small.layers} == {"keras"}
    assert small.get_layer("first").units == 6
    assert_equal_models(model, small, vectors())


# Convolutions ---------------------------------------------------------------------------------------------------------


def conv_net(padding="same", activation="relu", size=3):
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, size, padding=padding, activation=activation, name="first")(inputs)
    x = layers.Conv2D(5, size, padding=padding, name="second")(x)
    return randomize(keras.Model(inputs, layers.GlobalAveragePooling2D()(x)))


def test_a_dead_filter_goes():
    model = conv_net()
    zero_channels(model.get_layer("first"), [0, 3], bias=-1.0)
    small = shrink(model)
    assert small.get_layer("first").filters == 4
    assert small.count_params() == (27 * 4 + 4) + (9 * 4 * 5 + 5)
    assert_equal_models(model, small, images())


def test_without_padding_a_constant_filter_goes_into_the_bias():
    model = conv_net("valid")
    zero_channels(model.get_layer("first"), [0, 3], bias=1.0)
    small = shrink(model)
    assert small.get_layer("first").filters == 4
    assert_equal_models(model, small, images())


def test_with_padding_constant_filters_become_one():
    # The border of the second convolution sees zeros beside the constants: no bias can say this, one filter can.
    model = conv_net("same")
    zero_channels(model.get_layer("first"), [0, 3, 4], bias=[1.0, 0.25, 2.0])
    small = shrink(model)
    assert small.get_layer("first").filters == 4
    assert_equal_models(model, small, images())


def test_a_1x1_convolution_has_no_border():
    model = conv_net("same", size=1)
    zero_channels(model.get_layer("first"), [0, 3, 4], bias=1.0)
    assert shrink(model).get_layer("first").filters == 3


def test_a_constant_that_padding_breaks_is_no_constant():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, name="first")(inputs)
    x = layers.ZeroPadding2D(1)(x)
    model = randomize(keras.Model(inputs, layers.Conv2D(5, 3, name="second")(x)))
    zero_channels(model.get_layer("first"), [0, 1], bias=[1.0, 0.0])
    small = shrink(model)
    assert small.get_layer("first").filters == 5
    assert_equal_models(model, small, images())


def test_batch_normalization_follows_its_filters_and_its_beta_counts():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, use_bias=False, name="conv")(inputs)
    x = layers.ReLU()(layers.BatchNormalization(name="bn")(x))
    x = layers.GlobalMaxPooling2D()(x)
    model = randomize(keras.Model(inputs, layers.Dense(2, name="last")(x)))
    zero_channels(model.get_layer("conv"), [2, 5])
    small = shrink(model)
    assert small.get_layer("bn").gamma.shape == (4,)
    assert small.count_params() == 27 * 4 + 4 * 4 + 4 * 2 + 2
    assert_equal_models(model, small, images())


def test_a_gamma_of_zero_kills_a_filter():
    inputs = keras.Input((8, 8, 3))
    x = layers.BatchNormalization(name="bn")(layers.Conv2D(6, 3, name="conv")(inputs))
    model = randomize(keras.Model(inputs, layers.Conv2D(2, 3, name="last")(x)))
    gamma = np.ones(6)
    gamma[[1, 2, 3]] = 0
    model.get_layer("bn").gamma.assign(gamma)
    small = shrink(model)
    assert small.get_layer("conv").filters == 3
    assert_equal_models(model, small, images())


def test_flatten_binds_a_filter_to_all_its_pixels():
    inputs = keras.Input((4, 4, 3))
    x = layers.Conv2D(6, 3, name="conv")(inputs)
    model = randomize(keras.Model(inputs, layers.Dense(2, name="last")(layers.Flatten()(x))))
    zero_channels(model.get_layer("conv"), [0, 5])
    small = shrink(model)
    assert small.get_layer("conv").filters == 4
    assert small.get_layer("last").kernel.shape == (16, 2)
    assert_equal_models(model, small, images((2, 4, 4, 3)))


def test_transposed_convolutions_shrink():
    inputs = keras.Input((4, 4, 3))
    x = layers.Conv2DTranspose(6, 3, strides=2, padding="same", activation="relu", name="up")(inputs)
    model = randomize(keras.Model(inputs, layers.Conv2DTranspose(2, 3, name="last")(x)))
    zero_channels(model.get_layer("up"), [0, 5], bias=[-1.0, 1.0])
    small = shrink(model)
    assert small.get_layer("up").filters == 5
    assert_equal_models(model, small, images((2, 4, 4, 3)))


def test_depthwise_convolutions_follow_their_channels():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, use_bias=False, name="conv")(inputs)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False, name="depthwise")(x)
    model = randomize(keras.Model(inputs, layers.Conv2D(2, 1, name="last")(x)))
    zero_channels(model.get_layer("conv"), [0, 5])
    small = shrink(model)
    assert small.get_layer("depthwise").kernel.shape == (3, 3, 4, 2)
    assert small.get_layer("last").kernel.shape == (1, 1, 8, 2)
    assert_equal_models(model, small, images())


def test_a_convolution_of_one_group_a_channel_is_depthwise():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, use_bias=False, name="conv")(inputs)
    x = layers.Conv2D(12, 3, groups=6, name="grouped")(x)
    model = randomize(keras.Model(inputs, layers.Conv2D(2, 1, name="last")(x)))
    last = np.array(ops.convert_to_numpy(model.get_layer("last").kernel))
    last[..., 6:10, :] = 0
    model.get_layer("last").kernel.assign(last)
    small = shrink(model)
    assert small.get_layer("conv").filters == 4
    assert (small.get_layer("grouped").filters, small.get_layer("grouped").groups) == (8, 4)
    assert_equal_models(model, small, images())


def test_separable_convolutions_shrink_on_both_sides():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, name="conv")(inputs)
    x = layers.SeparableConv2D(5, 3, depth_multiplier=2, name="separable")(x)
    model = randomize(keras.Model(inputs, layers.Conv2D(2, 1, name="last")(x)))
    zero_channels(model.get_layer("conv"), [0, 5])
    pointwise = np.array(ops.convert_to_numpy(model.get_layer("separable").pointwise_kernel))
    pointwise[..., [1, 2]] = 0
    model.get_layer("separable").pointwise_kernel.assign(pointwise)
    small = shrink(model)
    separable = small.get_layer("separable")
    assert separable.depthwise_kernel.shape == (3, 3, 4, 2)
    assert separable.pointwise_kernel.shape == (1, 1, 8, 3)
    assert_equal_models(model, small, images())


@pytest.mark.parametrize("rank", [1, 2])
def test_channels_of_every_kind_of_convolution_are_pruned_together_and_shrink(rank):
    def kind(template, *arguments, **options):
        return getattr(layers, template.format(rank))(*arguments, **options)

    inputs = keras.Input((8,) * rank + (3,))
    x = kind("Conv{}D", 8, 3, padding="same", name="stem")(inputs)
    x = kind("DepthwiseConv{}D", 3, padding="same", activation="relu", name="depthwise")(x)
    x = kind("SeparableConv{}D", 6, 3, padding="same", activation="relu", name="separable")(x)
    x = kind("Conv{}DTranspose", 4, 3, strides=2, activation="relu", name="up")(x)
    x = kind("GlobalAveragePooling{}D")(x)
    model = randomize(keras.Model(inputs, layers.Dense(2, name="last")(x)))
    sparsity_tf.prune(model, 0.5, structure="channel")
    live = {weight.path: weight.count() for weight in sparsity_tf.get_sparse_weights(model)}
    assert live["up/kernel"] == 3**rank * 6 * 2 and live["separable/pointwise_kernel"] == 8 * 3
    small = shrink(model)
    assert widths(small) | {"stem": 4, "depthwise": 4, "separable": 3, "up": 2} == widths(small)
    assert_equal_models(model, small, images((2, *(8,) * rank, 3)))


# Several paths --------------------------------------------------------------------------------------------------------


def residual_net(dead_body, dead_stem):
    inputs = keras.Input((8, 8, 3))
    stem = layers.Conv2D(6, 3, padding="same", use_bias=False, name="stem")(inputs)
    body = layers.Conv2D(6, 3, padding="same", activation="relu", use_bias=False, name="inner")(stem)
    body = layers.Conv2D(6, 3, padding="same", use_bias=False, name="body")(body)
    x = layers.ReLU()(layers.Add(name="add")([stem, body]))
    model = randomize(keras.Model(inputs, layers.Dense(2, name="last")(layers.GlobalAveragePooling2D()(x))))
    zero_channels(model.get_layer("body"), dead_body)
    zero_channels(model.get_layer("stem"), dead_stem)
    return model


def test_a_channel_goes_only_if_it_is_dead_in_all_that_an_addition_binds():
    model = residual_net([0, 1, 2], [1, 2, 3])
    small = shrink(model)
    assert small.get_layer("stem").filters == 4
    assert small.get_layer("body").filters == 4
    assert_equal_models(model, small, images())


def test_a_branch_that_adds_nothing_is_not_called():
    model = residual_net(range(6), [0])
    small = shrink(model)
    assert "body" not in widths(small)
    assert "inner" not in widths(small)
    assert small.get_layer("stem").filters == 5
    assert_equal_models(model, small, images())
    [row] = [row for row in small.shrink_report if row.layer == "body"]
    assert (row.before, row.after) == (6, 0)
    assert row.why == "all that it adds is 0, so it is left out"


def test_a_filter_that_stays_for_its_partner_lets_its_inputs_go():
    inputs = keras.Input((6,))
    hidden = layers.Dense(4, activation="relu", name="hidden")(inputs)
    one = layers.Dense(3, name="one")(hidden)
    two = layers.Dense(3, name="two")(inputs)
    # Channel 2 of the product is always 0, so the second factor's is not needed, but it is there.
    model = randomize(keras.Model(inputs, layers.Concatenate()([layers.Multiply()([one, two]), two])))
    zero_channels(model.get_layer("one"), [2], bias=0.0)
    kernel = np.array(ops.convert_to_numpy(model.get_layer("one").kernel))
    kernel[3] = 0
    model.get_layer("one").kernel.assign(kernel)
    small = shrink(model)
    assert small.get_layer("hidden").units == 3
    assert_equal_models(model, small, vectors())


def test_concatenation_keeps_offsets():
    inputs = keras.Input((6,))
    parts = [layers.Dense(n, activation="relu", name=f"part{n}")(inputs) for n in (3, 4, 5)]
    model = randomize(keras.Model(inputs, layers.Dense(2, name="last")(layers.Concatenate()(parts))))
    zero_channels(model.get_layer("part3"), [0])
    zero_channels(model.get_layer("part4"), [1, 3])
    zero_channels(model.get_layer("part5"), [4])
    small = shrink(model)
    assert [small.get_layer(f"part{n}").units for n in (3, 4, 5)] == [2, 2, 4]
    assert_equal_models(model, small, vectors())


def test_a_gate_of_one_channel_is_broadcast():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, name="conv")(inputs)
    gate = layers.Conv2D(1, 1, activation="sigmoid", name="gate")(x)
    model = randomize(keras.Model(inputs, layers.Conv2D(2, 1, name="last")(layers.Multiply()([x, gate]))))
    zero_channels(model.get_layer("conv"), [0, 1], bias=0.0)
    small = shrink(model)
    assert small.get_layer("conv").filters == 4
    assert_equal_models(model, small, images())


def test_squeeze_and_excite():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, activation="relu", name="conv")(inputs)
    gate = layers.GlobalAveragePooling2D()(x)
    gate = layers.Reshape((1, 1, 6))(gate)
    gate = layers.Conv2D(4, 1, activation="relu", name="squeeze")(gate)
    gate = layers.Conv2D(6, 1, activation="sigmoid", name="excite")(gate)
    model = randomize(keras.Model(inputs, layers.Conv2D(2, 1, name="last")(layers.Multiply()([x, gate]))))
    zero_channels(model.get_layer("conv"), [0, 1], bias=0.0)
    zero_channels(model.get_layer("squeeze"), [3])
    small = shrink(model)
    assert small.get_layer("excite").kernel.shape == (1, 1, 3, 4)
    assert_equal_models(model, small, images())


def test_operations_of_keras_ops_are_followed():
    inputs = keras.Input((8, 8, 3))
    x = ops.relu(layers.Conv2D(6, 3, name="conv")(inputs) * 2.0 + 0.5)
    x = ops.transpose(x, (0, 3, 1, 2))
    x = ops.transpose(x, (0, 2, 3, 1))
    x = ops.concatenate([x, ops.abs(x)], axis=-1)
    x = ops.mean(x, axis=(1, 2))
    x = ops.reshape(x, (-1, 2, 6))
    model = randomize(keras.Model(inputs, layers.Dense(2, name="last")(layers.Flatten()(x))))
    zero_channels(model.get_layer("conv"), [0, 4], bias=0.0)
    small = shrink(model)
    assert small.get_layer("conv").filters == 4
    assert_equal_models(model, small, images())


# Shared layers, nested and subclassed models, several inputs ----------------------------------------------------------


def test_a_shared_layer_has_one_bias():
    one, two = keras.Input((6,)), keras.Input((6,))
    shared = layers.Dense(5, name="shared")
    head = layers.Dense(3, name="head")
    a, b = head(shared(one)), head(layers.Dense(5, name="own")(two))
    model = randomize(keras.Model([one, two], [a, b]))
    # The same channel is another constant in either call; in the second channel it is the same one.
    zero_channels(model.get_layer("shared"), [0, 1], bias=[0.5, 2.0])
    zero_channels(model.get_layer("own"), [0, 1], bias=[0.25, 2.0])
    small = shrink(model)
    assert small.get_layer("head").kernel.shape == (4, 3)
    assert_equal_models(model, small, vectors(), vectors(seed=1))


def test_a_shared_layer_is_shared_in_the_small_model():
    one, two = keras.Input((6,), name="one"), keras.Input((6,), name="two")
    shared = layers.Dense(5, activation="relu", name="shared")
    model = keras.Model({"one": one, "two": two}, {"sum": layers.Dense(2)(shared(one) + shared(two))})
    zero_channels(randomize(model).get_layer("shared"), [0, 3])
    small = shrink(model)
    assert small.count_params() == 6 * 3 + 3 + 3 * 2 + 2
    inputs = {"one": vectors(), "two": vectors(seed=1)}
    assert list(small(inputs)) == ["sum"]
    assert_equal_models(model, small, inputs)


def block(name):
    inputs = keras.Input((6,))
    x = layers.Dense(8, activation="relu", name="hidden")(inputs)
    return keras.Model(inputs, layers.Dense(6, name="out")(x), name=name)


def test_nested_models_are_dissolved():
    inputs = keras.Input((6,))
    model = randomize(keras.Model(inputs, layers.Dense(2)(block("two")(block("one")(inputs)))))
    zero_channels(model.get_layer("one").get_layer("hidden"), [0, 1])
    zero_channels(model.get_layer("two").get_layer("hidden"), [0, 1, 2])
    zero_channels(model.get_layer("one").get_layer("out"), [5])
    small = shrink(model)
    assert [layer.units for layer in small.layers if isinstance(layer, layers.Dense)] == [6, 5, 5, 6, 2]
    assert [row.layer for row in small.shrink_report][:4] == ["one/hidden", "one/out", "two/hidden", "two/out"]
    assert_equal_models(model, small, vectors())


def test_a_nested_model_that_is_called_twice_keeps_one_set_of_weights():
    inputs = keras.Input((6,))
    inner = block("inner")
    model = randomize(keras.Model(inputs, inner(inner(inputs))))
    zero_channels(inner.get_layer("hidden"), [0, 1])
    small = shrink(model)
    assert small.count_params() == 6 * 6 + 6 + 6 * 6 + 6
    assert_equal_models(model, small, vectors())


@keras.saving.register_keras_serializable("tests.deploy")
class Residual(layers.Layer):
    """A composite layer without weights of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = layers.Dense(8, activation="relu", name="hidden")
        self.out = layers.Dense(6, name="out")

    def build(self, input_shape):
        self.hidden.build(input_shape)
        self.out.build((*input_shape[:-1], 8))
        self.built = True

    def call(self, inputs):
        return inputs + self.out(self.hidden(inputs))


@keras.saving.register_keras_serializable("tests.deploy")
class Scale(layers.Layer):
    """A layer that nobody knows, with a weight of its own."""

    def build(self, input_shape):
        self.scale = self.add_weight(shape=(input_shape[-1],), initializer="ones", name="scale")

    def call(self, inputs):
        return inputs * self.scale


@keras.saving.register_keras_serializable("tests.deploy")
class Subclassed(keras.Model):
    """A model that is no graph until it is called."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = layers.Dense(8, activation="relu", name="first")
        self.dropout = layers.Dropout(0.5)
        self.last = layers.Dense(2, name="last")

    def call(self, inputs, training=None):
        return self.last(self.dropout(self.first(inputs), training=training))

    def build(self, input_shape):
        self.first.build(input_shape)
        self.last.build((None, 8))


def test_layers_that_only_call_layers_are_dissolved():
    inputs = keras.Input((6,))
    model = randomize(keras.Model(inputs, layers.Dense(2)(Residual(name="two")(Residual(name="one")(inputs)))))
    zero_channels(model.get_layer("one").hidden, [0, 1])
    zero_channels(model.get_layer("two").hidden, [0, 1, 2])
    small = shrink(model)
    assert {type(layer).__module__.partition(".")[0] for layer in small.layers} == {"keras"}
    assert [layer.units for layer in small.layers if isinstance(layer, layers.Dense)] == [6, 6, 5, 6, 2]
    assert_equal_models(model, small, vectors())


def test_subclassed_models_that_run_on_symbolic_tensors_become_functional():
    model = Subclassed()
    model.build((None, 6))
    zero_channels(randomize(model).first, [0, 1, 2])
    small = shrink(model)
    assert small.get_layer("first").units == 5
    assert_equal_models(model, small, vectors())


def test_unknown_layers_keep_their_channels_and_the_report_says_so():
    inputs = keras.Input((6,))
    x = layers.Dense(8, name="first")(inputs)
    model = randomize(keras.Model(inputs, layers.Dense(2, name="last")(Scale(name="scale")(x))))
    zero_channels(model.get_layer("first"), [0, 1])
    small = shrink(model)
    assert small.get_layer("first").units == 8
    reasons = {row.layer: row.why for row in small.shrink_report}
    assert reasons["scale"] == "no rule for layers of this kind (Scale)"
    assert_equal_models(model, small, vectors())


def test_layer_normalization_keeps_its_stream_and_the_units_beside_it_go():
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(10, 6, name="tokens")(inputs)
    y = layers.LayerNormalization(name="norm")(x)
    y = layers.Dense(8, activation="gelu", name="hidden")(y)
    x = layers.Add()([x, layers.Dense(6, name="out")(y)])
    model = randomize(keras.Model(inputs, layers.Dense(2)(x)))
    zero_channels(model.get_layer("hidden"), [0, 1, 2])
    small = shrink(model)
    assert small.get_layer("hidden").units == 5
    assert small.get_layer("tokens").output_dim == 6
    assert {r.layer: r.why for r in small.shrink_report}["norm"] == "it normalises over all channels"
    assert_equal_models(model, small, np.array([[0, 1, 2, 3, 9]]))


def test_columns_of_an_embedding_go():
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(10, 6, name="tokens")(inputs)
    model = randomize(keras.Model(inputs, layers.Dense(2, name="last")(x)))
    table = np.array(ops.convert_to_numpy(model.get_layer("tokens").embeddings))
    table[:, [1, 3]] = 0.5
    model.get_layer("tokens").embeddings.assign(table)
    small = shrink(model)
    assert small.get_layer("tokens").embeddings.shape == (10, 4)
    assert_equal_models(model, small, np.array([[0, 1, 2, 3, 9]]))


def test_inputs_are_picked_if_asked():
    model = mlp()
    kernel = np.array(ops.convert_to_numpy(model.get_layer("first").kernel))
    kernel[[0, 2, 3]] = 0
    model.get_layer("first").kernel.assign(kernel)
    assert shrink(model).get_layer("first").kernel.shape == (6, 8)
    small = shrink(model, select_inputs=True)
    assert small.get_layer("first").kernel.shape == (3, 8)
    assert small.input_shape == model.input_shape
    assert_equal_models(model, small, vectors())


def test_the_report_counts():
    model = mlp()
    zero_channels(model.get_layer("first"), [1, 4])
    report = shrink(model).shrink_report
    first = report.rows[0]
    assert (first.layer, first.kind, first.before, first.after) == ("first", "Dense", 8, 6)
    assert (first.parameters_before, first.parameters_after, first.why) == (56, 42, "2 constant")
    assert report.parameters == (56 + 45 + 18, 42 + 35 + 18)
    assert report.flops == (48 + 40 + 15, 36 + 30 + 15)
    assert "parameters: 119 -> 95 (1.25 times fewer)" in str(report)
    assert report.to_dict()["rows"][0]["after"] == 6
    assert [row.layer for row in report.changed] == ["first", "second"]


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [None, "model", layers.Dense(3)])
def test_only_models_can_be_shrunk(model):
    with pytest.raises(ValueError, match="`model` must be a Keras model"):
        shrink(model)


def test_select_inputs_must_be_a_bool():
    with pytest.raises(ValueError, match="`select_inputs` must be True or False. Received: select_inputs='no'"):
        shrink(mlp(), select_inputs="no")


def test_an_unbuilt_model_is_refused():
    with pytest.raises(ValueError, match="must be built"):
        shrink(keras.Sequential([layers.Dense(3)]))


@pytest.mark.parametrize("layer", [layers.BatchNormalization, lambda **kwargs: layers.Dropout(0.5, **kwargs)])
def test_a_model_that_trains_while_it_predicts_is_refused(layer):
    inputs = keras.Input((6,))
    model = keras.Model(inputs, layers.Dense(2)(layer(name="noisy")(inputs, training=True)))
    with pytest.raises(ValueError, match="calls layer 'noisy' with `training=True`"):
        shrink(model)


@keras.saving.register_keras_serializable("tests.deploy")
class Untraceable(keras.Model):
    """A model whose code looks at values."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(3)

    def build(self, input_shape):
        self.dense.build(input_shape)

    def call(self, inputs):
        return self.dense(inputs) if float(ops.sum(inputs)) > 0 else self.dense(-inputs)


def test_a_subclassed_model_that_cannot_be_followed_is_refused_in_one_sentence():
    model = Untraceable()
    model.build((None, 6))
    with pytest.raises(ValueError, match="can't be shrunk: its `call` does not run on symbolic tensors"):
        shrink(model)


def test_a_difference_is_an_error(monkeypatch):
    # No model is known that is shrunk wrongly, so the comparison is told one.
    monkeypatch.setattr("sparsity_tf.deploy.verify._difference", lambda one, two: 0.1)
    with pytest.raises(RuntimeError, match="does not predict the same as the model: the largest difference is 0.1"):
        shrink(mlp())
