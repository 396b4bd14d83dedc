"""Measures on data how large the inputs are by which each entry of a sparse weight is multiplied.

Wanda (Sun et al., "A simple and effective pruning approach for large language models", arXiv 2306.11695) ranks weights
by |w| ||x||_2, and ||x||_2^2 is the diagonal of the Hessian of a layer's squared error.

One rule serves every kind of layer. The operation of a layer is linear in its inputs and in its kernel K. So take the
sum of all outputs of linear(x^2, K). Its derivative with respect to one entry of K is the sum of x^2 over all inputs by
which this entry is multiplied: patches of a convolution, with its padding and strides, the positions of an
`EinsumDense`, the lookups of an embedding.
"""

import functools

import keras
import numpy as np
from keras import ops

from sparsity_tf.backend import as_array, gradient, no_gradients
from sparsity_tf.inspection.forward import unchanged_state, whole_batches
from sparsity_tf.inspection.tracing import wrapped_calls
from sparsity_tf.layers import flatten_layers


def input_norms(model, weights, data):
    """Runs a model for inference and measures the inputs of some of its sparse weights.

    Nothing in the model changes. The inputs of a recurrent kernel are the outputs of the step before. (This also holds
    for a `GRU` with `reset_after=False`, which multiplies these outputs by a gate first.) Masked steps do not count.

    Args:
        model: Built Keras model or layer.
        weights: List of its `SparseWeight`s.
        data: As for `forward.batches_of`.

    Returns:
        List of float64 arrays, each of its weight's shape: for each entry the 2-norm of the inputs that multiply it.

    Raises:
        ValueError: The model does not use a weight on `data`, or uses it in a way that hides its inputs; `batches_of`
            refuses `data`.
    """
    sums = {(id(weight.layer), weight.name): 0.0 for weight in weights}
    wanted = {id(weight.layer) for weight in weights}
    everything = flatten_layers(model)
    recurrent = [layer for layer in everything if {id(part) for part in _cells(layer)} & wanted]
    cells = {id(part) for layer in recurrent for part in _cells(layer)}
    direct = [layer for layer in everything if id(layer) in wanted - cells]
    with (
        unchanged_state(model),
        wrapped_calls(direct, functools.partial(_listener, sums), "apply_weight"),
        wrapped_calls(recurrent, functools.partial(_recurrent_listener, sums)),
        no_gradients(),
    ):
        for inputs, *_ in whole_batches(data):
            model(keras.tree.map_structure(ops.convert_to_tensor, inputs), training=False)
    silent = [weight.path for weight in weights if np.ndim(sums[id(weight.layer), weight.name]) == 0]
    if silent:
        raise ValueError(f"`data` must use every weight that is to be ranked. Received: data that do not use {silent}")
    return [np.sqrt(sums[id(weight.layer), weight.name]) for weight in weights]


def _cells(layer):
    return getattr(layer, "sparse_parts", ())


def _listener(sums, layer, apply_weight):
    """Wraps `apply_weight` so that each use of a layer's weight adds its squared inputs to `sums`."""
    weights = {weight.name: weight for weight in layer.sparse_weights}

    @functools.wraps(apply_weight)
    def listening(name, linear, inputs, training, select=None):
        if (id(layer), name) in sums:
            if inputs is None and select is None:
                raise ValueError(
                    f"The inputs of {weights[name].path!r} can't be measured: the weight belongs to a cell, and the "
                    "recurrent layer around the cell is not sparse. Leave the weight out with `where`, or use "
                    "`keras.layers.LSTM` or another recurrent layer of Keras."
                )
            squares = None if inputs is None else ops.square(ops.cast(inputs, "float32"))
            added = _squares_of_entries(linear, squares, weights[name].shape, select)
            sums[id(layer), name] = sums[id(layer), name] + added
        return apply_weight(name, linear, inputs, training, select)

    return listening


def _squares_of_entries(linear, squares, shape, select=None):
    """For each entry of a kernel, the sum of the squared inputs that multiply it; an array of the kernel's shape."""

    def total(kernel):
        return ops.sum(linear(squares, kernel if select is None else select(kernel)))

    return gradient(total, ops.ones(shape, "float32")).astype("float64")


def _recurrent_listener(sums, layer, call):
    """As `_listener`, for a recurrent layer: its loop over time may run in one operation of the backend."""
    [cell] = _cells(layer)
    shapes = {weight.name: weight.shape for weight in cell.sparse_weights}

    def add(name, x, mask):
        squares = np.asarray(as_array(ops.convert_to_tensor(x)), "float64") ** 2
        if mask is not None:
            mask = as_array(ops.convert_to_tensor(mask))
            squares = squares * mask.reshape(mask.shape + (1,) * (squares.ndim - 2))
        if (id(cell), name) in sums:
            if squares.ndim == 3:
                added = np.broadcast_to(squares.sum(axis=(0, 1))[:, None], shapes[name])
            else:
                steps = ops.convert_to_tensor(squares.reshape(-1, *squares.shape[2:]), dtype="float32")
                added = _squares_of_entries(cell.products()[name], steps, shapes[name])
            sums[id(cell), name] = sums[id(cell), name] + added

    @functools.wraps(call)
    def listening(sequences, initial_state=None, mask=None, training=False):
        first = layer.states if layer.stateful and initial_state is None else initial_state
        first = None if first is None else ops.copy(keras.tree.flatten(first)[0])
        wanted = layer.return_sequences, layer.return_state
        layer.return_sequences = layer.return_state = True
        try:
            outputs, *states = call(sequences, initial_state=initial_state, mask=mask, training=training)
        finally:
            layer.return_sequences, layer.return_state = wanted
        first = ops.zeros_like(outputs[:, 0]) if first is None else ops.cast(first, outputs.dtype)
        mask = mask[0] if isinstance(mask, list | tuple) else mask
        add("kernel", sequences, mask)
        before = ops.concatenate([first[:, None], outputs[:, :-1]], axis=1)
        # The outputs are in the order of the steps, so the mask of a layer that goes backwards is reversed.
        add("recurrent_kernel", before, ops.flip(mask, 1) if mask is not None and layer.go_backwards else mask)
        result = outputs if wanted[0] else states[0]
        return (result, *states) if wanted[1] else result

    return listening
