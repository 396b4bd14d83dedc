"""Small models with known zeros for the tests of `sparsity_tf.deploy`, and helpers to make zeros."""

import keras
import numpy as np
from keras import layers, ops


def zero_channels(layer, dead, bias=None):
    """Sets the columns `dead` of a kernel to zero, and the bias there to `bias` (default: leaves it)."""
    kernel = ops.convert_to_numpy(layer.kernel).copy()
    axis = -2 if isinstance(layer, layers.Conv2DTranspose | layers.Conv1DTranspose) else -1
    np.moveaxis(kernel, axis, 0)[list(dead)] = 0
    layer.kernel.assign(kernel)
    if bias is not None:
        value = ops.convert_to_numpy(layer.bias).copy()
        value[list(dead)] = bias
        layer.bias.assign(value)


def randomize(model, seed=0):
    """Gives every weight random values: biases and batch statistics of a fresh model hide faults."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        if "float" not in variable.dtype:
            continue
        low = 0.5 if "variance" in variable.name or "gamma" in variable.name else -0.5
        variable.assign(rng.uniform(low, low + 1, variable.shape))
    return model


def predictions(model, *inputs):
    """Outputs of inference as a flat list of arrays."""
    outputs = model(inputs[0] if len(inputs) == 1 else list(inputs), training=False)
    return [ops.convert_to_numpy(x) for x in keras.tree.flatten(outputs)]


def assert_equal_models(model, other, *inputs):
    """The two models predict the same on the inputs, up to rounding."""
    for one, two in zip(predictions(model, *inputs), predictions(other, *inputs), strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-5 * max(np.abs(one).max(), 1e-3))


def images(shape=(2, 8, 8, 3), seed=0):
    """Random images."""
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def widths(model):
    """Channels of each layer's output by the layer's name."""
    return {layer.name: layer.output.shape[-1] for layer in model.layers}
