"""Checks that two models compute the same on random inputs: `largest_difference`."""

import keras
import numpy as np

from sparsity_tf.backend import functional_inside
from sparsity_tf.deploy.constants import concrete_shape

_BATCH = 2
# A model of unknown sizes is also compared on sizes that are larger by this number: what is constant at one size may
# vary with the size. `constants` tries other sizes.
_LARGER = 5
# Larger than plain rounding: sums of different lengths are rounded differently.
_TOLERANCE = {"float16": 2e-2, "bfloat16": 8e-2, "float64": 1e-8}


def largest_difference(model, other, graph):
    """Compares the inference outputs of two models on random inputs.

    Args:
        model: Keras model.
        other: Keras model with the same inputs and outputs.
        graph: `Graph` of one of the models, which gives the ranges of integer inputs and of ids.

    Returns:
        Float: the largest difference of two outputs, divided by the largest magnitude of an output (or by 1e-6 if that
        is larger). NaN counts as equal to NaN, infinity as equal to infinity of the same sign.

    Raises:
        ValueError: an input is neither numeric nor boolean, or `model` does not run on random inputs.
    """
    worst = _difference_of_models(model, other, _random_inputs(other, graph))
    if any(None in tensor.shape[1:] for _, tensor in graph.inputs):
        try:
            worst = max(worst, _difference_of_models(model, other, _random_inputs(other, graph, _LARGER)))
        except _NotRun:  # The model may need sizes that a number divides, or have a longest sequence.
            pass
    return worst


class _NotRun(ValueError):
    """The model that was given does not run on the inputs."""


def _difference_of_models(model, other, inputs):
    expected = keras.tree.flatten(_run(model, inputs))
    found = keras.tree.flatten(other(inputs, training=False))
    worst = 0.0
    for one, two in zip(expected, found, strict=True):
        one, two = (keras.ops.convert_to_numpy(x).astype("float64") for x in (one, two))
        worst = max(worst, _difference(one, two))
    return worst


def _run(model, inputs):
    try:
        return model(inputs, training=False)
    except Exception as error:  # The model's own code runs here and may raise anything.
        shapes = [tuple(x.shape) for x in keras.tree.flatten(inputs)]
        raise _NotRun(
            f"Model {model.name!r} can't be compared with its shrunk form: it does not run on random inputs of the "
            f"shapes {shapes} ({type(error).__name__}). Give its inputs their sizes."
        ) from error


def tolerance(graph):
    """The largest difference that rounding may cause, given the lowest precision in which a layer computes."""
    dtypes = {getattr(call.operation, "compute_dtype", None) for call in graph.calls if call.is_layer}
    dtypes &= {"float16", "bfloat16", "float32", "float64"}
    return max((_TOLERANCE.get(dtype, 1e-4) for dtype in dtypes), default=1e-4)


def _difference(one, two):
    if one.shape != two.shape:
        return np.inf
    finite = np.isfinite(one)
    if not np.array_equal(one[~finite], two[~finite], equal_nan=True) or not np.isfinite(two[finite]).all():
        return np.inf
    if not finite.any():
        return 0.0
    return float(np.abs(one[finite] - two[finite]).max() / max(np.abs(one[finite]).max(), 1e-6))


def _random_inputs(model, graph, larger=0):
    rng = np.random.default_rng(0)
    inputs = [_random_input(tensor, graph, rng, larger) for _, tensor in graph.inputs]
    return keras.tree.pack_sequence_as(functional_inside(model).input, inputs)


def _random_input(tensor, graph, rng, larger):
    shape = concrete_shape(tensor.shape, _BATCH, larger)
    # An input without a dtype is one of floats, also if an embedding reads ids from it.
    is_ids = any(isinstance(call.operation, keras.layers.Embedding) and tensor in call.inputs for call in graph.calls)
    if "float" in tensor.dtype and not is_ids:
        return keras.ops.convert_to_tensor(rng.normal(size=shape), dtype=tensor.dtype)
    if "int" in tensor.dtype or is_ids:
        return keras.ops.convert_to_tensor(rng.integers(0, _bound(graph), size=shape), dtype=tensor.dtype)
    if tensor.dtype == "bool":
        return keras.ops.convert_to_tensor(rng.random(shape) < 0.5)
    raise ValueError(f"`model` must have numeric inputs. Received: an input of dtype {tensor.dtype}")


def _bound(graph):
    """A bound for integer inputs: every integer below it is a valid row of every table in the model."""
    rows = [getattr(call.operation, "input_dim", None) for call in graph.calls if call.is_layer]
    return min([n for n in rows if isinstance(n, int)], default=2)
