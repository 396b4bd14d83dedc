"""CIFAR ResNets equal the counts of the `dst` package, and masks stand where it puts them."""

import keras
import numpy as np
import pytest

import sparsity_tf
from sparsity_tf import models
from sparsity_tf.checkpoints import checkpoint_sparsity
from sparsity_tf.layers import SparseActivation, SparseBatchNormalization, flatten_layers
from tests.models.zoo import built, check_network, check_padding, kernels, trainable_count


def masks(model):
    return [layer for layer in flatten_layers(model) if isinstance(layer, SparseActivation)]


@pytest.mark.parametrize(
    ("depth", "total", "block_weights", "masks_of_a_stage"),
    [
        (20, 272_474, 267_264, 3),
        (32, 466_906, 460_800, 5),
        (44, 661_338, 654_336, 7),
        # The deeper ones take seconds to build.
        pytest.param(56, 855_770, 847_872, 9, marks=pytest.mark.slow),
        pytest.param(110, 1_730_714, 1_718_784, 18, marks=pytest.mark.slow),
    ],
)
def test_table(depth, total, block_weights, masks_of_a_stage):
    """One masked activation a block, 9, 15, 21, 27 and 54 in all; without trainable parameters."""
    model = built("cifar_resnet", depth, spatial_mask="structured")
    assert trainable_count(model) == total
    assert sum(np.prod(shape) for name, shape in kernels(model).items() if "_conv" in name) == block_weights
    sizes = [mask.mask().shape for mask in masks(model)]
    assert sizes == [(side, side) for side in (32, 16, 8) for _ in range(masks_of_a_stage)]
    assert model.name == f"cifar_resnet_{depth}"


@pytest.mark.parametrize("spatial_mask", ["none", None, "static", "dynamic"])
def test_masks_add_no_trainable_parameters(spatial_mask):
    model = built("cifar_resnet", 8, spatial_mask=spatial_mask)
    assert trainable_count(model) == trainable_count(built("cifar_resnet", 8, spatial_mask="structured"))
    assert len(masks(model)) == (3 if spatial_mask in ("static", "dynamic") else 0)


def test_100_classes_need_5850_parameters_more():
    assert (
        trainable_count(built("cifar_resnet", 8, num_classes=100)) == trainable_count(built("cifar_resnet", 8)) + 5850
    )


@pytest.mark.parametrize("spatial_mask", ["none", "structured", "static", "dynamic"])
def test_a_small_net_runs_and_can_be_masked(spatial_mask):
    check_network(models.cifar_resnet(8, num_classes=7, spatial_mask=spatial_mask, quarters=1))


def test_the_mask_is_in_the_first_batch_normalisation_of_a_block():
    model = models.cifar_resnet(8, spatial_mask="structured", quarters=3)
    for stage in (1, 2, 3):
        layer = model.get_layer(f"stage{stage}_block1_conv1_bn")
        assert isinstance(layer, SparseBatchNormalization)
        assert layer.input is model.get_layer(f"stage{stage}_block1_conv1").output
        assert model.get_layer(f"stage{stage}_block1_conv1_relu").input is layer.output
        assert (layer.momentum, layer.epsilon) == (0.9, 1e-5)
        assert layer.sparse_activation.sparsity() == 0.25
        assert not isinstance(model.get_layer(f"stage{stage}_block1_conv2_bn"), SparseBatchNormalization)


@pytest.mark.parametrize("spatial_mask", ["structured", "static", "dynamic"])
def test_what_the_second_convolution_reads_is_as_sparse_as_asked(spatial_mask):
    model = models.cifar_resnet(8, spatial_mask=spatial_mask, quarters=1)
    probe = keras.Model(model.input, [model.get_layer(f"stage{s}_block1_conv1_bn").output for s in (1, 2, 3)])
    x = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    for outputs in probe(x, training=True):
        y = keras.ops.convert_to_numpy(outputs)
        assert np.count_nonzero(y) == y.size // 4
        np.testing.assert_allclose(y.sum(axis=(0, 1, 2)), 0, atol=1e-2)


def test_blocks_have_masks_of_their_own_that_follow_the_seed():
    def all_masks(seed):
        model = models.cifar_resnet(14, spatial_mask="static", seed=seed, kernel_initializer="zeros")
        return [keras.ops.convert_to_numpy(mask.mask()) for mask in masks(model)]

    first, second = all_masks(1), all_masks(1)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not (first[0] == first[1]).all()
    assert not (first[0] == all_masks(None)[0]).all()


def test_shortcuts_project_where_the_shape_changes():
    names = [
        name for name in kernels(built("cifar_resnet", 20, spatial_mask="structured")) if name.endswith("projection")
    ]
    assert names == ["stage2_block1_projection", "stage3_block1_projection"]
    model = models.cifar_resnet(8)
    assert model.get_layer("stage2_block1_projection").input is model.get_layer("stage1_block1_relu").output


@pytest.mark.parametrize(
    ("layer", "strides", "padding"),
    [("stem", 1, 1), ("stage2_block1_conv1", 2, 1), ("stage2_block1_projection", 2, 0)],
)
def test_convolutions_pad_symmetrically(layer, strides, padding):
    check_padding(models.cifar_resnet(8), layer, strides, padding)


def test_other_sizes_of_images():
    model = models.cifar_resnet(8, input_shape=(21, 30, 1), spatial_mask="static")
    assert [mask.mask().shape for mask in masks(model)] == [(21, 30), (11, 15), (6, 8)]
    assert models.cifar_resnet(8, input_shape=(None, None, 3)).output_shape == (None, 10)


def test_a_technique_makes_the_blocks_sparse():
    options = {"technique": "masked", "where": models.DSR_WIDE_RESNET, "kernel_initializer": "zeros"}
    model = models.cifar_resnet(20, spatial_mask="static", **options)
    weights = sparsity_tf.get_sparse_weights(model)
    assert len(weights) == 18 and sum(weight.size for weight in weights) == 267_264


def test_masks_of_activations_are_not_counted_as_masks_of_weights(tmp_path):
    model = models.cifar_resnet(8, spatial_mask="static", technique="masked", kernel_initializer="ones")
    model.save(tmp_path / "model.keras")
    found = checkpoint_sparsity(str(tmp_path / "model.keras"))
    assert len(found.rows) == len(kernels(model)) and found.global_sparsity == 0


def test_a_masked_net_trains_and_continues_from_a_file(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4, 8, 8, 3)).astype("float32"), rng.integers(0, 10, 4)
    model = models.cifar_resnet(8, (8, 8, 3), spatial_mask="dynamic", technique="masked", where=".*_conv1")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True), loss, run_eagerly=True)
    first = float(model.train_on_batch(x, y))
    path = str(tmp_path / "model.keras")
    model.save(path)
    loaded = keras.saving.load_model(path)
    loaded.run_eagerly = True
    losses = [[float(m.train_on_batch(x, y)) for _ in range(2)] for m in (model, loaded)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0][-1] < first


@pytest.mark.parametrize(
    "arguments", [{"depth": 18}, {"depth": 2}, {"depth": 20.0}, {"spatial_mask": "checker"}, {"quarters": 4}]
)
def test_bad_arguments_are_named(arguments):
    [argument] = arguments
    with pytest.raises(ValueError, match=f"`{argument}` must be"):
        models.cifar_resnet(**{"depth": 8, **arguments})
