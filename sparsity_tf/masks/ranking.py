"""Turns scores into masks. A mask says which entries of a weight tensor live.

Counts are exact, also with ties and with all-equal scores. `highest` and the other functions here work on numpy arrays,
between steps; the algorithms of `callbacks/` use them. numpy partitions with vector instructions, in a fraction of the
time of a training step, and gives the same mask on every backend, device and replica. (`ops/top_k.py` ranks tensors:
inside a compiled step, or on a GPU.)
"""

import fractions
import math
from collections.abc import Callable

import numpy as np

from sparsity_tf.checks import (
    check_array,
    check_callable,
    check_fraction,
    check_instance,
    check_integer,
    check_integers,
)

# About this many entries are sorted to estimate the threshold.
_SAMPLE = 10_000
# Entries are compared with the threshold in pieces of this size.
_PIECE = 1 << 17


def number_of_zeros(sparsity: float, size: int) -> int:
    """How many of `size` entries are zero at a sparsity: floor(sparsity * size), with the sparsity as it is written.

    The decimal notation of the sparsity counts, not its binary approximation: 0.7 of 10 entries are 7, and 0.29 of 100
    are 29. (The floating-point product would give 28.) If a float can't come nearer to a whole number of entries, the
    count is that whole number: 1 / 3 of 3 entries is 1.

    Args:
        sparsity: Fraction of zeros, in [0, 1].
        size: Number of entries.

    Returns:
        Integer.

    Example:

    >>> number_of_zeros(0.29, 100), number_of_zeros(1 / 3, 3)
    (29, 1)
    """
    return math.floor(_share(sparsity, size))


def number_to_keep(sparsity: float, size: int) -> int:
    """How many of `size` entries live at a sparsity: floor((1 - sparsity) * size), with the sparsity as it is written.

    This is the rounding of magnitude pruning in *State of Sparsity*: never more entries live than were asked for. (The
    result is one less than `size - number_of_zeros` where the product is no whole number.)

    Args:
        sparsity: Fraction of zeros, in [0, 1].
        size: Number of entries.

    Returns:
        Integer.

    Example:

    >>> number_to_keep(0.9, 784 * 300)
    23520
    """
    return math.floor(size - _share(sparsity, size))


def _share(sparsity, size):
    """sparsity * size as a `Fraction`, from the decimal notation; a whole number if no float can come nearer to it."""
    check_fraction("sparsity", sparsity, closed=True)
    check_integer("size", size, 0)
    share = fractions.Fraction(str(sparsity)) * size
    whole = round(share)
    # The margin allows for two roundings of a number below 1: one of a quotient of counts, one of a percentage that the
    # number may have been in between. (A sparsity near 0 or 1 is never rounded to "none" or "all": 0.9999999999999999
    # leaves an entry.)
    rounded = 0 < whole < size and abs(share - whole) <= size * fractions.Fraction(1, 2**51)
    return fractions.Fraction(whole) if rounded else share


def highest(
    scores: np.ndarray,
    count: int,
    among: np.ndarray | None = None,
    by: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """Marks the `count` highest scores, exactly. Among equal scores the lower (row-major) indices win.

    Args:
        scores: Float array of any shape, without NaN.
        count: Integer from 0 to the number of candidates.
        among: Bool array of the shape of `scores`: the candidates. Default: all entries.
        by: Elementwise function of arrays, such as `np.abs`: its results are ranked instead of the scores. (The results
            are computed a piece at a time, because a full-size array takes longer to write than to rank.)

    Returns:
        Bool array of the shape of `scores` with exactly `count` True entries.

    Raises:
        ValueError: A candidate's score is NaN, or there are fewer than `count` candidates.

    Example:

    >>> highest(np.array([0.3, 0.1, 0.3, 0.2]), 2)
    array([ True, False,  True, False])
    """
    return highest_overall([scores], count, None if among is None else [among], by)[0]


def highest_overall(
    scores: list[np.ndarray],
    count: int,
    among: list[np.ndarray] | None = None,
    by: Callable[[np.ndarray], np.ndarray] | None = None,
) -> list[np.ndarray]:
    """Marks the `count` highest scores of several arrays together, as `highest` does in one array.

    Args:
        scores: List of float arrays.
        count: Integer from 0 to the number of candidates.
        among: List of bool arrays: the candidates. Default: all entries.
        by: As for `highest`.

    Returns:
        List of bool arrays with exactly `count` True entries in total. Among equal scores the earlier array wins.

    Raises:
        ValueError: As `highest`.

    Example:

    >>> highest_overall([np.array([0.3, 0.1]), np.array([0.2, 0.4])], 2)
    [array([ True, False]), array([False,  True])]
    """
    _check_arrays(scores, count, among)
    by = (lambda array: array) if by is None else by
    check_callable("by", by, "array")
    shapes = [np.shape(array) for array in scores]
    values = [np.asarray(array).reshape(-1) for array in scores]
    alive = [None] * len(values)
    if among is not None:
        alive = [np.asarray(array, bool).reshape(-1) for array in among]
    available = sum(v.size if a is None else np.count_nonzero(a) for v, a in zip(values, alive, strict=True))
    if not 0 <= count <= available:
        raise ValueError(f"`count` must be from 0 to the {available} candidates. Received: count={count}")
    if not values:
        return []
    low, high = _bracket(values, alive, count, available, by)
    marked = [_mark(*pair, low, high, by) for pair in zip(values, alive, strict=True)]
    if bad := sum(bad for *_, bad in marked):
        raise ValueError(f"`scores` must not hold NaN. Received: {bad} NaN of {available} scores")
    surplus = sum(found for _, _, _, found, _ in marked) - count
    inside = np.concatenate([inside for _, _, inside, _, _ in marked] or [[]])
    if not 0 <= surplus <= inside.size:
        # The bracket missed the threshold. This costs time only: mark again without a bracket.
        marked = [_mark(*pair, -np.inf, np.inf, by) for pair in zip(values, alive, strict=True)]
        surplus, inside = available - count, np.concatenate([inside for _, _, inside, _, _ in marked])
    leaving = _lowest(inside, surplus)
    ends = np.cumsum([positions.size for _, positions, *_ in marked])
    for (chosen, positions, *_), leaves in zip(marked, np.split(leaving, ends[:-1]), strict=True):
        chosen[positions[leaves]] = False
    return [chosen.reshape(shape) for (chosen, *_), shape in zip(marked, shapes, strict=True)]


def _check_arrays(scores, count, among):
    check_instance("scores", scores, list, tuple)
    if among is not None:
        check_instance("among", among, list, tuple)
        if len(among) != len(scores):
            raise ValueError(
                f"`among` must have one array for each of the {len(scores)} arrays of scores. Received: {len(among)}"
            )
    for array, candidates in zip(scores, among or [None] * len(scores), strict=True):
        check_array("scores", array)
        if candidates is not None:
            check_array("among", candidates, np.shape(array))
    check_integer("count", count)


def _bracket(values, alive, count, available, by):
    """Two values that are likely to enclose the `count`-th highest, taken from a sample (Floyd and Rivest, 1975)."""
    if count == 0:
        return np.inf, np.inf
    if count == available:
        return -np.inf, -np.inf
    step = max(sum(array.size for array in values) // _SAMPLE, 1)
    pairs = zip(values, alive, strict=True)
    sample = [by(array[::step] if live is None else array[::step][live[::step]]) for array, live in pairs]
    sample = np.sort(np.concatenate(sample))
    position, margin = sample.size * (1 - count / available), 1.5 * np.sqrt(sample.size)
    low = sample[int(position - margin)] if position > margin else -np.inf
    high = sample[int(position + margin)] if position + margin < sample.size else np.inf
    return (low, high) if low <= high else (-np.inf, np.inf)  # `low <= high` is false if one of them is NaN.


def _mark(values, alive, low, high, by):
    """Marks the candidates with a score of at least `low`, and lists the candidates between `low` and `high`.

    Returns:
        Tuple of five: bool array that marks the candidates of at least `low`; rising positions of the candidates from
        `low` to `high`; the scores at these positions; the number of marked candidates; the number of candidates that
        are NaN.
    """
    chosen = np.empty(values.size, bool)
    positions, inside, bad = [], [], 0
    # Pieces of this size stay in the cache.
    for start in range(0, values.size, _PIECE):
        own = slice(start, start + _PIECE)
        scores, found = by(values[own]), chosen[own]
        np.greater_equal(scores, low, out=found)
        if alive is not None:
            found &= alive[own]
        if np.isnan(scores.max()):
            bad += np.count_nonzero(np.isnan(scores if alive is None else scores[alive[own]]))
        between = scores <= high
        between &= found
        between = np.flatnonzero(between)
        positions.append(between + start)
        inside.append(scores[between])
    return chosen, _joined(positions, np.int64), _joined(inside, values.dtype), np.count_nonzero(chosen), bad


def _joined(arrays, dtype):
    return np.concatenate(arrays) if arrays else np.empty(0, dtype)


def _lowest(values, count):
    """Marks the `count` lowest values. Among equal values the later positions are marked."""
    if count in (0, values.size):
        return np.full(values.size, count > 0)
    last = np.partition(values, count)[count]
    lowest = values < last
    ties = np.flatnonzero(values == last)
    missing = count - np.count_nonzero(lowest)
    lowest[ties[ties.size - missing :]] = True
    return lowest


def random_mask(
    shape: tuple[int, ...], count: int, rng: np.random.Generator, among: np.ndarray | None = None
) -> np.ndarray:
    """Marks `count` entries at random: uniform, without replacement.

    Args:
        shape: Shape of the mask.
        count: Integer from 0 to the number of candidates.
        rng: `numpy.random.Generator`.
        among: Bool array of the same shape: the candidates. Default: all entries.

    Returns:
        Bool array with exactly `count` True entries.

    Raises:
        ValueError: There are fewer than `count` candidates.

    Example:

    >>> mask = random_mask((784, 300), 23520, np.random.default_rng(0))
    >>> int(mask.sum())
    23520
    """
    check_instance("rng", rng, np.random.Generator)
    check_integers("shape", shape, 0)
    check_integer("count", count)
    if among is None:
        return highest(rng.random(shape, dtype=np.float32), count)
    check_array("among", among, shape)
    alive = np.asarray(among, bool).reshape(-1)
    available = np.count_nonzero(alive)
    if not 0 <= count <= available:
        raise ValueError(f"`count` must be from 0 to the {available} candidates. Received: count={count}")
    mask = np.zeros(alive.size, bool)
    if 4 * count > available or 4 * available < alive.size:
        mask[np.flatnonzero(alive)[highest(rng.random(available, dtype=np.float32), count)]] = True
        return mask.reshape(shape)
    # Few of many candidates: draw positions until enough different candidates are marked.
    missing = count
    while missing:
        drawn = rng.integers(0, alive.size, missing)
        drawn = drawn[alive[drawn] & ~mask[drawn]]
        mask[drawn] = True
        missing = count - np.count_nonzero(mask)
    return mask.reshape(shape)
