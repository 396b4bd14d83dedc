"""Finds the layers and weights that an argument `where` selects by names, regular expressions or a predicate."""

import re

import keras

from sparsity_tf.backend import sublayers_below
from sparsity_tf.checks import check_callable, selection_entries, shown
from sparsity_tf.layers import Masked, SparseLayer, flatten_layers, get_sparse_weights


def match_layers(model, where, candidate=None):
    """The layers of a model that `where` selects, with the cells of recurrent layers and the projections of attentions.

    Args:
        model: Keras model or layer.
        where: The argument of `sparsify`.
        candidate: Function of a layer: whether the layer may be selected. A predicate `where` is called for candidates
            only. Default: all layers are candidates.

    Returns:
        List of layers, also layers without weights.

    Raises:
        ValueError: An entry of `where` matches no layer, or is not a name, regular expression or predicate.
    """
    matches, patterns = matcher(where)
    layers = [layer for layer in flatten_layers(model) if patterns or candidate is None or candidate(layer)]
    hits = [(layer, matches(layer)) for layer in layers]
    missing = [pattern for pattern in patterns if not any(pattern in found for _, found in hits)]
    if missing:
        raise ValueError(no_match(model, missing))
    chosen = [layer for layer, found in hits if found and (candidate is None or candidate(layer))]
    chosen += [one for layer, found in hits if found for one in sublayers_meant(layer) if one not in chosen]
    return chosen + [part for layer in chosen if isinstance(layer, SparseLayer) for part in layer.sparse_parts]


def match_masked_weights(model, where=None, reparametrized=False):
    """The masked weights of a model that `where` selects.

    Args:
        model: Keras model or layer.
        where: The argument of `sparsify`. Default: all.
        reparametrized: Whether to include weights that are a function of their variable (powerpropagation).

    Returns:
        List of `SparseWeight`s, also frozen ones. It is empty if no layer is masked.

    Raises:
        ValueError: As `match_layers`.
    """
    masked = [weight for weight in get_sparse_weights(model) if isinstance(weight.technique, Masked)]
    masked = [weight for weight in masked if reparametrized or not weight.technique.reparametrized]
    if not masked or where is None:
        return masked
    holders = {id(weight.layer) for weight in masked}

    def holds_one(layer):
        parts = layer.sparse_parts if isinstance(layer, SparseLayer) else []
        return any(id(one) in holders for one in (layer, *parts))

    chosen = {id(layer) for layer in match_layers(model, where, holds_one)}
    return [weight for weight in masked if id(weight.layer) in chosen]


def sublayers_meant(layer):
    """The sublayers that a user selects together with a layer: the projections of an attention."""
    return sublayers_below(layer) if isinstance(layer, keras.layers.MultiHeadAttention) else []


def matcher(where):
    """Returns a function from a layer to the entries of `where` that match it, and the entries that need a match."""
    if where is None:
        return (lambda layer: (None,)), []
    if callable(where) and not isinstance(where, keras.layers.Layer):
        check_callable("where", where, "layer")
        return (lambda layer: (where,) if _says_yes(where, layer) else ()), []
    patterns = selection_entries("where", where)

    def matches(layer):
        return tuple(p for p in patterns if re.fullmatch(p, layer.name) or re.fullmatch(p, path_of(layer)))

    return matches, patterns


def _says_yes(where, layer):
    """Whether a predicate selects a layer. Its answer may be anything that is true or false, such as a `re.Match`."""
    answer = where(layer)
    try:
        return bool(answer)
    except Exception as error:
        raise ValueError(
            f"`where` must return true or false for a layer. Received: {shown(answer)} for layer {path_of(layer)!r}"
        ) from error


def no_match(model, missing):
    names = [path_of(layer) for layer in flatten_layers(model)[1:]]
    return f"`where` holds entries that match no layer: {missing}. The model's layers are: {shorten(names)}"


def path_of(layer):
    return layer.path or layer.name


def shorten(names, limit=20, separator=", "):
    return separator.join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
