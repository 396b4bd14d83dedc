"""ResNets of the `dst` package for 64 x 64 images: counts, masks, and the spatial bottleneck in all networks."""

import keras
import numpy as np
import pytest

from sparsity_tf import inspection, models
from sparsity_tf.layers import SparseActivation, flatten_layers
from tests.models.zoo import built, check_network, kernels, trainable_count

# The counts of the networks with a 7 x 7 stem, which has 9,408 weights; the 3 x 3 stem has 1,728.
COUNTS = {18: 11_689_512, 34: 21_797_672, 50: 25_557_032}
BLOCKS = {18: 8, 34: 16, 50: 16}


def masks(model):
    return [layer for layer in flatten_layers(model) if isinstance(layer, SparseActivation)]


SLOW = pytest.mark.slow  # The deeper networks take seconds to build.


@pytest.mark.parametrize("depth", [18, pytest.param(34, marks=SLOW), pytest.param(50, marks=SLOW)])
def test_counts(depth):
    model = built("i1k_resnet", depth)
    assert trainable_count(model) == COUNTS[depth] - 9_408 + 1_728
    assert model.name == f"i1k_resnet_{depth}" and model.output_shape == (None, 1000)
    assert model.get_layer("stage4_block1_add").output.shape[1:3] == (8, 8)


@pytest.mark.parametrize("depth", [18, pytest.param(50, marks=SLOW)])
def test_every_block_has_a_mask_of_the_size_of_its_output(depth):
    model = built("i1k_resnet", depth, spatial_mask="structured", quarters=3)
    sides = [mask.mask().shape[0] for mask in masks(model)]
    assert len(sides) == BLOCKS[depth] and sorted(set(sides), reverse=True) == [64, 32, 16, 8]
    assert {mask.sparsity() for mask in masks(model)} == {0.25}
    assert len(masks(built("i1k_resnet", depth))) == 0


@pytest.mark.slow
def test_a_pair_of_half_the_filters_has_as_many_weights():
    plain, paired = (built("i1k_resnet", 50, spatial_mask=mask) for mask in ("none", "static"))
    weights = [sum(np.prod(shape) for shape in kernels(model).values()) for model in (plain, paired)]
    assert weights[0] == weights[1] and len(kernels(paired)) == len(kernels(plain)) + 16
    # A batch normalisation more in each block: 2 * (32, 64, 128, 256) times (3, 4, 6, 3) blocks.
    assert trainable_count(paired) - trainable_count(plain) == 2 * (3 * 32 + 4 * 64 + 6 * 128 + 3 * 256)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"spatial_mask": "dynamic"}, {"spatial_bottleneck": True}, {}], ids=str)
def test_a_small_net_runs_and_can_be_masked(options):
    check_network(models.i1k_resnet(18, (16, 32, 3), num_classes=7, seed=1, **options))


@pytest.mark.parametrize("builder,arguments", [("cifar_resnet", (8,)), ("wide_resnet", (10, 1))])
def test_a_small_net_with_a_spatial_bottleneck_runs_and_can_be_masked(builder, arguments):
    check_network(getattr(models, builder)(*arguments, num_classes=7, spatial_bottleneck=True))


@pytest.mark.parametrize(
    "builder,arguments,side",
    [
        ("cifar_resnet", (8,), 32),
        ("wide_resnet", (10, 2), 32),
        pytest.param("i1k_resnet", (18,), 64, marks=SLOW),
        pytest.param("i1k_resnet", (50,), 64, marks=SLOW),
    ],
)
def test_a_spatial_bottleneck_has_a_quarter_of_the_operations_of_its_convolutions(builder, arguments, side):
    plain = built(builder, *arguments, **({"spatial_mask": "structured"} if arguments == (50,) else {}))
    halved = built(builder, *arguments, spatial_bottleneck=True)
    assert halved.output_shape == plain.output_shape and halved.input_shape == (None, side, side, 3)
    if arguments != (50,):
        assert trainable_count(halved) == trainable_count(plain)
    operations = [
        {row.name.split("/")[0]: row.dense for row in inspection.count_flops(model)} for model in (plain, halved)
    ]
    pairs = ("_conv2", "_conv3") if arguments == (50,) else ("_conv1", "_conv2")
    for name, dense in operations[0].items():
        assert operations[1][name] * (4 if name.endswith(pairs) else 1) == dense, name


def test_the_transposed_convolution_is_that_of_pytorch():
    """Position i of the input adds its 3 x 3 kernel to the output around position 2 i."""
    model = models.cifar_resnet(8, spatial_bottleneck=True)
    layer, crop = model.get_layer("stage1_block1_conv2"), model.get_layer("stage1_block1_conv2_crop")
    kernel = np.arange(1, 10, dtype="float32").reshape(3, 3)
    weights = np.zeros(layer.kernel.shape, "float32")
    weights[:, :, 0, 0] = kernel
    layer.kernel.assign(weights)
    x = np.zeros((1, 16, 16, 16), "float32")
    x[0, 5, 0, 0] = 1
    y = keras.ops.convert_to_numpy(crop(layer(x)))[0, :, :, 0]
    assert y.shape == (32, 32)
    expected = np.zeros((32, 32))
    expected[9:12, 0:2] = kernel[:, 1:]  # Columns -1 to 1, of which the first lies outside.
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize(
    "builder,arguments,options,message",
    [
        ("i1k_resnet", (20,), {}, "`depth` must be one of .*depth=20"),
        ("i1k_resnet", (18,), {"spatial_mask": "checker"}, "`spatial_mask` must be one of"),
        ("i1k_resnet", (18,), {"quarters": 0}, "`quarters` must be one of"),
        ("i1k_resnet", (18,), {"spatial_bottleneck": "yes"}, "`spatial_bottleneck` must be True or False"),
        (
            "i1k_resnet",
            (18,),
            {"spatial_bottleneck": True, "spatial_mask": "static"},
            "`spatial_bottleneck` must be False with a `spatial_mask`.*'static'",
        ),
        (
            "i1k_resnet",
            (18,),
            {"spatial_bottleneck": True, "input_shape": (40, 64, 3)},
            r"`input_shape` must have a height and a width that are multiples of 16.*\(40, 64, 3\)",
        ),
        ("cifar_resnet", (8,), {"spatial_bottleneck": True, "input_shape": (None, 32, 3)}, "multiples of 8.*None"),
        ("wide_resnet", (10, 1), {"spatial_bottleneck": True, "input_shape": (28, 28, 1)}, "multiples of 8.*28"),
        ("wide_resnet", (10, 1), {"spatial_bottleneck": 1}, "`spatial_bottleneck` must be True or False.*=1"),
    ],
)
def test_bad_arguments_are_named(builder, arguments, options, message):
    with pytest.raises(ValueError, match=message):
        getattr(models, builder)(*arguments, **options)
