"""MobileNetV1 equals STR's network, layer by layer, and RigL's counts of it."""

import math

import keras
import pytest

import sparsity_tf
from sparsity_tf import models
from tests.models.zoo import (
    bits,
    built,
    check_network,
    check_padding,
    dense_operations,
    erdos_renyi_kernel,
    kernels,
    read_csv,
    trainable_count,
    weight_count,
)


def mobilenet():
    return built("mobilenet_v1")


def test_batch_normalisation_without_gamma_and_beta():
    """STR's `NonAffineBatchNorm`: the kernels alone are trained."""
    for builder, options in (("mobilenet_v1", {}), ("resnet", {"depth": 18, "variant": "str"})):
        model = getattr(models, builder)(
            input_shape=(32, 32, 3), width=0.125, num_classes=2, affine=False, kernel_initializer="zeros", **options
        )
        assert {variable.name for variable in model.trainable_variables} <= {"kernel", "depthwise_kernel"}
    with pytest.raises(ValueError, match="`zero_gamma` must be False with affine=False"):
        models.resnet(18, affine=False)


def test_layers_in_order():
    header, *rows = read_csv("layers_mobilenetv1.csv")
    operations = dense_operations(mobilenet())
    assert len(rows) == len(kernels(mobilenet()))
    for row, (name, shape) in zip(rows, kernels(mobilenet()).items(), strict=True):
        row = {key: value if key == "layer" else int(value) for key, value in zip(header, row, strict=True)}
        depthwise = row["groups"] > 1
        assert shape == (row["kernel"], row["kernel"], row["in"], 1 if depthwise else row["out"]), name
        assert operations[name] == row["macs_224"]
        layer = mobilenet().get_layer(name)
        assert layer.strides == (row["stride"],) * 2
        assert layer.output.shape[1:] == (row["out_hw"], row["out_hw"], row["out"])
        _, block, *place = f"{row['layer']}..".split(".")  # model.7.3 is block7_pointwise
        if block not in ("", "0"):
            assert name == f"block{block}_{'depthwise' if place[0] == '0' else 'pointwise'}"


def test_totals():
    assert weight_count(mobilenet()) == 4_209_088
    assert trainable_count(mobilenet()) == 4_230_976
    assert trainable_count(built("mobilenet_v1", classifier="dense")) == 4_231_976
    operations = dict(dense_operations(mobilenet()))
    assert operations.pop("global_pool") == 50_176
    assert sum(operations.values()) == 568_740_352


def rigl_millions(sparsities):
    """The count of RigL's notebook.

    It differs from `count_flops(model, "rigl")` on purpose, in two ways: the maps of strided convolutions are padded
    explicitly, yet counted with "same" padding (113 positions for 112); and a depthwise kernel (3, 3, channels, 1) is
    taken for that of a convolution with one filter.
    """
    total = 0
    for (name, shape), sparsity in zip(kernels(mobilenet()).items(), sparsities, strict=True):
        layer = mobilenet().get_layer(name)
        positions = (layer.output.shape[1] + (layer.strides[0] - 1)) ** 2
        total += positions * shape[-1] * (2 * math.prod(shape[:-1]) * (1 - sparsity) + 1)
    return total / 1e6


def rigl_megabytes(sparsities):
    shapes = kernels(mobilenet()).values()
    return sum(bits(math.prod(s), q, s[-1]) for s, q in zip(shapes, sparsities, strict=True)) / 8e6


def test_rigl_counts_of_the_dense_net():
    assert round(rigl_millions([0] * 28), 3) == 1141.544
    assert round(rigl_megabytes([0] * 28), 3) == 16.864
    # The corrections are the only difference to our own count: 113 for 112, and so on, against one filter for many.
    ours = sum(dense_operations(mobilenet(), "rigl").values())
    assert ours == 2 * 568_740_352 + 5_043_688
    padded = keras.Input((225, 225, 3))
    stem = keras.Model(padded, keras.layers.Conv2D(32, 3, 2, "same", use_bias=False, name="stem")(padded))
    assert dense_operations(stem, "rigl")["stem"] == 113**2 * 32 * 55


@pytest.mark.parametrize(
    ("sparsity", "total", "millions", "megabytes"),
    [(0.75, 0.742, 330.769, 4.894), (0.85, 0.841, 222.666, 3.229), (0.9, 0.890, 168.614, 2.396),
     (0.95, 0.940, 114.563, 1.563)],
)  # fmt: skip
def test_rigl_counts_under_uniform_sparsity(sparsity, total, millions, megabytes):
    sparsities = [0 if name == "stem" or "depthwise" in name else sparsity for name in kernels(mobilenet())]
    assert round(rigl_millions(sparsities), 3) == millions
    assert round(rigl_megabytes(sparsities), 3) == megabytes
    sizes = [math.prod(shape) for shape in kernels(mobilenet()).values()]
    assert round(sum(s * n for s, n in zip(sparsities, sizes, strict=True)) / sum(sizes), 3) == total


@pytest.mark.parametrize(
    ("sparsity", "millions", "megabytes"),
    [(0.75, 599.144, 4.888), (0.85, 439.152, 3.224), (0.9, 334.134, 2.392), (0.95, 205.281, 1.560)],
)
def test_rigl_counts_under_erdos_renyi_kernel(sparsity, millions, megabytes):
    depthwise = [i for i, name in enumerate(kernels(mobilenet())) if "depthwise" in name]

    def zeros(size, sparsity):
        return math.ceil(sparsity * size)  # as the notebook's version did; the published code rounds down

    shapes = list(kernels(mobilenet()).values())
    sparsities = erdos_renyi_kernel(shapes, sparsity, dense=depthwise, zeros=zeros)
    assert round(rigl_millions(sparsities), 3) == millions
    assert round(rigl_megabytes(sparsities), 3) == megabytes


def test_rigl_leaves_the_first_layer_and_the_depthwise_convolutions_dense():
    model = models.mobilenet_v1(kernel_initializer="zeros", technique="masked", where=models.FIRST_AND_DEPTHWISE_DENSE)
    sparse = [weight.layer.name for weight in sparsity_tf.get_sparse_weights(model)]
    assert sparse == [f"block{i}_pointwise" for i in range(1, 14)] + ["classifier"]


def test_a_small_net_runs_and_can_be_masked():
    check_network(models.mobilenet_v1(input_shape=(64, 64, 3), num_classes=7, width=0.25))


def test_depthwise_convolutions_can_have_a_threshold_but_no_variance():
    for technique, layers in (("str", 28), ("vd", 15)):
        model = models.mobilenet_v1(input_shape=(32, 32, 3), width=0.125, technique=technique)
        assert len(sparsity_tf.get_sparse_weights(model)) == layers


def test_the_stem_pads_symmetrically():
    check_padding(models.mobilenet_v1(input_shape=(32, 32, 3), width=0.25), "stem", 2, 1)


def test_strided_depthwise_convolutions_pad_symmetrically():
    model = models.mobilenet_v1(input_shape=(32, 32, 3), width=0.25)
    padding = model.get_layer("block2_depthwise_pad")
    assert padding.padding == ((1, 1), (1, 1))
    assert model.get_layer("block2_depthwise").padding == "valid"


def test_kernels_start_as_in_the_source():
    model = models.mobilenet_v1(input_shape=(32, 32, 3))
    for name, bound in (("block13_depthwise", 1 / 3), ("block2_pointwise", 1 / 8)):
        kernel = keras.ops.convert_to_numpy(model.get_layer(name).kernel)
        assert 0.99 * bound < abs(kernel).max() <= bound
        assert kernel.std() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    classifier = keras.ops.convert_to_numpy(model.get_layer("classifier").kernel)
    assert classifier.std() == pytest.approx(math.sqrt(2 / 1024), rel=0.01)
