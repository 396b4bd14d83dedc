"""VGG networks equal the tables of sparse momentum and SparseVD."""

import keras
import numpy as np
import pytest

from sparsity_tf import models
from tests.models.zoo import built, check_network, check_padding, kernels, trainable_count, weight_count


@pytest.mark.parametrize(
    ("builder", "total", "maskable", "always_dense", "tensors"),
    [
        ("vgg_c", 11_323_466, 11_307_712, 15_754, 16),
        ("vgg_d", 15_255_626, 15_239_872, 15_754, 16),
        ("vgg_like", 14_991_946, 14_977_728, 14_218, 15),
    ],
)
def test_sparse_momentum_table(builder, total, maskable, always_dense, tensors):
    model = built(builder)
    assert trainable_count(model) == total
    assert weight_count(model) == maskable
    assert total - maskable == always_dense
    assert len(kernels(model)) == tensors


def maps(model):
    """Width of the maps after each convolution and pooling."""
    kinds = (keras.layers.Conv2D, keras.layers.MaxPooling2D)
    return [layer.output.shape[1] for layer in model.layers if isinstance(layer, kinds)]


def test_the_1x1_convolutions_of_vgg_c_are_padded_so_maps_grow():
    assert maps(built("vgg_c"))[6:] == [8, 8, 10, 5, 5, 5, 7, 3, 3, 3, 5, 2]
    assert kernels(built("vgg_c"))["stage5_conv3"] == (1, 1, 512, 512)
    assert kernels(built("vgg_c"))["fc1"] == (2048, 512)


def test_maps_of_vgg_d():
    assert maps(built("vgg_d")) == [32, 32, 16, 16, 16, 8, 8, 8, 8, 4, 4, 4, 4, 2, 2, 2, 2, 1]
    assert list(kernels(built("vgg_d")).values())[-3:] == [(512, 512), (512, 512), (512, 10)]


@pytest.mark.parametrize("variant", ["sparse_vd", "sparse_vd_baseline"])
def test_sparse_vd_weights(variant):
    model = built("vgg_like", variant=variant)
    sizes = {name: int(np.prod(shape)) for name, shape in kernels(model).items()}
    assert sizes["fc1"] == 262_144 and sizes["classifier"] == 5_120
    assert sum(sizes.values()) == 14_977_728
    assert sum(sizes.values()) - sizes["fc1"] - sizes["classifier"] == 14_710_464
    assert {layer.epsilon for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)} == {1e-3}


def test_scale_of_sparse_vd():
    shapes = list(kernels(built("vgg_like", width=0.5, variant="sparse_vd")).values())
    assert [shape[-1] for shape in shapes] == [32, 32, 64, 64, 128, 128, 128, *[256] * 7, 10]


def order_after_fc1(variant):
    names = [layer.name for layer in built("vgg_like", variant=variant).layers]
    return names[names.index("fc1") + 1 : -1]


def test_what_follows_the_dense_layer():
    assert order_after_fc1("sparse_momentum") == ["fc1_relu", "fc1_bn"]
    assert order_after_fc1("sparse_vd") == ["fc1_bn", "fc1_relu"]
    assert order_after_fc1("sparse_vd_baseline") == ["fc1_relu", "fc1_bn", "fc1_bn_relu", "fc1_dropout"]


def test_dropout_of_the_sparse_vd_baseline():
    model = built("vgg_like", variant="sparse_vd_baseline")
    rates = {layer.name: layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)}
    assert rates == {
        "stem_dropout": 0.3,
        "stage2_conv1_dropout": 0.4,
        **{f"stage{stage}_conv{i}_dropout": 0.4 for stage in (3, 4, 5) for i in (1, 2)},
        "fc1_dropout": 0.5,
    }
    assert not any(isinstance(x, keras.layers.Dropout) for x in built("vgg_like", variant="sparse_vd").layers)


@pytest.mark.parametrize(
    ("build", "options"),
    [
        (models.vgg_c, {}),
        (models.vgg_d, {}),
        (models.vgg_like, {}),
        (models.vgg_like, {"variant": "sparse_vd"}),
        (models.vgg_like, {"variant": "sparse_vd_baseline"}),
    ],
)
def test_a_small_net_runs_and_can_be_masked(build, options):
    check_network(build(num_classes=7, width=0.125, **options))


@pytest.mark.parametrize(("layer", "padding"), [("stem", 1), ("stage3_conv3", 1)])
def test_convolutions_pad_by_one(layer, padding):
    check_padding(models.vgg_c(width=0.125), layer, 1, padding)


def test_kernels_and_biases_start_as_in_pytorch():
    model = models.vgg_like(width=0.5)
    layer = model.get_layer("stage4_conv2")
    bound = 1 / np.sqrt(9 * 256)
    for variable in (layer.kernel, layer.bias):
        values = abs(keras.ops.convert_to_numpy(variable))
        assert 0.95 * bound < values.max() <= bound


def test_unknown_variant_is_refused():
    with pytest.raises(ValueError, match="`variant` must be one of"):
        models.vgg_like(variant="sparse")


def test_the_norm_of_the_weights_into_each_dense_unit_is_limited():
    model = models.vgg_like(width=0.05, variant="sparse_vd_baseline", max_norm=0.5)
    model = keras.Model.from_config(model.get_config())
    dense = [model.get_layer(name) for name in ("fc1", "classifier")]
    for layer in dense:
        layer.kernel.assign(np.full(layer.kernel.shape, 1.0))
    model.compile(keras.optimizers.SGD(1e-6), "mse")
    model.train_on_batch(np.zeros((2, 32, 32, 3)), np.zeros((2, 10)))
    for layer in dense:
        norms = np.linalg.norm(keras.ops.convert_to_numpy(layer.kernel), axis=0)
        np.testing.assert_allclose(norms, 0.5, rtol=1e-3)
    free = [layer for layer in model.layers if getattr(layer, "kernel_constraint", None) is None]
    assert len([layer for layer in free if hasattr(layer, "kernel")]) == 13
    assert models.vgg_like(width=0.05).get_layer("fc1").kernel_constraint is None
    with pytest.raises(ValueError, match="`max_norm` must be .* above 0"):
        models.vgg_like(max_norm=0)


def test_the_baseline_of_sparse_vd_has_the_weights_that_the_sparse_network_begins_with():
    first, second = (
        {v.path: tuple(v.shape) for v in built("vgg_like", width=0.05, variant=variant).weights}
        for variant in ("sparse_vd_baseline", "sparse_vd")
    )
    assert {path: shape for path, shape in first.items() if "dropout" not in path} == second
