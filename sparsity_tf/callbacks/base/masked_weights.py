"""Finds the weights that an algorithm works on: weights that have a mask and are trained."""

from sparsity_tf.callbacks.base import tied_weights, train_function
from sparsity_tf.layers import Masked
from sparsity_tf.masks import structures
from sparsity_tf.matching import match_layers, match_masked_weights
from sparsity_tf.sparsify import reason_to_skip, sparsify


def find(model, where, algorithm):
    """The masked weights of a model that `where` selects and that are trained.

    If none of the layers that `where` selects is masked, these layers are made masked first. Frozen layers stay as they
    are, for example the teacher in a `keras.distillation.Distiller`.

    Args:
        model: Built Keras model.
        where: The argument of `sparsity_tf.sparsify`.
        algorithm: The `MaskAlgorithm`. Its class says which structures it can keep.

    Returns:
        Non-empty list of `SparseWeight`s; of `TiedWeight`s if the structure ties layers.

    Raises:
        ValueError: There is no such weight, or a weight has a structure that the algorithm can't keep.
    """
    who, tied = type(algorithm).__name__, structures.get(algorithm.structure).ties_layers
    masked = match_masked_weights(model, where, reparametrized=True)
    if not masked:
        _sparsify(model, where, **({"structure": algorithm.structure} if tied else {}))
        masked = match_masked_weights(model, where)
    masked = [weight for weight in masked if weight.size and weight.variable.trainable]
    if not masked:
        raise ValueError(
            f"{who} found no masked layer to work on. Either `where` selects none of the layers that `sparsify` "
            f"masked, or the selected layers are frozen or not built. Received: where={where!r}"
        )
    for weight in masked:
        if weight.technique.reparametrized and (algorithm.uses() or not algorithm.takes_reparametrized):
            raise ValueError(
                f"{who} can't work on {weight.path!r}, whose weight is a power of its variable: a pruned weight has "
                "the gradient zero and never comes back, and scores would mix the weight with the gradient of its "
                "variable. MagnitudePruning, RandomPruning, StaticSparsity, NarangPruning and IterativePruning work on "
                f"such weights. Received: a layer of technique {weight.technique.name!r}"
            )
        spec = weight.technique.structure
        if spec is not None and (problem := problem_with(algorithm, spec)):
            raise ValueError(f"{problem} Received: layer {weight.layer.path!r} with structure={spec!r}")
        if algorithm.structure not in (None, spec) and (tied or structures.get(spec).ties_layers):
            raise ValueError(
                f"`structure` must be the structure of the masked layers if either is one of {list(structures.TIED)}, "
                "because these structures mask more than kernels. Give it to `sparsify(model, 'masked', "
                f"structure=...)`. Received: structure={algorithm.structure!r}, and layer {weight.layer.path!r} with "
                f"structure={spec!r}"
            )
    return _tied(model, masked, who)


def problem_with(algorithm, structure):
    """The reason why an algorithm can't keep a structure: a sentence, or `None`."""
    who, tied = type(algorithm).__name__, structures.get(structure).ties_layers
    if tied and algorithm.grows:
        return (
            f"{who} brings pruned weights back, but a pruned {structure} can't come back: its weights are all zero, "
            f"so they get no gradient. structure={structure!r} works with MagnitudePruning, RandomPruning and "
            "StaticSparsity."
        )
    if tied and not algorithm.prunes_tied:
        return (
            f"{who} gives a score to each single weight, but structure={structure!r} prunes weights of several layers "
            "together."
        )
    if tied or algorithm.structured or structure is None:
        return None
    if not algorithm.moves_groups:
        return f"{who} moves single weights, so it can't keep a structure."
    if isinstance(structures.get(structure), structures.NM):
        return f"{who} moves whole groups between weights, but {structure} says how many weights of each group live."
    return None


def _tied(model, masked, who):
    """The weights themselves, or the `TiedWeight`s that they form if their structure ties layers."""
    ties = [weight for weight in masked if structures.get(weight.technique.structure).ties_layers]
    if not ties:
        return masked
    if len(ties) < len(masked):
        other = next(weight for weight in masked if weight not in ties)
        raise ValueError(
            f"{who} can prune either channels, heads and units, or single weights, but not both. Use one algorithm "
            f"for each, and select its layers with `where`. Received: {ties[0].path!r} with "
            f"structure={ties[0].technique.structure!r}, and {other.path!r} with "
            f"structure={other.technique.structure!r}"
        )
    found = tied_weights.find(model, masked)
    if not found:
        raise ValueError(
            f"{who} found no {ties[0].technique.structure} that it can prune as a whole: a part of each one is "
            f"frozen, not selected by `where`, or not masked. Received: model={model.name!r}"
        )
    return found


def _sparsify(model, where, **options):
    chosen = match_layers(model, where, lambda layer: reason_to_skip(layer, Masked(**options)) is None)
    trained = {id(layer) for layer in chosen if layer.trainable_variables}
    if any(layer.weights and id(layer) not in trained for layer in chosen):
        if not trained:
            return
        where = _Among(trained)
    sparsify(model, "masked", where=where, **options)
    train_function.retrace(model)


class _Among:
    """A predicate of layers with a `repr` that a message of `sparsify` can show."""

    def __init__(self, ids):
        self.ids = ids

    def __call__(self, layer):
        return id(layer) in self.ids

    def __repr__(self):
        return "the layers that are trained"
