"""The masks that follow from the scores of weights."""

import numpy as np

from sparsity_tf import masks
from sparsity_tf.callbacks import criteria
from sparsity_tf.masks import structures
from sparsity_tf.masks.matrices import as_matrix, from_matrix


def new_masks(by, views, kinds, scores, targets, scope, sparsity):
    """The new masks, a list of bool arrays. Extend this function to rank groups of entries across weights otherwise.

    Args:
        by: The name of the scores, or the function that made them, for messages.
        views: List of `WeightView`s.
        kinds: List of their structures.
        scores: List of arrays.
        targets: List of the sparsities of the weights.
        scope: "layer", "output" or "global".
        sparsity: The sparsity of all weights together, for "global".
    """
    if scope != "global":
        keep = _keep_in_layer if scope == "layer" else _keep_in_each_output
        arguments = zip(views, kinds, scores, targets, strict=True)
        return [_naming(by, keep, *of_weight) for of_weight in arguments]
    return keep_overall(kinds, scores, [view.mask for view in views], [view.filter_axes for view in views], sparsity)


def keep_overall(kinds, scores, found, filter_axes, sparsity):
    """The masks if the entries, or groups, of all weights are ranked together.

    Args:
        kinds: List of structures, one for each weight, as all lists here.
        scores: List of arrays.
        found: List of the present masks, bool arrays. Dead entries stay dead.
        filter_axes: List of tuples.
        sparsity: Float. Of n groups floor((1 - sparsity) n) live, or all that live now if these are fewer.
    """
    alive = [kind.alive(mask, axes) for kind, mask, axes in zip(kinds, found, filter_axes, strict=True)]
    groups = [kind.reduce(score, axes) for kind, score, axes in zip(kinds, scores, filter_axes, strict=True)]
    count = masks.number_to_keep(sparsity, sum(group.size for group in groups))
    count = min(count, sum(int(np.count_nonzero(part)) for part in alive))
    rows = zip(kinds, masks.highest_overall(groups, count, alive), found, filter_axes, strict=True)
    return [kind.expand(part, mask.shape, axes) & mask for kind, part, mask, axes in rows]


def _naming(by, keep, view, *arguments):
    try:
        return keep(view, *arguments)
    except ValueError as error:
        raise ValueError(f"{error} (scores of {criteria.name_of(by)} for {view.path!r})") from error


def _keep_in_layer(view, kind, scores, sparsity):
    return kind.keep_highest(scores, sparsity, view.mask, view.filter_axes)


def _keep_in_each_output(view, kind, scores, sparsity):
    """Each output unit keeps its floor((1 - sparsity) n) entries with the highest scores; of equal scores the first."""
    if isinstance(kind, structures.NM):
        return kind.keep_highest(scores, sparsity, view.mask, view.filter_axes)
    matrix, dead = as_matrix(scores, view.filter_axes), ~as_matrix(view.mask, view.filter_axes)
    chosen = np.zeros(matrix.shape, bool)
    count = masks.number_to_keep(sparsity, len(matrix))
    np.put_along_axis(chosen, np.lexsort((-matrix, dead), axis=0)[:count], True, axis=0)
    return from_matrix(chosen & ~dead, scores.shape, view.filter_axes)
