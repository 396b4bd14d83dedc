"""Which weights to drop, which to grow, and where growth goes: the parts that dynamic sparse training is made of.

Each is a function of one `WeightView` (what it sees of a weight: `value`, `mask`, `gradient`, `momentum`, ...):

* a **drop score**, an array of the weight's shape: the live entries with the lowest scores are dropped;
* a **grow score**, likewise: the entries that are not alive with the highest scores are grown;
* a **redistribution statistic**, a number >= 0: weights get a share of the growth in proportion to it.

How many, exact counts, ties and the order of events are the algorithm's business. The user's own functions have the
same signature; one that reads the gradient, the momentum or the variance says so with `uses`, and one whose scores are
to be compared across all weights with `overall`.
"""

import functools
from collections.abc import Callable

import numpy as np

from sparsity_tf import masks
from sparsity_tf.callbacks.base.weight_view import WeightView
from sparsity_tf.checks import check_callable, check_choice

SLOTS = ("gradient", "momentum", "variance")


def uses(*names: str) -> Callable[[Callable], Callable]:
    """Decorator: the function reads these of a `WeightView`: "gradient", "momentum", "variance".

    Example:

    ```python
    @sparsity_tf.callbacks.uses("gradient")
    def saliency(weight):
        return np.abs(weight.value * weight.gradient)


    sparsity_tf.callbacks.RigL(sparsity=0.9, drop=saliency)
    ```
    """
    for name in names:
        check_choice("names", name, SLOTS)

    def decorate(function):
        check_callable("function", function, "weight")
        function.uses = frozenset(names)
        return function

    return decorate


def overall(function: Callable[[WeightView], np.ndarray]) -> Callable[[WeightView], np.ndarray]:
    """Decorator: scores of the function are ranked over all weights together, not in each weight alone.

    Example:

    ```python
    @sparsity_tf.callbacks.overall
    def magnitude(weight):
        return np.abs(weight.value)


    sparsity_tf.callbacks.DropAndGrow(sparsity=0.9, drop=magnitude)
    ```
    """
    check_callable("function", function, "weight")
    function.overall = True
    return function


def mark_of(function, name, default):
    """What `uses` or `overall` left on a function, or on the function inside a `functools.partial`."""
    while isinstance(function, functools.partial) and not hasattr(function, name):
        function = function.func
    return getattr(function, name, default)


def absolute(attribute):
    """Decorator: the scores are the magnitudes of this attribute, which `highest` ranks without writing them out."""

    def decorate(function):
        function.absolute = attribute
        return function

    return decorate


# Drop scores.


@absolute("value")
def magnitude(weight):
    """|w|: the smallest go."""
    return np.abs(weight.value)


@uses("gradient")
def saliency(weight):
    """|w dL/dw|: what changes the loss least to first order goes (Molchanov et al. 2019)."""
    return np.abs(weight.saliency)


def signed_magnitude(weight):
    """|w| in units of the largest |w| that goes of its sign: as in canonical SET (Mocanu et al. 2018).

    The same share of the smallest positive and of the negative weights closest to zero goes: those below 1, which is
    the drop fraction's quantile of either sign. (All three versions of a "SET" mode in the published code of sparse
    momentum do something else; none is copied.)
    """
    live = _of_live(weight.value, weight)
    found = np.zeros(weight.value.size, live.dtype)
    negative = int(np.count_nonzero(live < 0))
    positive = live.size - negative
    # In rising order the negative ones end, and the positive ones begin, with those closest to zero.
    last = []
    if negative:
        last.append(negative - 1 - min(int(weight.drop_fraction * negative), negative - 1))
    if positive:
        last.append(negative + min(int(weight.drop_fraction * positive), positive - 1))
    if last:
        units = np.maximum(np.abs(np.partition(live, last)[last]), np.float32(1e-30))
        found[weight.live] = np.abs(live) / np.where(live < 0, units[0], units[-1])
    return found.reshape(weight.value.shape)


@overall
@absolute("value")
def global_magnitude(weight):
    """|w|, the smallest of all weights together."""
    return np.abs(weight.value)


@uses("variance")
def magnitude_variance(weight):
    """|w| / sqrt(v), each scaled by its largest live entry, v Adam's second moment: small and uncertain weights go."""
    certainty = 1 / np.sqrt(np.maximum(weight.variance, 1e-30))
    live = weight.mask
    if not live.any():
        return np.zeros(weight.value.shape, np.float32)
    size = np.abs(weight.value)
    return certainty / certainty[live].max() * (size / max(size[live].max(), 1e-30))


# Grow scores.


def random(weight):
    """Uniform random numbers."""
    return weight.rng.random(weight.value.shape, dtype=np.float32)


@uses("gradient")
@absolute("gradient")
def gradient(weight):
    """|gradient|, as in RigL."""
    return np.abs(weight.gradient)


@uses("gradient")
def inverted_gradient(weight):
    """-|gradient|: the control experiment of RigL."""
    return -np.abs(weight.gradient)


@uses("momentum")
@absolute("momentum")
def momentum(weight):
    """|momentum|, as in sparse momentum."""
    return np.abs(weight.momentum)


@overall
@uses("momentum")
@absolute("momentum")
def global_momentum(weight):
    """|momentum|, the largest of all weights together."""
    return np.abs(weight.momentum)


@uses("momentum")
def momentum_neuron(weight):
    """|momentum|, spread over output units: each grows about in proportion to its mean |momentum|.

    An entry's score falls with its rank in its unit, divided by the unit's share. (The published mode grows one too few
    a unit and skips units that get fewer than ten: not copied.)
    """
    scores = np.abs(weight.momentum).astype(np.float64)
    axes = tuple(axis % scores.ndim for axis in weight.filter_axes)
    rows = np.moveaxis(scores, axes, range(len(axes))).reshape(-1, scores.size // _units(scores, axes))
    free = np.moveaxis(~weight.mask, axes, range(len(axes))).reshape(rows.shape)
    share = rows.mean(axis=1) / max(rows.mean(axis=1).sum(), 1e-30)
    ranked = np.where(free, rows, -1.0)
    order = np.argsort(-ranked, axis=1, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(rows.shape[1])[None].repeat(len(rows), 0), axis=1)
    filled = -(rank + 1.0) / np.maximum(share[:, None], 1e-30)
    moved = [scores.shape[axis] for axis in axes] + [n for axis, n in enumerate(scores.shape) if axis not in axes]
    return np.moveaxis(filled.reshape(moved), range(len(axes)), axes)


def _units(scores, axes):
    return int(np.prod([scores.shape[axis] for axis in axes]))


# Redistribution statistics.


@uses("momentum")
def mean_momentum(weight):
    """Mean |momentum| of the live entries, as in sparse momentum."""
    return _mean(np.abs(_of_live(weight.momentum, weight)))


def mean_magnitude(weight):
    """Mean |w| of the live entries."""
    return _mean(np.abs(_of_live(weight.value, weight)))


@uses("variance")
def mean_variance(weight):
    """Mean sqrt(v) of the live entries, v Adam's second moment."""
    return _mean(np.sqrt(_of_live(weight.variance, weight)))


def nonzeros(weight):
    """Number of entries that are not zero."""
    return np.count_nonzero(weight.value)


def size(weight):
    """Number of entries, live or not: densities drift towards the same one everywhere."""
    return weight.value.size


def _of_live(array, weight):
    return array.reshape(-1)[weight.live]


def _mean(values):
    # A weight without live entries gets nothing rather than NaN.
    return float(np.mean(values, dtype=np.float64)) if values.size else 0.0


# By name. The last ones of each are spellings of the published programs.

DROP = {
    "magnitude": magnitude,
    "signed_magnitude": signed_magnitude,
    "global_magnitude": global_magnitude,
    "magnitude_variance": magnitude_variance,
    "set": signed_magnitude,
    "SET": signed_magnitude,
}
GROW = {
    "random": random,
    "gradient": gradient,
    "inverted_gradient": inverted_gradient,
    "momentum": momentum,
    "momentum_neuron": momentum_neuron,
    "global_momentum": global_momentum,
    "global_momentum_growth": global_momentum,
}
REDISTRIBUTION = {
    "momentum": mean_momentum,
    "magnitude": mean_magnitude,
    "variance": mean_variance,
    "nonzeros": nonzeros,
    "size": size,
    "nonzero": nonzeros,
    "none": size,
}


def get(argument, identifier, table):
    """Looks a function up by name; the user's own passes through.

    Args:
        argument: Name of the argument, for the message.
        identifier: A name in `table`, or a function of a `WeightView`.
        table: One of `DROP`, `GROW`, `REDISTRIBUTION`.

    Raises:
        ValueError: Anything else.
    """
    if callable(identifier):
        check_callable(argument, identifier, "weight")
        return identifier
    if isinstance(identifier, str) and identifier in table:
        return table[identifier]
    raise ValueError(
        f"`{argument}` must be one of {sorted(table)}, or a function of a `WeightView`. "
        f"Received: {argument}={identifier!r}"
    )


def used_by(*functions):
    """What the functions read beside weights and masks, a set."""
    return set().union(*(mark_of(function, "uses", ()) for function in functions))


def scores(function, view):
    """The scores that a drop or grow function gives a weight, checked."""
    found = np.asarray(function(view))
    if found.shape != view.value.shape:
        raise ValueError(
            f"{getattr(function, '__name__', function)} must return scores of the weight's shape "
            f"{view.value.shape} for {view.path!r}. Received: shape={found.shape}"
        )
    return found


def lowest_live(function, views, counts):
    """What remains alive when the live entries with the lowest scores are dropped.

    Args:
        function: Drop score; its scores are ranked in each weight, or over all weights if it is marked `overall`.
        views: List of `WeightView`.
        counts: How many entries of each weight to drop; if ranked over all, their sum counts.

    Returns:
        List of bool arrays.
    """
    if mark_of(function, "overall", False):
        return highest(function, views, sum(view.active for view in views) - sum(counts))
    remain = [view.active - count for view, count in zip(views, counts, strict=True)]
    return [highest(function, [view], count)[0] for view, count in zip(views, remain, strict=True)]


def highest_free(function, views, kept, counts):
    """The entries outside the masks `kept` with the highest scores; the other arguments as for `lowest_live`.

    Returns:
        List of bool arrays: what grows.
    """
    free = [~mask for mask in kept]
    if mark_of(function, "overall", False):
        return highest(function, views, sum(counts), free)

    def grow(view, candidates, count):
        if function is random:
            # The same distribution without a score for every entry.
            return masks.random_mask(candidates.shape, count, view.rng, candidates)
        return highest(function, [view], count, [candidates])[0]

    return [grow(*triple) for triple in zip(views, free, counts, strict=True)]


def highest(function, views, count, among=None):
    """Marks the entries with the highest scores of several weights together, exactly.

    Magnitudes of weights on a GPU are ranked there.

    Args:
        function: Score, a function of a `WeightView`.
        views: List of `WeightView`.
        count: How many entries of all weights together.
        among: List of bool arrays, the candidates. Default: the live entries.

    Returns:
        List of bool arrays.
    """
    try:
        return _highest(function, views, count, among)
    except ValueError as error:
        paths = ", ".join(view.path for view in views[:6])
        raise ValueError(f"{error} (ranking the entries of {paths}{', ...' if len(views) > 6 else ''})") from error


def _highest(function, views, count, among):
    candidates = [view.mask for view in views] if among is None else among
    attribute = getattr(function, "absolute", None)
    if attribute is None:
        return masks.highest_overall([scores(function, view) for view in views], count, candidates)
    tensors = [view.tensor(attribute) for view in views]
    if any(tensor is None for tensor in tensors):
        return masks.highest_overall([getattr(view, attribute) for view in views], count, candidates, np.abs)
    return masks.largest_on_device(tensors, count, [view.tensor("mask") for view in views] if among is None else among)
