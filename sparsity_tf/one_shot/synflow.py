"""SynFlow: prunes without data, in rounds, by the flow through each weight.

Tanaka et al., "Pruning neural networks without any data by iteratively conserving synaptic flow", arXiv 2006.05467.
All weights and statistics of the model are replaced by their magnitudes, and its inputs by ones. R is the sum of its
outputs, and the score of a weight is |w| dR/d|w|. In a network of ReLUs without biases the scores of each layer add up
to R, so no layer dies before the others. All scores are ranked together, for many rounds: after round k of n a share
density^(k/n) of the weights lives.
"""

import contextlib

import keras
import numpy as np
from keras import ops

from sparsity_tf.backend import as_array, tensor_of
from sparsity_tf.callbacks.base import loss_gradients
from sparsity_tf.callbacks.base.weight_view import read_mask
from sparsity_tf.inspection.tracing import symbolic_inputs
from sparsity_tf.one_shot import selection

ROUNDS = 100


def prune(model, weights, kinds, sparsity, rounds):
    """The masks after all rounds, a list of bool arrays. The model stays as it is.

    Args:
        model: Built Keras model.
        weights: List of its masked `SparseWeight`s.
        kinds: List of their structures.
        sparsity: The sparsity of all weights together.
        rounds: Number of rounds.

    Raises:
        ValueError: The input shape is not known, or the sum of the outputs does not grow with the inputs or overflows.
    """
    inputs = _ones(model)
    found = [read_mask(weight) for weight in weights]
    variables, axes = [weight.variable for weight in weights], [weight.filter_axes for weight in weights]
    with _magnitudes(model):
        _check_flow(model, inputs)
        values = [np.array(ops.convert_to_numpy(variable), "float32") for variable in variables]
        for number in range(1, rounds + 1):
            for variable, value, mask in zip(variables, values, found, strict=True):
                variable.assign(value * mask)
            slopes = loss_gradients.gradients(model, (inputs, None), variables, loss=_flow, training=False)
            scores = [
                value * mask * slope.astype("float64") for value, mask, slope in zip(values, found, slopes, strict=True)
            ]
            goal = sparsity if number == rounds else 1 - (1 - sparsity) ** (number / rounds)
            found = selection.keep_overall(kinds, scores, found, axes, goal)
    return found


def _flow(_, outputs, sample_weight=None):
    return sum(ops.sum(ops.cast(output, "float32")) for output in keras.tree.flatten(outputs))


def _ones(model):
    """Inputs of ones, an array or a structure of arrays for one example."""
    try:
        args, kwargs = symbolic_inputs(model)
    except ValueError as error:
        raise ValueError(f"by='synflow' needs a model that knows the shape of its inputs: {error}") from error
    if kwargs:
        raise ValueError(f"by='synflow' needs a model with one argument. Received: a model with {sorted(kwargs)}")
    return keras.tree.map_structure(lambda tensor: np.ones(tensor.shape, tensor.dtype), args[0])


def _check_flow(model, inputs):
    """Refuses a model whose sum of outputs overflows, or says nothing about the weights, as after a softmax."""

    def flow(factor):
        # Integers, which an embedding looks up, stay ones.
        scaled = keras.tree.map_structure(lambda x: x * factor if x.dtype.kind == "f" else x, inputs)
        return float(ops.convert_to_numpy(_flow(None, model(scaled, training=False))))

    one, two = flow(np.float32(1)), flow(np.float32(2))
    if not np.isfinite([one, two]).all():
        raise ValueError(
            "by='synflow' needs outputs that are finite if all weights are replaced by their magnitudes. Received: "
            f"a sum of {one}. Prune a deep network without batch normalisation by another score."
        )
    floats = any(x.dtype.kind == "f" for x in keras.tree.flatten(inputs))
    if floats and abs(two - one) <= 1e-3 * abs(one):
        raise ValueError(
            "by='synflow' needs outputs that grow with the inputs, such as logits. Received: a model whose outputs add "
            f"up to {one:g} for inputs of ones and to {two:g} for twos (does it end in a softmax?)"
        )


@contextlib.contextmanager
def _magnitudes(model):
    """A context in which all variables of a model are their magnitudes."""
    values = [(variable, np.array(as_array(tensor_of(variable)))) for variable in model.variables]
    try:
        for variable, value in values:
            if np.issubdtype(value.dtype, np.floating):
                variable.assign(np.abs(value))
        yield
    finally:
        for variable, value in values:
            variable.assign(value)
