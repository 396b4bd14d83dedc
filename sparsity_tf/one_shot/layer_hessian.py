"""Measures on data the Hessian of a layer's squared error, H = X^T X / n, in float64.

X has a row for each position at which the layer multiplies its kernel: an example, a token, a place of the image. A row
holds the inputs that one output unit sees there, in the order of the kernel's entries. All output units see the same
ones, so a layer has one H. n is the number of rows.

For a convolution a row is a patch. The layer itself cuts the patches: with the identity as its kernel, its outputs are
its inputs, with the layer's padding, strides and dilation.
"""

import functools
import math

import keras
import numpy as np
from keras import ops

from sparsity_tf.backend import as_array, no_gradients
from sparsity_tf.inspection.forward import unchanged_state, whole_batches
from sparsity_tf.inspection.tracing import wrapped_calls
from sparsity_tf.layers import kinds, lora


def problem(weight):
    """The reason why a weight has no Hessian that all its output units share, or `None`.

    Args:
        weight: `SparseWeight` of a layer.
    """
    layer = weight.layer
    if lora.enabled(weight):
        return "its kernel is frozen under a LoRA adapter"
    if isinstance(layer, kinds.SparseEinsumDense):
        inputs, kernel, output = _letters(layer)
        if any(letter in inputs and letter in output for letter in kernel):
            return f"its equation {layer.equation!r} gives each index of a batch axis a kernel of its own"
        return None
    if isinstance(layer, kinds.SparseDense) or weight.name == "pointwise_kernel":
        return None
    if isinstance(layer, kinds.SparseConv1D | kinds.SparseConv2D | kinds.SparseConv3D):
        return None if layer.groups == 1 else f"its {layer.groups} groups of filters see different inputs"
    return f"it is not a kernel of Dense, EinsumDense or a convolution, but {weight.name!r} of {type(layer).__name__}"


def in_order_of_use(model, weights, data):
    """The weights in the order in which the model first uses them on the first batch of `data`."""
    first = {}
    for inputs, *_ in whole_batches(data):
        _run(model, [inputs], weights, lambda weight, rows: first.setdefault(id(weight), len(first)))
        break
    unused = [weight.path for weight in weights if id(weight) not in first]
    if unused:
        raise ValueError(f"`data` must use every weight that is to be pruned. Received: data that do not use {unused}")
    return sorted(weights, key=lambda weight: first[id(weight)])


def hessian(model, weight, data):
    """X^T X / n of one weight, a float64 array (inputs, inputs). Nothing in the model changes.

    Raises:
        ValueError: All inputs of the weight are zero on `data`, or an input is not finite.
    """
    total, count = 0.0, 0

    def add(weight, rows):
        nonlocal total, count
        rows = rows()
        total, count = total + rows.T @ rows, count + len(rows)

    _run(model, (inputs for inputs, *_ in whole_batches(data)), [weight], add)
    if not count:
        raise ValueError(f"`data` must hold examples for {weight.path!r}. Received: none")
    if not np.isfinite(total).all():
        raise ValueError(f"The inputs of {weight.path!r} must be finite on `data`.")
    if not np.any(total):
        raise ValueError(
            f"The inputs of {weight.path!r} must not all be zero on `data`, in the network that is pruned up to it."
        )
    return total / count


def _run(model, batches, weights, hear):
    by_layer = {}
    for weight in weights:
        by_layer.setdefault(id(weight.layer), {})[weight.name] = weight
    layers = {id(weight.layer): weight.layer for weight in weights}.values()
    with unchanged_state(model), wrapped_calls(layers, _listener(by_layer, hear), "apply_weight"), no_gradients():
        for inputs in batches:
            model(keras.tree.map_structure(ops.convert_to_tensor, inputs), training=False)


def _listener(by_layer, hear):
    def wrap(layer, apply_weight):
        @functools.wraps(apply_weight)
        def listening(name, linear, inputs, training, select=None):
            if name in by_layer[id(layer)]:
                weight = by_layer[id(layer)][name]
                hear(weight, lambda: _rows(weight, linear, inputs))
            return apply_weight(name, linear, inputs, training, select)

        return listening

    return wrap


def _rows(weight, linear, inputs):
    """The matrix X of one call, float64."""
    layer = weight.layer
    inputs = ops.cast(inputs, "float32")
    if isinstance(layer, kinds.SparseEinsumDense):
        rows = _einsum_rows(layer, inputs, weight.shape)
    elif isinstance(layer, kinds.SparseDense):
        rows = inputs
    else:
        size = math.prod(weight.shape[:-1])
        rows = linear(inputs, ops.reshape(ops.eye(size, dtype="float32"), (*weight.shape[:-1], size)))
        if layer.data_format == "channels_first":
            rows = ops.moveaxis(rows, 1, -1)
    array = np.asarray(as_array(rows), "float64")
    return array.reshape(-1, array.shape[-1])


def _einsum_rows(layer, inputs, shape):
    letters, kernel, output = _letters(layer)
    summed = [letter for letter in kernel if letter not in output]
    sizes = [shape[kernel.index(letter)] for letter in summed]
    new = next(letter for letter in "abcdefghijklmnopqrstuvwxyz" if letter not in letters + kernel + output)
    rest = "".join(letter for letter in output if letter not in kernel)
    identity = ops.reshape(ops.eye(math.prod(sizes), dtype="float32"), (*sizes, -1))
    return ops.einsum(f"{letters},{''.join(summed)}{new}->{rest}{new}", inputs, identity)


def _letters(layer):
    """The three parts of an `EinsumDense`'s equation. Kernels have no ellipsis."""
    operands, output = layer.equation.replace(" ", "").split("->")
    inputs, kernel = operands.split(",")
    return inputs, kernel.replace("...", ""), output
