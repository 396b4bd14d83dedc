"""The weights that an algorithm works on: those under masks that training changes."""

from sparsity_tf.callbacks.base import train_function
from sparsity_tf.layers import Masked, SparseLayer, get_sparse_weights
from sparsity_tf.sparsify import match_layers, reason_to_skip, sparsify


def find(model, where, who, structured):
    """The masked weights of a model that `where` selects and that are trained.

    If `where` selects no masked layer, the layers that it selects are made masked first. Frozen layers stay as they
    are: the teacher in a `keras.distillation.Distiller`, for example.

    Args:
        model: Built Keras model.
        where: As in `sparsity_tf.sparsify`.
        who: Name of the algorithm.
        structured: Whether it makes masks of blocks, filters or N:M groups.

    Returns:
        List of `SparseWeight`s, at least one.

    Raises:
        ValueError: There is none, or one has a structure that the algorithm can't keep.
    """
    masked = _masked(model, where)
    if not masked:
        _sparsify(model, where)
        masked = _masked(model, where)
    masked = [weight for weight in masked if weight.size and weight.variable.trainable]
    if not masked:
        raise ValueError(
            f"{who} found no masked layer to work on: `where` selects none of those that `sparsify` made, or they are "
            f"frozen or not built. Received: where={where!r}"
        )
    for weight in masked:
        if weight.technique.structure is not None and not structured:
            raise ValueError(
                f"{who} moves single weights. Received: layer {weight.layer.path!r} with "
                f"structure={weight.technique.structure!r}"
            )
    return masked


def _masked(model, where):
    masked = [weight for weight in get_sparse_weights(model) if weight.technique.name == "masked"]
    if not masked or where is None:
        return masked
    holders = {id(weight.layer) for weight in masked}

    def holds_one(layer):
        parts = layer.sparse_parts if isinstance(layer, SparseLayer) else []
        return any(id(one) in holders for one in (layer, *parts))

    chosen = {id(layer) for layer in match_layers(model, where, holds_one)}
    return [weight for weight in masked if id(weight.layer) in chosen]


def _sparsify(model, where):
    chosen = match_layers(model, where, lambda layer: reason_to_skip(layer, Masked()) is None)
    trained = {id(layer) for layer in chosen if layer.trainable_variables}
    if any(layer.weights and id(layer) not in trained for layer in chosen):
        if not trained:
            return
        where = _Among(trained)
    sparsify(model, "masked", where=where)
    train_function.retrace(model)


class _Among:
    """A predicate of layers, of which `sparsify` can print something in a message."""

    def __init__(self, ids):
        self.ids = ids

    def __call__(self, layer):
        return id(layer) in self.ids

    def __repr__(self):
        return "the layers that are trained"
