"""`shrink` on the networks of `keras.applications`, random weights, half of the filters zero."""

import keras
import numpy as np
import pytest
from keras import applications, layers

from sparsity_tf.deploy import shrink
from tests.deploy.models import zero_channels

# Network, size of its images, and the parameters that half of the filters may leave at most, as a fraction.
NETWORKS = [
    (applications.ResNet50, 64, 0.5),
    (applications.MobileNetV2, 64, 0.7),
    (applications.EfficientNetB0, 64, 0.9),
    (applications.DenseNet121, 64, 0.6),
    (applications.ConvNeXtTiny, 64, 0.7),
]


def half_of_the_filters_zero(build, size):
    rng = np.random.default_rng(0)
    model = build(weights=None, input_shape=(size, size, 3), classes=10)
    for layer in model._flatten_layers():
        if isinstance(layer, layers.Conv2D | layers.Dense) and not isinstance(layer, layers.DepthwiseConv2D):
            if layer is not model.layers[-1] and getattr(layer, "groups", 1) == 1:
                channels = layer.kernel.shape[-1]
                zero_channels(layer, rng.permutation(channels)[: channels // 2])
        elif isinstance(layer, layers.BatchNormalization):
            for variable, low in zip(layer.weights, (0.5, -0.2, -0.2, 0.5), strict=True):
                variable.assign(rng.uniform(low, low + 0.4 if low < 0 else 1.5, variable.shape))
    return model


@pytest.mark.slow
@pytest.mark.parametrize("build, size, most", NETWORKS, ids=lambda value: getattr(value, "__name__", None))
def test_it_is_equal_and_smaller(build, size, most):
    model = half_of_the_filters_zero(build, size)
    small = shrink(model)
    assert small.count_params() < most * model.count_params()
    # In float32; the report's difference is relative to the largest output.
    assert small.shrink_report.difference < 1e-5
    images = np.random.default_rng(1).normal(size=(2, size, size, 3)).astype("float32")
    one, two = (keras.ops.convert_to_numpy(m(images, training=False)) for m in (model, small))
    np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-5)
