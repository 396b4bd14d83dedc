"""Finds the layers that give a network's outputs. Their units are classes, so `structure="filter"` keeps them dense."""

import keras

from sparsity_tf import distributions
from sparsity_tf.backend import maker_of, own_trainable_variables, tensors_read
from sparsity_tf.layers import flatten_layers
from sparsity_tf.user_warning import warn_user


def output_layers(model):
    """Finds the layers with kernels whose units are the outputs of a model.

    In a functional or sequential model these are the last layers with kernels on the way to each output. The search
    passes through activations, pooling, normalisation and other layers without kernels, and enters nested models. In a
    subclassed model, or a layer with layers inside (wrapper, attention, recurrent layer), the result is the layer with
    a kernel that was created last.

    Args:
        model: Built Keras model or layer.

    Returns:
        List of layers. It is empty if there is no kernel.
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
    """The `dense` argument for `distributions.allocate`: it adds output layers that would lose whole units.

    With `structure="filter"` the output layers stay dense, because pruning would remove whole classes. They are pruned
    if the user says which layers to prune: by `where` (`".*"` is all), by `dense`, or by a distribution that gives each
    weight its own number. They are also pruned if there are no other layers to prune.

    Args:
        model: The model that is trained.
        weights: The algorithm's masked weights.
        where, dense, distribution: The algorithm's arguments.

    Returns:
        `dense` itself, or a list of the paths of the weights to keep dense.
    """
    if dense is not None or where is not None or getattr(distributions.get(distribution), "explicit", False):
        return dense
    outputs = {id(layer) for layer in output_layers(model)}
    kept = [w.path for w in weights if w.technique.structure == "filter" and id(w.layer) in outputs]
    if not kept or len(kept) == len(weights):
        return dense
    warn_user(
        f"The weights {kept} of output layers stay dense, because structure='filter' would remove whole outputs of "
        "the model. To prune them all the same, select them with `where` ('.*' selects all layers). To keep them "
        "dense without this warning, list them in `dense`."
    )
    return kept
