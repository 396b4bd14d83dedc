"""Watches forward passes on real data: the inputs and outputs of the layers of a model.

The estimate of speed-ups (`speedup.py`) and the statistics of features (`features.py`) use this module. The model runs
eagerly and for inference. The functions that watch the layers are removed again, also after an error.
"""

import contextlib
import functools

import keras
import numpy as np

from sparsity_tf.backend import as_array, no_gradients, tensor_of
from sparsity_tf.checks import check_array
from sparsity_tf.inspection.tracing import wrapped_calls
from sparsity_tf.layers import flatten_layers


def batches_of(data):
    """Splits data into batches of inputs and targets.

    Args:
        data: one batch of inputs (an array or tensor); one batch as a tuple `(inputs, targets)`, weights may follow; or
            an iterable of either, such as a list, a `tf.data.Dataset` or a `keras.utils.PyDataset`. It must end.

    Yields:
        `(inputs, targets)`; `targets` is `None` if the data has none.

    Raises:
        ValueError: if there is no batch, or `data` is none of these.
    """
    for batch in whole_batches(data):
        yield batch[0], batch[1] if len(batch) > 1 else None


def whole_batches(data, batch_size=None):
    """Splits data into batches as `batches_of` does, but keeps everything that a batch holds.

    Args:
        data: as for `batches_of`.
        batch_size: number of examples. A single batch of arrays is split into batches of this size. `None`: the batch
            stays whole.

    Yields:
        Tuples `(inputs,)`, `(inputs, targets)` or `(inputs, targets, weights)`.

    Raises:
        ValueError: as for `batches_of`.
    """
    if is_one_batch(data):
        data = [data] if batch_size is None else _split(data, batch_size)
    elif isinstance(data, keras.utils.PyDataset):
        data = (data[index] for index in range(data.num_batches))
    elif not hasattr(data, "__iter__") or isinstance(data, str | bytes):
        raise ValueError(f"`data` must be an array, a tuple of them or an iterable of batches. Received: data={data!r}")
    empty = True
    for batch in data:
        empty = False
        batch = batch if isinstance(batch, tuple) else (batch,)
        _check_inputs(batch[0] if batch else None)
        yield batch
    if empty:
        raise ValueError("`data` must hold at least one batch. Received: none")


def is_one_batch(data):
    """Whether data is one batch, not an iterable of batches."""
    return hasattr(data, "shape") or isinstance(data, tuple | dict)


def _split(data, batch_size):
    """Splits one batch into batches of at most `batch_size` examples."""
    _check_inputs(data[0] if isinstance(data, tuple) and data else data)
    lengths = {leaf.shape[0] if getattr(leaf, "shape", ()) else None for leaf in keras.tree.flatten(data)}
    if len(lengths) != 1 or None in lengths:
        raise ValueError(
            f"`data` must hold arrays with the same number of examples. Received: {sorted(map(str, lengths))}"
        )
    [length] = lengths
    for start in range(0, length, batch_size):
        yield keras.tree.map_structure(lambda leaf, start=start: leaf[start : start + batch_size], data)


def _check_inputs(inputs):
    try:
        leaves = keras.tree.flatten(inputs)
    except RecursionError:
        leaves = [None]
    for leaf in leaves or [None]:
        check_array("data", leaf)


@contextlib.contextmanager
def unchanged_state(model, also=()):
    """A context that restores all state that running a model may change, also after an error.

    Args:
        model: built Keras model or layer.
        also: further variables to restore.
    """
    state = [variable for variable in model.variables if not variable.trainable]
    for layer in flatten_layers(model):
        if getattr(layer, "stateful", False):
            # Keras does not list the states of recurrent layers among a layer's variables.
            state += keras.tree.flatten(getattr(layer, "states", None) or [])
    values = [(v, np.array(as_array(tensor_of(v)))) for v in {id(v): v for v in [*state, *also]}.values()]
    try:
        yield
    finally:
        for variable, value in values:
            variable.assign(value)


def run_and_hear(model, inputs, layers, hear):
    """Runs `model` once for inference and reports the calls of some of its layers to a function.

    Args:
        model: built Keras model or layer.
        inputs: one batch of inputs.
        layers: list of Keras layers in the model.
        hear: function of (layer, inputs, outputs), concrete tensors, called after each call of each of `layers`.

    Returns:
        The outputs of the model.
    """

    def wrap(layer, call):
        @functools.wraps(call)
        def heard(first, *args, **kwargs):
            outputs = call(first, *args, **kwargs)
            hear(layer, first, outputs)
            return outputs

        return heard

    with wrapped_calls(layers, wrap), no_gradients():
        return model(keras.tree.map_structure(keras.ops.convert_to_tensor, inputs), training=False)
