"""Measures the moving means and variances of batch normalisation again, after pruning.

Pruning changes the means and variances of a network's activations, so the statistics that batch normalisation gathered
in training no longer fit. Measuring them again needs no labels and no training. After one-shot pruning it restores much
of the accuracy of convolutional networks.
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

    The new statistics are the exact mean and variance of all inputs of the layer over `data`. They are a cumulative
    average over all batches, and not an exponential average as in training. The layer's `momentum` has no effect. As in
    training, a layer normalises its outputs with the mean and variance of the present batch. So the statistics of later
    layers depend on how the data is cut into batches: use large batches. All other layers run as at inference (no
    dropout).

    Only the moving statistics change. Everything else stays the same to the bit: other variables, the state of random
    generators, optimizer, metrics, `momentum`. Frozen layers get new statistics, too. If inputs have a mask, masked
    positions don't count. (Batch renormalisation gets new statistics for inference. The statistics with which it
    corrects training stay.)

    Args:
        model: Built Keras model or layer of any kind, nested, sparse or dense.
        data: Batches of inputs: an array, a tuple `(inputs, targets)`, or an iterable of either, such as a
            `tf.data.Dataset`, that ends. Targets are ignored. A few thousand examples are plenty.
        batch_size: Integer: the number of examples in each batch that is cut from a single array or tuple. The last
            batch may be smaller, and counts by its size.

    Returns:
        The same model. A model without `BatchNormalization` is unchanged, and there is a warning.

    Raises:
        ValueError: `model` is not built; `data` is empty or does not hold batches of numbers; a mean or variance is not
            finite. After this and any other error the model is unchanged.

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
    """Runs a layer as in training, and records the mean and variance of each call: its statistics with `momentum=0`."""

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
    """Mean and variance of the union of several samples, given the size, mean and variance of each."""
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
    """A context in which batch normalisation keeps the statistics of the last batch. At its end changes are undone."""
    settings = [(layer, layer.momentum, getattr(layer, "renorm", False)) for layer in layers]
    frozen = [_trainable_flags(layer) for layer in layers if not layer.trainable]
    try:
        for layer in layers:
            layer.momentum = 0.0
            if getattr(layer, "renorm", False):
                layer.renorm = False
            # A frozen layer would run as at inference, so it is made trainable for a while.
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
    """The `trainable` flags that setting `layer.trainable` would change, parents before children."""
    parts = flatten_layers(layer)
    return [(thing, thing.trainable) for thing in [*parts, *layer.variables]]
