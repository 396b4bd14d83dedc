"""What all builders share: the technique at the end, initializers, and independence of global settings."""

import keras
import numpy as np
import pytest

from sparsity_tf import layers, models
from sparsity_tf.models import _building
from tests.models.test_layer_selection import SMALL
from tests.models.zoo import convolution


@pytest.mark.parametrize("name", SMALL)
def test_technique_is_applied_with_its_options(name):
    model = SMALL[name](technique="dnw", technique_options={"sparsity": 0.75}, where="classifier")
    [weight] = layers.get_sparse_weights(model)
    assert weight.layer.name == "classifier" and weight.sparsity() == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize("option", [{"where": "classifier"}, {"technique_options": {"sparsity": 0.5}}])
def test_options_without_technique_are_refused(option):
    with pytest.raises(ValueError, match=f"`{list(option)[0]}` needs a `technique`"):
        models.mnist_mlp(**option)


@pytest.mark.parametrize(
    "make",
    [
        lambda size: models.lenet_300_100(num_classes=size),
        lambda size: models.lenet_5_caffe(num_classes=size),
        lambda size: models.mnist_mlp(num_classes=size),
        lambda size: models.wide_resnet(10, 1, num_classes=size),
        lambda size: models.CharRNN(size, hidden_size=size),
        lambda size: models.Transformer(size, size="tiny", num_layers=np.int64(1), hidden_size=np.int64(8)),
    ],
)
def test_sizes_may_be_numpys_integers(make):
    # Such as `labels.max() + 1`.
    assert make(np.int64(4)).count_params() == make(4).count_params()


@pytest.mark.parametrize("name", SMALL)
def test_initializer_and_regularizer_reach_every_kernel(name):
    model = SMALL[name](
        kernel_initializer=keras.initializers.RandomNormal(stddev=0.5), kernel_regularizer=keras.regularizers.L2(0.1)
    )
    found = [v for v in model.trainable_variables if len(v.shape) >= 2]
    for variable in found:
        assert keras.ops.convert_to_numpy(variable).std() == pytest.approx(0.5, rel=0.3)
    squares = sum(float(np.square(keras.ops.convert_to_numpy(v)).sum()) for v in found)
    assert float(sum(model.losses)) == pytest.approx(0.1 * squares, rel=1e-4)


@pytest.mark.parametrize("name", ["mobilenet_v1", "wide_resnet", "vgg_d"])
def test_images_have_channels_last_whatever_keras_is_set_to(name):
    keras.config.set_image_data_format("channels_first")
    model = SMALL[name]()
    assert model.get_layer("stem").output.shape[1:3] in ((16, 16), (32, 32))
    assert {getattr(layer, "data_format", "channels_last") for layer in model.layers} == {"channels_last"}


def test_padding_matters_at_stride_2():
    """The reason for explicit padding: Keras's "same" reads other pixels, so its result differs."""
    x = np.random.default_rng(0).normal(size=(1, 8, 8, 2)).astype("float32")
    kernel = np.random.default_rng(1).normal(size=(3, 3, 2, 4)).astype("float32")
    inputs = keras.Input((8, 8, 2))
    ours = keras.Model(inputs, _building.Layers("zeros").conv(inputs, 4, 3, strides=2, name="conv"))
    ours.get_layer("conv").kernel.assign(kernel)
    expected = convolution(x, kernel, 2, 1)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(ours(x)), expected, rtol=1e-4, atol=1e-5)
    same = keras.ops.convert_to_numpy(keras.ops.conv(x, kernel, 2, "same", "channels_last"))
    assert same.shape == expected.shape and not np.allclose(same, expected, atol=0.1)


@pytest.mark.parametrize(
    ("build", "arguments"),
    [(models.mobilenet_v1, {"width": 0}), (models.vgg_d, {"width": -1}), (models.mobilenet_v1, {"classifier": "x"})],
)
def test_bad_arguments_are_named(build, arguments):
    [argument] = arguments
    with pytest.raises(ValueError, match=f"`{argument}` must be"):
        build(**arguments)
