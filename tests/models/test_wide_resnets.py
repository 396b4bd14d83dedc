"""Wide residual networks equal the tables of sparse momentum and DSR."""

import keras
import numpy as np
import pytest

import sparsity_tf
from sparsity_tf import models
from tests.models.zoo import built, check_network, check_padding, kernels, trainable_count, weight_count


@pytest.mark.parametrize(
    ("depth", "width", "total", "maskable", "always_dense", "tensors"),
    [
        (28, 2, 1_467_610, 1_463_984, 3_626, 29),
        (22, 8, 17_158_106, 17_147_312, 10_794, 23),
        (16, 8, 10_961_370, 10_954_160, 7_210, 17),
        (16, 10, 17_116_634, 17_107_632, 9_002, 17),
    ],
)
def test_sparse_momentum_table(depth, width, total, maskable, always_dense, tensors):
    model = built("wide_resnet", depth, width)
    assert trainable_count(model) == total
    assert weight_count(model) == maskable
    assert total - maskable == always_dense
    assert len(kernels(model)) == tensors
    assert model.name == f"wide_resnet_{depth}_{width}"


def test_dsr_makes_the_convolutions_of_the_blocks_sparse():
    model = models.wide_resnet(28, 2, variant="dsr", technique="masked", where=models.DSR_WIDE_RESNET)
    weights = sparsity_tf.get_sparse_weights(model)
    sizes = [weight.size for weight in weights]
    assert sizes == [4608, *[9216] * 7, 18432, *[36864] * 7, 73728, *[147456] * 7]
    total = trainable_count(model)
    assert (sum(sizes), total - sum(sizes), total) == (1_451_520, 16_090, 1_467_610)
    shapes = kernels(model)
    assert np.prod(shapes["stem"]) == 432
    assert sum(np.prod(shape) for name, shape in shapes.items() if name.endswith("projection")) == 10_752
    assert np.prod(shapes["classifier"]) + 10 == 1_290
    assert sum(v.shape[0] for v in model.trainable_variables if v.name in ("gamma", "beta")) == 3_616


@pytest.mark.parametrize(
    ("sparsity", "active"), [(0.9, 145_139), (0.8, 290_294), (0.7, 435_442), (0.6, 580_597), (0.5, 725_760)]
)
def test_dsr_active_weights(sparsity, active):
    shapes = kernels(built("wide_resnet", 28, 2))
    sizes = [np.prod(shape) for name, shape in shapes.items() if "_conv" in name]
    # Truncated in every tensor, plus a tenth against rounding below.
    assert sum(int((1 - sparsity) * size + 0.1) for size in sizes) == active


@pytest.mark.parametrize(
    ("width", "parameters"),
    [(0.75, 209_130), (0.98, 356_376), (1.15, 491_845), (1.33, 652_093), (1.47, 795_477)],
)
def test_dsr_thin_nets(width, parameters):
    assert trainable_count(built("wide_resnet", 28, width, variant="dsr")) == parameters


@pytest.mark.parametrize("variant", ["sparse_momentum", "dsr", "dst"])
def test_a_small_net_runs_and_can_be_masked(variant):
    check_network(models.wide_resnet(10, 2, num_classes=7, variant=variant))


@pytest.mark.parametrize(("variant", "source"), [("dsr", "stage2_block1_relu1"), ("dst", "stage1_block1_add")])
def test_projections_read_the_activated_or_the_raw_input(variant, source):
    model = models.wide_resnet(10, 2, variant=variant)
    assert model.get_layer("stage2_block1_projection").input is model.get_layer(source).output


def test_identity_shortcuts_are_raw_in_every_variant():
    model = models.wide_resnet(16, 2)
    residual, shortcut = model.get_layer("stage1_block2_add").input
    assert residual is model.get_layer("stage1_block2_conv2").output
    assert shortcut is model.get_layer("stage1_block1_add").output


def test_dropout_is_between_the_convolutions_of_a_block():
    model = models.wide_resnet(10, 2)
    assert model.get_layer("stage3_block1_dropout").rate == 0.3
    assert model.get_layer("stage3_block1_conv2").input is model.get_layer("stage3_block1_dropout").output
    for options in ({"variant": "dsr"}, {"dropout": 0}):
        assert not [x for x in models.wide_resnet(10, 2, **options).layers if isinstance(x, keras.layers.Dropout)]


@pytest.mark.parametrize(
    ("layer", "strides", "padding"),
    [("stem", 1, 1), ("stage2_block1_conv1", 2, 1), ("stage2_block1_projection", 2, 0)],
)
def test_convolutions_pad_symmetrically(layer, strides, padding):
    check_padding(models.wide_resnet(10, 1), layer, strides, padding)


def test_kernels_start_as_in_the_source():
    model = models.wide_resnet(10, 4)
    kernel = keras.ops.convert_to_numpy(model.get_layer("stage3_block1_conv1").kernel)
    assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * 256)), rel=0.01)
    classifier = keras.ops.convert_to_numpy(model.get_layer("classifier").kernel)
    assert 0.99 / 16 < abs(classifier).max() <= 1 / 16


@pytest.mark.parametrize("arguments", [{"depth": 20}, {"depth": 4}, {"width": 0}, {"variant": "wide"}])
def test_bad_arguments_are_named(arguments):
    [argument] = arguments
    with pytest.raises(ValueError, match=f"`{argument}` must be"):
        models.wide_resnet(**{"depth": 10, "width": 1, **arguments})
