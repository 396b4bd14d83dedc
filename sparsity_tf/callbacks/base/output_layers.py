"""The layers that give a network's outputs: their units are classes, so `structure="filter"` leaves them dense."""

import warnings

import keras

from sparsity_tf import distributions
from sparsity_tf.backend import maker_of, own_trainable_variables, tensors_read
from sparsity_tf.layers import flatten_layers


def output_layers(model):
    """Finds the layers with kernels whose units are the outputs of a model.

    In a functional or sequential model these are the last layers with kernels on the way to each output: activations,
    pooling, normalisation and other layers between them and the output are passed through, and nested models are
    entered. Of a subclassed model, or a layer with layers inside (wrappers, attention, recurrent layers), it is the
    last layer with a kernel in the order of creation.

    Args:
        model: Built Keras model or layer.

    Returns:
        List of layers; empty if there is no kernel.
    """
    outputs = getattr(model, "outputs", None) if isinstance(model, keras.Model) else None
    if not outputs:
        return [layer for layer in flatten_layers(model) if _has_kernel(layer)][-1:]
    found, pending, seen = {}, list(outputs), set()
    while pending:
        operation, number = maker_of(pending.pop())
        if (id(operation), number) in seen:
            continue
        seen.add((id(operation), number))
        inside = output_layers(operation) if isinstance(operation, keras.layers.Layer) else []
        found.update((id(layer), layer) for layer in inside)
        if not inside:
            pending.extend(tensors_read(operation, number))
    return list(found.values())


def _has_kernel(layer):
    return any(len(variable.shape) > 1 and "bias" not in variable.name for variable in own_trainable_variables(layer))


def dense_selection(model, weights, where, dense, distribution):
    """What an algorithm keeps dense, for `distributions.allocate`: also output layers that would lose whole units.

    With `structure="filter"` the output layers stay dense, since whole classes would go, unless the user says which
    layers to prune: by `where` (`".*"` is all) or `dense`, by a distribution that gives each weight its number, or
    because there is nothing but output layers to prune.

    Args:
        model: The model that is trained.
        weights: The algorithm's masked weights.
        where, dense, distribution: The algorithm's arguments.

    Returns:
        `dense`, or a list of the paths of the weights to keep.
    """
    if dense is not None or where is not None or getattr(distributions.get(distribution), "explicit", False):
        return dense
    outputs = {id(layer) for layer in output_layers(model)}
    kept = [w.path for w in weights if w.technique.structure == "filter" and id(w.layer) in outputs]
    if not kept or len(kept) == len(weights):
        return dense
    warnings.warn(
        f"The weights {kept} of output layers stay dense: with structure='filter' whole outputs would go. Give "
        "`where` (all layers are '.*') or `dense` to say what to prune.",
        stacklevel=3,
    )
    return kept
