"""Finds the entries of the largest magnitude in tensors: exact counts, on any Keras backend.

`top_k_mask` runs inside a compiled step (discovering neural wirings). `largest_on_device` ranks tensors that lie on a
GPU, between steps. `masks/ranking.py` ranks numpy arrays.
"""

import functools

import keras
import numpy as np
from keras import ops

from sparsity_tf.backend import as_array, compiled, float_bits
from sparsity_tf.checks import check_array, check_integer
from sparsity_tf.type_names import Tensor

# The number of bits of |x| for a float32 x: all but the sign bit.
_MAGNITUDE_BITS = 31
# The bit pattern of +inf as an integer. Every NaN has a larger one.
_INFINITY = 0x7F800000


def top_k_mask(scores: Tensor, k: int | Tensor) -> Tensor:
    """Marks the `k` entries of the largest magnitude, exactly.

    The k-th largest magnitude is found by bisection over the 31 bits of a float32 magnitude. This takes 31 counting
    passes, O(n); a sort costs O(n log n) and is slow under XLA. Among entries that equal the k-th largest magnitude,
    the lower (row-major) indices win.

    Args:
        scores: Float tensor of any shape, without NaN. |scores| is compared, as float32. (A compiled step can't check
            for NaN: there a NaN counts as larger than infinity.)
        k: Integer or scalar integer tensor: the number of entries to keep, clipped to [0, size].

    Returns:
        Bool tensor of the shape of `scores` with exactly `k` entries True.

    Example:

    >>> keras.ops.convert_to_numpy(top_k_mask(np.array([0.3, -0.5, 0.1], "float32"), 2))
    array([ True,  True, False])
    """
    if not ops.is_tensor(k):
        check_integer("k", k)
    elif not keras.backend.is_int_dtype(keras.backend.standardize_dtype(k.dtype)) or tuple(k.shape) != ():
        raise ValueError(f"`k` must be an integer. Received: k={k!r}")
    check_array("scores", scores)
    keys = _magnitude_bits(ops.reshape(scores, (-1,)))
    return ops.reshape(
        _first_of_highest(keys, ops.clip(ops.cast(k, "int32"), 0, ops.shape(keys)[0])), ops.shape(scores)
    )


def highest_mask(scores, k):
    """Marks the `k` highest entries, exactly: as `top_k_mask`, but of the numbers with their signs.

    Args:
        scores: Float tensor of any shape. A NaN counts as larger than infinity.
        k: Integer or scalar integer tensor, clipped to [0, size].

    Returns:
        Bool tensor of the shape of `scores` with exactly `k` entries True. Among equal scores the lower index is
        marked.
    """
    flat = ops.reshape(ops.cast(scores, "float32"), (-1,))
    bits, negative = ops.minimum(_magnitude_bits(flat), _INFINITY + 1), flat < 0
    # Only one of the signs has to be ranked: all others are marked, or none of them.
    k = ops.clip(ops.cast(k, "int32"), 0, ops.shape(flat)[0])
    positive_count = _count(ops.logical_not(negative))
    some_negative = k > positive_count
    keys = ops.where(negative, 0, bits + 1)
    keys = ops.where(some_negative, ops.where(negative, _INFINITY + 1 - bits, 0), keys)
    marked = _first_of_highest(keys, ops.where(some_negative, k - positive_count, k))
    marked = ops.logical_or(marked, ops.logical_and(some_negative, ops.logical_not(negative)))
    return ops.reshape(marked, ops.shape(scores))


def _first_of_highest(keys, k):
    """Marks the `k` highest of a vector of int32 keys >= 0; among equal keys the lower indices."""
    size = ops.shape(keys)[0]
    kth = _kth_largest([keys], k, _MAGNITUDE_BITS)
    above = keys > kth
    ties = keys == kth
    missing = k - _count(above)

    def first_ties():
        # The same search over the positions of the tied entries. An earlier position gets a larger key.
        position = ops.where(ties, size - ops.arange(size, dtype="int32"), 0)
        bits = _MAGNITUDE_BITS if not isinstance(size, int) else max(size.bit_length(), 1)
        last = _kth_largest([position], missing, bits)
        return ops.logical_and(ties, position >= ops.maximum(last, 1))

    def all_ties():
        return ties

    none = ops.zeros_like(ties)
    chosen = ops.cond(missing < _count(ties), first_ties, all_ties)
    chosen = ops.where(missing > 0, chosen, none)
    return ops.logical_or(above, chosen)


def n_of_m_mask(scores, n, m, axis):
    """Marks in each group of `m` consecutive entries along an axis the `n` of the largest magnitude, exactly.

    Each entry's rank in its group is counted in `m` passes over the tensor.

    Args:
        scores: Float tensor of a known shape. A NaN is marked, beside the others.
        n, m: Integers, 1 <= `n` < `m`.
        axis: Integer >= 0. If `m` does not divide it, the last group is shorter, and `n` of it are marked, too.

    Returns:
        Bool tensor of the shape of `scores`. Among equal magnitudes in a group the lower index is marked.
    """
    rows = ops.moveaxis(ops.abs(scores), axis, -1)
    shape, length = tuple(rows.shape), rows.shape[-1]
    if length % m:
        rows = ops.pad(rows, [(0, 0)] * (len(shape) - 1) + [(0, -length % m)], constant_values=-1)
    groups = ops.reshape(rows, (-1, m))
    rank = ops.zeros_like(groups, "int32")
    for index in range(m):
        one, later = groups[:, index : index + 1], np.arange(m) > index
        ahead = ops.logical_or(one > groups, ops.logical_and(ops.equal(one, groups), later))
        rank = rank + ops.cast(ahead, "int32")
    chosen = ops.reshape(rank < n, tuple(rows.shape))
    return ops.moveaxis(chosen[..., :length], -1, axis)


def largest_on_device(tensors: list[Tensor], count: int, among: list[Tensor | np.ndarray]) -> list[np.ndarray]:
    """Marks the `count` entries of the largest magnitude, exactly: `highest_overall` for tensors on a device.

    The masks equal the masks of `highest_overall(..., by=np.abs)`. The threshold is found as in `top_k_mask`. The
    weights stay on their device, and only masks are fetched.

    Args:
        tensors: List of float tensors.
        count: Integer from 0 to the number of candidates.
        among: List of bool tensors or arrays of the same shapes: the candidates.

    Returns:
        List of bool arrays with exactly `count` True entries in total. Among equal magnitudes the earlier array wins.

    Raises:
        ValueError: A candidate is NaN, or there are fewer than `count` candidates.

    Example:

    >>> largest_on_device([np.array([0.3, -0.5, 0.1], "float32")], 2, [np.array([True, True, True])])
    [array([ True,  True, False])]
    """
    check_integer("count", count)
    among = [ops.convert_to_tensor(mask, "bool") for mask in among]
    found, sums = _compiled_largest()(ops.convert_to_tensor(count, "int32"), *tensors, *among)
    available, bad = as_array(sums).tolist()
    if not 0 <= count <= available:
        raise ValueError(f"`count` must be from 0 to the {available} candidates. Received: count={count}")
    if bad:
        raise ValueError(f"`scores` must not hold NaN. Received: {bad} NaN of {available} scores")
    return [as_array(mask) for mask in found]


@functools.cache
def _compiled_largest():
    return compiled(_largest)


def _largest(count, *tensors_and_masks):
    """The masks of `largest_on_device`, and a tensor of two counts: the candidates, and the candidates that are NaN."""
    half = len(tensors_and_masks) // 2
    pairs = list(zip(tensors_and_masks[:half], tensors_and_masks[half:], strict=True))
    # An entry that is no candidate has the key 0. NaN counts as infinity, so that adding 1 can't overflow.
    keys = [ops.where(m, ops.minimum(_magnitude_bits(x), _INFINITY) + 1, 0) for x, m in pairs]
    kth = _kth_largest(keys, count, _MAGNITUDE_BITS)
    missing, found = count - sum(_count(key > kth) for key in keys), []
    for key in keys:
        ties = ops.reshape(key == kth, (-1,))
        first = ops.logical_and(ties, ops.cumsum(ops.cast(ties, "int32")) <= missing)
        missing = ops.maximum(missing - _count(ties), 0)
        found.append(ops.logical_or(key > kth, ops.reshape(first, ops.shape(key))))
    sums = [sum(_count(m) for _, m in pairs), sum(_count(ops.logical_and(m, ops.isnan(x))) for x, m in pairs)]
    return found, ops.stack(sums)


def _kth_largest(keys, k, bits):
    """The largest T such that at least `k` entries of `keys` are >= T, found bit by bit.

    `keys` is a list of int32 tensors without negative entries.
    """

    def body(step, state):
        # Halve and add instead of shifting: LiteRT has neither a left shift nor an "or" of integers.
        threshold, power = state
        candidate = threshold + power
        return ops.where(sum(_count(key >= candidate) for key in keys) >= k, candidate, threshold), power // 2

    start = ops.zeros((), "int32"), ops.cast(1 << (bits - 1), "int32")
    return ops.fori_loop(0, bits, body, start)[0]


def _count(mask):
    return ops.sum(ops.cast(mask, "int32"))


def _magnitude_bits(x):
    """The bits of |x| as int32. For floats of one sign, the bits sort as the floats do."""
    return float_bits(ops.abs(ops.cast(x, "float32")))
