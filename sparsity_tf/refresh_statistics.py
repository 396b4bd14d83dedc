"""Batch normalisation after pruning: its moving mean and variance, measured again.

A pruned network puts out activations of other means and variances than those that its batch normalisation gathered in
training. Measuring them again needs no labels and no training, and after one-shot pruning gives convolutional networks
much of their accuracy back.
"""

import contextlib
import functools
import math
import warnings

import keras
import numpy as np
from keras import ops

from sparsity_tf.backend import as_array, no_gradients, tensor_of
from sparsity_tf.checks import check_built, check_integer
from sparsity_tf.inspection.forward import unchanged_state, whole_batches
from sparsity_tf.inspection.tracing import wrapped_calls
from sparsity_tf.layers import flatten_layers
from sparsity_tf.type_names import Data


def refresh_statistics(model: keras.layers.Layer, data: Data, batch_size: int = 128) -> keras.layers.Layer:
    """Measures the moving mean and variance of every `BatchNormalization` of a model anew, on data, in place.

    They become the mean and the variance of all that the layer reads from `data`, exactly: a cumulative average over
    all batches, not the exponential one of training, whatever the layer's `momentum`. As in training, a layer passes on
    what it normalises with the mean and variance of the batch at hand, so that layers behind it depend on how the data
    is cut into batches: take large ones. All other layers run as at inference (no dropout).

    Only the moving statistics change. Everything else stays as it is to the bit: other variables, the state of random
    generators, optimizer, metrics, `momentum`. Frozen layers get new statistics, too. Where inputs have a mask, masked
    positions don't count. (Of batch renormalisation the statistics of inference are measured, those that training
    corrects with are left.)

    Args:
        model: Built Keras model or layer of any kind, nested, sparse or dense.
        data: Batches of inputs; targets are ignored: an array, a tuple `(inputs, targets)`, or an iterable of either,
            such as a `tf.data.Dataset`, that ends. A few thousand examples are plenty.
        batch_size: Integer, number of examples to which a single array or tuple is cut; the last batch may be smaller,
            and counts by its size.

    Returns:
        The same model. If it has no `BatchNormalization`, it is left as it is, with a warning.

    Raises:
        ValueError: `model` is not built; `data` is empty or no batches of numbers; a mean or variance is not finite.
            The model is unchanged then, as after any other error.

    Example:

    ```python
    model = sparsity_tf.prune(model, 0.8)
    model = sparsity_tf.refresh_statistics(model, x[:4096])
    ```
    """
    check_built("model", model)
    check_integer("batch_size", batch_size, 1)
    everything = flatten_layers(model)
    layers = [layer for layer in everything if isinstance(layer, keras.layers.BatchNormalization) and layer.built]
    if not layers:
        warnings.warn(
            f"Model {model.name!r} has no `BatchNormalization`: there are no statistics to refresh.", stacklevel=2
        )
        return model
    heard = {id(layer): [] for layer in layers}
    with _put_back(model, layers), wrapped_calls(layers, functools.partial(_listener, heard)), no_gradients():
        for inputs, *_ in whole_batches(data, batch_size):
            model(keras.tree.map_structure(ops.convert_to_tensor, inputs), training=False)
    _check_finite(layers, heard)
    for layer in layers:
        if heard[id(layer)]:
            mean, variance = _pooled(heard[id(layer)])
            layer.moving_mean.assign(mean)
            layer.moving_variance.assign(variance)
            if getattr(layer, "renorm", False):
                layer.moving_stddev.assign(np.sqrt(variance + layer.epsilon))
    silent = [layer.path or layer.name for layer in layers if not heard[id(layer)]]
    if silent:
        warnings.warn(f"These layers were not called on `data` and keep their statistics: {silent}.", stacklevel=2)
    return model


def _listener(heard, layer, call):
    """Runs a layer as in training, and notes the mean and variance of each call. With `momentum=0` it tells them."""

    @functools.wraps(call)
    def listening(inputs, *args, **kwargs):
        outputs = call(inputs, *args, **{**kwargs, "training": True})
        mask = kwargs.get("mask")
        size = (
            math.prod(inputs.shape) // inputs.shape[layer.axis]
            if mask is None
            else float(ops.sum(ops.cast(mask, "float32")))
        )
        if size:
            heard[id(layer)].append((size, *(np.array(as_array(tensor_of(v)), "float64") for v in _moving(layer))))
        return outputs

    return listening


def _moving(layer):
    return layer.moving_mean, layer.moving_variance


def _pooled(calls):
    """Mean and variance of the union of samples, of which sizes, means and variances are given."""
    sizes, means, variances = (np.array(column) for column in zip(*calls, strict=True))
    shares = (sizes / sizes.sum())[:, None]
    mean = (shares * means).sum(axis=0)
    return mean, (shares * (variances + (means - mean) ** 2)).sum(axis=0)


def _check_finite(layers, heard):
    bad = [
        layer.path or layer.name
        for layer in layers
        if not all(np.isfinite(part).all() for _, *parts in heard[id(layer)] for part in parts)
    ]
    if bad:
        raise ValueError(f"`data` gives activations that are NaN or infinite before these layers: {bad}.")


@contextlib.contextmanager
def _put_back(model, layers):
    """Lets batch normalisation tell the statistics of each batch meanwhile; puts back all that changes."""
    settings = [(layer, layer.momentum, getattr(layer, "renorm", False)) for layer in layers]
    frozen = [_trainable_flags(layer) for layer in layers if not layer.trainable]
    try:
        for layer in layers:
            layer.momentum = 0.0
            if getattr(layer, "renorm", False):
                layer.renorm = False
            # A frozen layer would run as at inference.
            if not layer.trainable:
                layer.trainable = True
        with unchanged_state(model):
            yield
    finally:
        for layer, momentum, renorm in settings:
            layer.momentum = momentum
            if renorm:
                layer.renorm = renorm
        for flags in frozen:
            for thing, trainable in flags:
                thing.trainable = trainable


def _trainable_flags(layer):
    """What `layer.trainable` sets, parents before children."""
    parts = flatten_layers(layer)
    return [(thing, thing.trainable) for thing in [*parts, *layer.variables]]
