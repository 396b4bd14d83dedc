"""The scores of dynamic sparse training: which weights to drop, which to grow, and how growth is shared out.

Each is a function of one `WeightView`, through which it reads `value`, `mask`, `gradient`, `momentum`, ... of a weight:

* a **drop score** is an array of the weight's shape: the live entries with the lowest scores are dropped;
* a **grow score** is an array of the same shape: the masked entries with the highest scores are grown;
* a **redistribution statistic** is a number >= 0: each weight gets a share of the growth in proportion to it.

The algorithm decides how many entries to drop and grow, breaks ties and fixes the order of events. A user's own
functions have the same signature. Mark a function with `uses` if it reads the gradient, the momentum or the variance,
and with `overall` if its scores shall be compared across all weights.
"""

import functools
from collections.abc import Callable

import numpy as np

from sparsity_tf import masks
from sparsity_tf.callbacks.base.weight_view import WeightView
from sparsity_tf.checks import check_callable, check_choice, meant, shown

SLOTS = ("gradient", "momentum", "variance")


def uses(*names: str) -> Callable[[Callable], Callable]:
    """Decorator that declares which arrays of a `WeightView` a function reads: "gradient", "momentum", "variance".

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
    """Decorator: the scores of the function are ranked over all weights together, not in each weight alone.

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
    """The mark that `uses` or `overall` left on a function, or on the function inside a `functools.partial`."""
    while isinstance(function, functools.partial) and not hasattr(function, name):
        function = function.func
    return getattr(function, name, default)


def absolute(attribute):
    """Decorator: the scores are the magnitudes of this attribute. `highest` ranks them without storing all of them."""

    def decorate(function):
        function.absolute = attribute
        return function

    return decorate


# Drop scores.


@absolute("value")
def magnitude(weight):
    """|w|: the smallest weights are dropped."""
    return np.abs(weight.value)


@uses("gradient")
def saliency(weight):
    """|w dL/dw|: weights whose removal changes the loss least, to first order, are dropped (Molchanov et al. 2019)."""
    return np.abs(weight.saliency)


def signed_magnitude(weight):
    """|w| relative to the largest |w| of the same sign that is dropped, as in canonical SET (Mocanu et al. 2018).

    The same share of the positive weights and of the negative weights is dropped, the weights closest to zero first.
    Dropped weights have scores below 1: for each sign, 1 is the quantile of |w| at the drop fraction. (The published
    code of sparse momentum has three versions of a "SET" mode. All three do something else.)
    """
    live = _of_live(weight.value, weight)
    found = np.zeros(weight.value.size, live.dtype)
    negative = int(np.count_nonzero(live < 0))
    positive = live.size - negative
    # In rising order, the negative weights closest to zero come last, and the positive weights closest to zero first.
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
    """|w|: the smallest weights of the whole model are dropped."""
    return np.abs(weight.value)


@uses("variance")
def magnitude_variance(weight):
    """|w| / sqrt(v), where v is Adam's second moment: small and uncertain weights are dropped.

    |w| and 1 / sqrt(v) are each scaled by their largest live entry.
    """
    certainty = 1 / np.sqrt(np.maximum(weight.variance, 1e-30))
    live = weight.mask
    if not live.any():
        return np.zeros(weight.value.shape, np.float32)
    size = np.abs(weight.value)
    return certainty / certainty[live].max() * (size / max(size[live].max(), 1e-30))


# Grow scores.


def random(weight):
    """Uniform random numbers: every entry is equally likely to grow."""
    return weight.rng.random(weight.value.shape, dtype=np.float32)


@uses("gradient")
@absolute("gradient")
def gradient(weight):
    """|gradient|, as in RigL."""
    return np.abs(weight.gradient)


@uses("gradient")
def inverted_gradient(weight):
    """-|gradient|: the control experiment of the RigL paper."""
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
    """|momentum|: the largest of the whole model are grown."""
    return np.abs(weight.momentum)


@uses("momentum")
def momentum_neuron(weight):
    """|momentum|, spread over output units: each unit grows about in proportion to its mean |momentum|.

    The score of an entry is minus its rank in its unit, divided by the unit's share. (The published mode grows one
    entry too few in each unit, and skips units that would get fewer than ten. This function does neither.)
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
    """The mean |momentum| of the live entries, as in sparse momentum."""
    return _mean(np.abs(_of_live(weight.momentum, weight)))


def mean_magnitude(weight):
    """The mean |w| of the live entries."""
    return _mean(np.abs(_of_live(weight.value, weight)))


@uses("variance")
def mean_variance(weight):
    """The mean sqrt(v) of the live entries, where v is Adam's second moment."""
    return _mean(np.sqrt(_of_live(weight.variance, weight)))


def nonzeros(weight):
    """The number of entries that are not zero."""
    return np.count_nonzero(weight.value)


def size(weight):
    """The number of entries, live or not: with it all densities drift towards a common value."""
    return weight.value.size


def _of_live(array, weight):
    return array.reshape(-1)[weight.live]


def _mean(values):
    # A weight without live entries gets the statistic 0 instead of NaN.
    return float(np.mean(values, dtype=np.float64)) if values.size else 0.0


# The functions by name. The last names in each table are spellings of the published programs.

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
    """Looks a function up by name. A user's own function is returned unchanged.

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
        f"Received: {argument}={identifier!r}{meant(identifier, table)}"
    )


def used_by(*functions):
    """The set of the names that these functions read beside weights and masks."""
    return set().union(*(mark_of(function, "uses", ()) for function in functions))


def scores(function, view):
    """Computes the scores of a drop or grow function for a weight, and checks their shape."""
    found = np.asarray(function(view))
    if found.shape != view.value.shape:
        raise ValueError(
            f"{name_of(function)} must return scores of the weight's shape {view.value.shape} for {view.path!r}. "
            f"Received: shape={found.shape}"
        )
    return found


def statistics(function, views):
    """Computes the statistics by which a redistribution shares entries out, one for each weight, and checks them."""
    found = [np.asarray(function(view)) for view in views]
    for view, value in zip(views, found, strict=True):
        right = not value.shape and value.dtype.kind in "biuf" and np.isfinite(value) and value >= 0
        if not right:
            raise ValueError(
                f"`redistribution` must return a finite number >= 0 for each weight. Received of {name_of(function)} "
                f"for {view.path!r}: {shown(value if value.shape else value.item())}"
            )
    return [float(value) for value in found]


def name_of(function):
    """The name of a score function in messages."""
    return getattr(function, "__name__", function)


def check_no_nan(function, view, found, among):
    """Raises a ValueError that names the function (or its name) and the weight if a candidate's score is NaN."""
    if found.dtype.kind == "f" and (bad := np.count_nonzero(np.isnan(found[among]))):
        raise ValueError(
            f"The scores of {name_of(function)} must not hold NaN for {view.path!r}. Received: {bad} NaN of "
            f"{np.count_nonzero(among)} scores"
        )


def lowest_live(function, views, counts):
    """Drops the live entries with the lowest scores.

    Args:
        function: Drop score. Scores are ranked in each weight, or over all weights if the function is marked `overall`.
        views: List of `WeightView`s.
        counts: Number of entries to drop for each weight. If scores are ranked over all weights, only the sum counts.

    Returns:
        List of bool arrays: the entries that remain alive.
    """
    if mark_of(function, "overall", False):
        return highest(function, views, sum(view.active for view in views) - sum(counts))
    remain = [view.active - count for view, count in zip(views, counts, strict=True)]
    return [highest(function, [view], count)[0] for view, count in zip(views, remain, strict=True)]


def highest_free(function, views, kept, counts):
    """Finds the entries with the highest scores outside the masks `kept`. The other arguments are as in `lowest_live`.

    Returns:
        List of bool arrays: the entries to grow.
    """
    free = [~mask for mask in kept]
    if mark_of(function, "overall", False):
        return highest(function, views, sum(counts), free)

    def grow(view, candidates, count):
        if function is random:
            # This draws from the same distribution, without a score for every entry.
            return masks.random_mask(candidates.shape, count, view.rng, candidates)
        return highest(function, [view], count, [candidates])[0]

    return [grow(*triple) for triple in zip(views, free, counts, strict=True)]


def highest(function, views, count, among=None):
    """Marks the entries with the highest scores of several weights together, exactly.

    Magnitudes of weights on a GPU are ranked on the GPU.

    Args:
        function: Score, a function of a `WeightView`.
        views: List of `WeightView`s.
        count: Number of entries to mark in all weights together.
        among: List of bool arrays: the candidates. Default: the live entries.

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
        found = [scores(function, view) for view in views]
        try:
            return masks.highest_overall(found, count, candidates)
        except ValueError:
            for triple in zip(views, found, candidates, strict=True):
                check_no_nan(function, *triple)
            raise
    tensors = [view.tensor(attribute) for view in views]
    if any(tensor is None for tensor in tensors):
        attribute = "live_value" if attribute == "value" and among is None else attribute
        return masks.highest_overall([getattr(view, attribute) for view in views], count, candidates, np.abs)
    return masks.largest_on_device(tensors, count, [view.tensor("mask") for view in views] if among is None else among)
