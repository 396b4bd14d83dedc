"""The two LeNets have the shapes and counts of the published tables, dense and sparse."""

import keras
import numpy as np
import pytest

from sparsity_tf import layers, models


def kernels(model):
    return {layer.name: tuple(layer.kernel.shape) for layer in model.layers if layer.weights}


def weight_count(model):
    return sum(int(np.prod(shape)) for shape in kernels(model).values())


def test_lenet_300_100_has_266200_weights():
    model = models.lenet_300_100()
    assert kernels(model) == {"dense_1": (784, 300), "dense_2": (300, 100), "dense_3": (100, 10)}
    assert weight_count(model) == 266_200
    assert model.count_params() == 266_200 + 410


def test_lenet_5_caffe_has_430500_weights():
    model = models.lenet_5_caffe()
    assert kernels(model) == {
        "conv_1": (5, 5, 1, 20),
        "conv_2": (5, 5, 20, 50),
        "dense_1": (800, 500),
        "dense_2": (500, 10),
    }
    assert weight_count(model) == 430_500
    assert model.count_params() == 430_500 + 580


@pytest.mark.parametrize("build", [models.lenet_300_100, models.lenet_5_caffe])
def test_outputs_are_logits(build):
    model = build()
    x = np.random.default_rng(0).normal(size=(4, 28, 28, 1)).astype(np.float32)
    logits = keras.ops.convert_to_numpy(model(10 * x))
    assert logits.shape == (4, 10)
    assert not np.allclose(logits.sum(axis=1), 1, atol=0.1) and logits.min() < 0


def test_initializer_is_drawn_anew_for_every_kernel():
    initializer = keras.initializers.RandomNormal(stddev=0.01)
    model = models.lenet_300_100(kernel_initializer=initializer)
    first, second, third = (keras.ops.convert_to_numpy(model.get_layer(f"dense_{i}").kernel) for i in (1, 2, 3))
    assert abs(first.std() - 0.01) < 1e-3 and abs(second.std() - 0.01) < 1e-3
    assert not np.array_equal(first.ravel()[:1000], second.ravel()[:1000])
    assert not np.array_equal(second.ravel()[:1000], third.ravel())


def test_regularizer_reaches_every_kernel_and_no_bias():
    model = models.lenet_300_100(kernel_regularizer=keras.regularizers.L2(0.5))
    expected = sum(
        0.5 * float(np.square(keras.ops.convert_to_numpy(layer.kernel)).sum())
        for layer in model.layers
        if layer.weights
    )
    for layer in model.layers:
        if layer.weights:
            layer.bias.assign(layer.bias + 1.0)
    model(np.zeros((1, 28, 28, 1), np.float32))
    np.testing.assert_allclose(float(sum(model.losses)), expected, rtol=1e-5)


@pytest.mark.parametrize("build", [models.lenet_300_100, models.lenet_5_caffe])
@pytest.mark.parametrize("technique", ["vd", "l0", "str", "masked", "dnw"])
def test_technique_is_applied_to_all_layers(build, technique):
    model = build(technique=technique)
    assert sum(weight.size for weight in layers.get_sparse_weights(model)) == weight_count(model)


def test_technique_is_applied_where_asked_with_options():
    model = models.lenet_300_100(technique="dnw", technique_options={"sparsity": 0.75}, where=["dense_[12]"])
    weights = layers.get_sparse_weights(model)
    assert [weight.layer.name for weight in weights] == ["dense_1", "dense_2"]
    assert [weight.sparsity() for weight in weights] == [0.75, 0.75]


@pytest.mark.parametrize("argument", [{"technique_options": {"sparsity": 0.5}}, {"where": "dense_1"}])
def test_options_without_technique_are_refused(argument):
    with pytest.raises(ValueError, match="needs a `technique`"):
        models.lenet_300_100(**argument)
