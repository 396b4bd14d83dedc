"""Kinds: which axes of a weight index output units, which axes of an output are positions, biases and masks."""

import keras
import numpy as np
import pytest
from keras import ops

import sparsity_tf
from sparsity_tf import layers
from tests.layers.layer_checks import stock_layer

RNG = np.random.default_rng(6)


def built(layer, *shape):
    layer.build(shape)
    return layer


@pytest.mark.parametrize(
    "layer,shape,axes",
    [
        (layers.MaskedDense(3), (None, 4), (1,)),
        (layers.MaskedEinsumDense("abc,cde->abde", (None, 2, 3)), (None, 4, 5), (1, 2)),
        (layers.MaskedEinsumDense("ab,cbd->acd", (2, 3)), (None, 5), (0, 2)),
        (layers.MaskedConv1D(3, 2), (None, 5, 4), (2,)),
        (layers.MaskedConv2D(3, 2), (None, 5, 5, 4), (3,)),
        (layers.MaskedConv3D(3, 2), (None, 5, 5, 5, 4), (4,)),
        (layers.MaskedConv1DTranspose(3, 2), (None, 5, 4), (1,)),
        (layers.MaskedConv2DTranspose(3, 2), (None, 5, 5, 4), (2,)),
        (layers.MaskedConv3DTranspose(3, 2), (None, 5, 5, 5, 4), (3,)),
        (layers.MaskedDepthwiseConv1D(2, depth_multiplier=3), (None, 5, 4), (1, 2)),
        (layers.MaskedDepthwiseConv2D(2, depth_multiplier=3), (None, 5, 5, 4), (2, 3)),
        (layers.MaskedEmbedding(7, 3), (None, 5), (0,)),
    ],
    ids=lambda value: value.keras_class.__name__ if isinstance(value, keras.Layer) else "",
)
def test_the_axes_of_output_units(layer, shape, axes):
    [weight] = built(layer, *shape).sparse_weights
    assert weight.filter_axes == axes


def test_symbols_are_the_output_units_of_either_table():
    layer = layers.MaskedReversibleEmbedding(7, 3, tie_weights=False)
    layer.build((None, 5))
    assert [(weight.shape, weight.filter_axes) for weight in layer.sparse_weights] == [((7, 3), (0,)), ((3, 7), (1,))]


@pytest.mark.parametrize(
    "layer,shape,axes",
    [
        (layers.MaskedSeparableConv1D(6, 2, depth_multiplier=3), (None, 5, 4), [(1, 2), (2,)]),
        (layers.MaskedSeparableConv2D(6, 2), (None, 5, 5, 4), [(2, 3), (3,)]),
        (layers.MaskedConvLSTM1D(3, 2), (None, 4, 5, 2), [(2,), (2,)]),
        (layers.MaskedConvLSTM2D(3, 2), (None, 4, 5, 5, 2), [(3,), (3,)]),
        (layers.MaskedConvLSTM3D(3, 2), (None, 4, 5, 5, 5, 2), [(4,), (4,)]),
    ],
    ids=lambda value: value.keras_class.__name__ if isinstance(value, keras.Layer) else "",
)
def test_the_axes_of_output_units_of_two_weights(layer, shape, axes):
    weights = layers.get_sparse_weights(built(layer, *shape))
    assert [weight.filter_axes for weight in weights] == axes
    # Each axis has the length that the layer's arguments say.
    for weight, found in zip(weights, axes, strict=True):
        units = {"kernel": 12, "recurrent_kernel": 12, "pointwise_kernel": 6}.get(weight.name)
        assert units is None or weight.shape[found[0]] == units


@pytest.mark.parametrize(
    "layer,rank,axes",
    [
        (layers.VDEinsumDense("abc,cde->abde", (None, 2, 3)), 4, (1,)),
        (layers.VDEinsumDense("...x,xy->...y", 3), 4, (1, 2)),
        (layers.VDEinsumDense("...x,xy->...y", 3), 2, ()),
        (layers.VDConv1D(3, 2), 3, (1,)),
        (layers.VDConv2D(3, 2), 4, (1, 2)),
        (layers.VDConv2D(3, 2, data_format="channels_first"), 4, (2, 3)),
        (layers.VDConv3D(3, 2), 5, (1, 2, 3)),
        (layers.MaskedDepthwiseConv2D(2, data_format="channels_first"), 4, (2, 3)),
        (layers.VDConv2DTranspose(3, 2), 4, (1, 2)),
        (layers.VDSeparableConv1D(3, 2, data_format="channels_first"), 3, (2,)),
        (layers.MaskedConvLSTM2D(3, 2).cell, 4, (1, 2)),
        (layers.MaskedConvLSTM2D(3, 2, data_format="channels_first").cell, 4, (2, 3)),
    ],
)
def test_the_axes_of_positions(layer, rank, axes):
    assert layer.position_axes(rank) == axes


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_bias_is_added_to_its_channel_where_channels_come_first(rank):
    x, options = np.ones((2, 2, *(4,) * rank), "float32"), {"data_format": "channels_first", "activation": "relu"}
    try:
        getattr(keras.layers, f"Conv{rank}D")(3, 1, **options)(x)
    except Exception as error:  # What TensorFlow raises differs from one release to the next.
        pytest.skip(f"no such convolution on this device: {type(error).__name__}")
    layer = getattr(layers, f"MaskedConv{rank}D")(3, 1, **options)
    layer.build((None, 2, *(4,) * rank))
    layer.bias.assign([1.0, -2.0, 3.0])
    layer.kernel.assign(np.zeros(layer.kernel.shape))
    outputs = ops.convert_to_numpy(layer(x))
    np.testing.assert_array_equal(outputs, np.broadcast_to(np.reshape([1, 0, 3], (3,) + (1,) * rank), outputs.shape))


CONVOLUTIONS = {
    "Conv1DTranspose": ((6, 3), [{}, {"strides": 2, "padding": "same"}, {"dilation_rate": 2}]),
    "Conv2DTranspose": ((4, 5, 3), [{}, {"strides": (2, 3), "output_padding": 1}, {"activation": "relu"}]),
    "Conv3DTranspose": ((3, 3, 3, 2), [{}, {"strides": 2, "use_bias": False}]),
    "DepthwiseConv1D": ((7, 3), [{}, {"strides": 2, "depth_multiplier": 2}, {"dilation_rate": 2, "padding": "same"}]),
    "SeparableConv1D": ((7, 3), [{}, {"strides": 2, "depth_multiplier": 2}, {"dilation_rate": 2, "padding": "same"}]),
    "SeparableConv2D": ((6, 7, 3), [{}, {"strides": 2, "depth_multiplier": 2}, {"padding": "same", "use_bias": False}]),
    "ConvLSTM1D": ((3, 6, 2), [{}, {"strides": 2, "return_sequences": True}]),
    "ConvLSTM2D": ((3, 5, 5, 2), [{"padding": "same"}, {"go_backwards": True, "unit_forget_bias": False}]),
    "ConvLSTM3D": ((2, 3, 3, 3, 2), [{"use_bias": False}]),
}


@pytest.mark.parametrize(
    "kind,shape,options", [(kind, shape, one) for kind, (shape, several) in CONVOLUTIONS.items() for one in several]
)
def test_a_convolution_is_the_stock_layers_dense_and_sparse(kind, shape, options):
    options = {"kernel_size": 2, **options}
    if "Depthwise" not in kind:
        options["filters"] = 4
    x = RNG.normal(size=(2, *shape)).astype("float32")
    layer = getattr(layers, "Masked" + kind)(**options)
    layer(x)
    stock = stock_layer(layer, x)
    np.testing.assert_allclose(
        ops.convert_to_numpy(layer(x)), ops.convert_to_numpy(stock(x)), rtol=1e-6, atol=1e-6, err_msg="dense"
    )
    for weight in layers.get_sparse_weights(layer):
        mask = RNG.random(weight.shape) < 0.5
        weight.assign_mask(mask)
        assert np.count_nonzero(ops.convert_to_numpy(weight.variable)) == np.count_nonzero(mask) == weight.count()
    stock = stock_layer(layer, x)
    found, expected = ops.convert_to_numpy(layer(x)), ops.convert_to_numpy(stock(x))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    assert found.shape == tuple(layer.compute_output_shape(x.shape))


def test_a_copy_of_a_transposed_convolution_keeps_the_padding_of_its_outputs():
    layer = layers.MaskedConv2DTranspose(4, 2, strides=3, output_padding=(1, 2))
    assert tuple(type(layer).from_config(layer.get_config()).output_padding) == (1, 2)
    inputs = keras.Input((4, 5, 3))
    dense = sparsity_tf.to_dense(keras.Model(inputs, layer(inputs)))
    assert dense.output_shape == layer(inputs).shape == (None, 12, 16, 4)


def test_a_recurrent_convolution_draws_the_dropout_of_the_stock_layer():
    options = {"kernel_size": 2, "dropout": 0.4, "recurrent_dropout": 0.3, "padding": "same", "seed": 3}
    x = RNG.normal(size=(2, 4, 5, 3)).astype("float32")
    layer = layers.MaskedConvLSTM1D(4, **options)
    layer(x)
    for weight in layers.get_sparse_weights(layer):
        weight.assign_mask(RNG.random(weight.shape) < 0.5)
    stock = stock_layer(layer, x)
    found, expected = (ops.convert_to_numpy(one(x, training=True)) for one in (layer, stock))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert np.abs(found - ops.convert_to_numpy(layer(x))).max() > 0.01


def test_a_structure_that_ties_layers_reports_a_recurrent_convolution():
    inputs = keras.Input((3, 6, 6, 2))
    x = keras.layers.Conv2D(4, 3, name="each")(keras.layers.ConvLSTM2D(3, 3, name="memory")(inputs))
    model = keras.Model(inputs, keras.layers.Conv2D(2, 1, name="last")(x))
    report = sparsity_tf.sparsify(model, "masked", structure="channel").sparsify_report
    assert [entry.path for entry in report.changed] == ["each"]
    assert "memory" in " ".join(entry.path for entry in report.skipped)


def test_a_filter_threshold_of_a_separable_convolution_fits_each_of_its_kernels():
    layer = built(layers.STRSeparableConv2D(6, 3, depth_multiplier=2, granularity="filter"), None, 5, 5, 4)
    shapes = [weight.extra_variable("raw_threshold").shape for weight in layer.sparse_weights]
    assert [tuple(shape) for shape in shapes] == [(1, 1, 4, 2), (1, 1, 1, 6)]


@pytest.mark.parametrize("options", [{"strides": 2}, {"padding": "same"}, {"dilation_rate": 2}, {"padding": "causal"}])
def test_a_convolution_over_time_is_the_stock_layers(options):
    x = RNG.normal(size=(2, 9, 3)).astype("float32")
    layer = layers.MaskedConv1D(4, 3, **options)
    layer(x)
    layer.sparse_weights[0].assign_mask(RNG.random((3, 3, 4)) < 0.5)
    np.testing.assert_allclose(
        ops.convert_to_numpy(layer(x)), ops.convert_to_numpy(stock_layer(layer, x)(x)), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("options", [{}, {"tie_weights": False}, {"logit_soft_cap": 0.5}, {"reverse_dtype": "float32"}])
def test_a_reversible_embedding_is_the_stock_layer_in_both_directions(options):
    layer, ids = layers.MaskedReversibleEmbedding(6, 3, mask_zero=True, **options), np.array([[0, 2, 5, 0]])
    layer(ids)
    for weight in layer.sparse_weights:
        weight.variable.assign(RNG.normal(size=weight.shape))
        weight.assign_mask(RNG.random(weight.shape) < 0.7)
    stock, x = stock_layer(layer, ids), RNG.normal(size=(2, 3)).astype("float32")
    found = layer(ids)
    np.testing.assert_array_equal(ops.convert_to_numpy(found), ops.convert_to_numpy(stock(ids)))
    assert ops.convert_to_numpy(found._keras_mask).tolist() == [[False, True, True, False]]
    found, expected = layer(x, reverse=True), stock(x, reverse=True)
    np.testing.assert_allclose(ops.convert_to_numpy(found), ops.convert_to_numpy(expected), rtol=1e-5, atol=1e-6)
    assert getattr(found, "_keras_mask", None) is None


@pytest.mark.parametrize("reverse_dtype,expected", [(None, "bfloat16"), ("float32", "float32")])
def test_a_reversible_embedding_projects_in_its_reverse_dtype(reverse_dtype, expected):
    layer = layers.MaskedReversibleEmbedding(6, 3, dtype="mixed_bfloat16", reverse_dtype=reverse_dtype)
    layer.build((None, 4))
    logits = layer(ops.ones((2, 3), "bfloat16"), reverse=True)
    assert keras.backend.standardize_dtype(logits.dtype) == expected


def test_an_embedding_takes_ids_of_any_number_type():
    layer = layers.MaskedEmbedding(6, 3)
    expected = ops.convert_to_numpy(layer(np.array([[1, 5]], "int32")))
    for dtype in ("int64", "uint8", "float32"):
        np.testing.assert_array_equal(ops.convert_to_numpy(layer(np.array([[1, 5]], dtype))), expected)
