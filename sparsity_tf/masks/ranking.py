"""From scores to masks: which entries of a weight tensor live.

Counts are exact, also with ties and with all-equal scores. Two ideas live here:

* `highest` and its relatives work on numpy arrays, between steps: what the algorithms of `callbacks/` use. numpy
  partitions with vector instructions, in a fraction of a training step, and gives the same mask on every backend,
  device and replica;
* `top_k_mask` and `zero_outside` work on tensors of any Keras backend, inside a compiled step (discovering neural
  wirings, masked layers), and `largest_on_device` on tensors that lie on a GPU, between steps.
"""

import fractions
import functools
import math

import keras
import numpy as np
from keras import ops

from sparsity_tf.backend import as_array
from sparsity_tf.checks import (
    check_array,
    check_callable,
    check_fraction,
    check_instance,
    check_integer,
    check_integers,
)
from sparsity_tf.ops.fused import compiled

# About how many entries are sorted to find where a threshold lies.
_SAMPLE = 10_000
# How many entries are looked at at a time.
_PIECE = 1 << 17
# Bits of |x| for a float32 x: everything but the sign.
_MAGNITUDE_BITS = 31
# Those of infinity, as an integer; NaN's are higher.
_INFINITY = 0x7F800000


def number_of_zeros(sparsity, size):
    """How many of `size` entries are zero at a sparsity: floor(sparsity * size), of the number as it is written.

    The decimal notation decides, not its binary approximation: 0.7 of 10 entries are 7, and 0.29 of 100 are 29, which
    the floating-point product would make 28. A float that no shorter notation tells from a whole number of entries is
    that number: 1 / 3 of 3 entries is 1.

    Args:
        sparsity: Fraction of zeros, in [0, 1].
        size: Number of entries.

    Returns:
        Integer.
    """
    return math.floor(_share(sparsity, size))


def number_to_keep(sparsity, size):
    """How many of `size` entries live at a sparsity: floor((1 - sparsity) * size), of the number as it is written.

    The rounding of magnitude pruning in *State of Sparsity*: never more than asked for are left. (It differs from
    `size - number_of_zeros` by one where the product is no whole number.)

    Args:
        sparsity: Fraction of zeros, in [0, 1].
        size: Number of entries.

    Returns:
        Integer.
    """
    return math.floor(size - _share(sparsity, size))


def _share(sparsity, size):
    """sparsity * size, a `Fraction`: of the decimal notation, or whole if a float can't be nearer to that."""
    check_fraction("sparsity", sparsity, closed=True)
    check_integer("size", size, 0)
    share = fractions.Fraction(str(sparsity)) * size
    whole = round(share)
    # Two roundings of a number below 1: a quotient of counts, and perhaps a percentage on the way. (All or none is only
    # what says so: 0.9999999999999999 leaves an entry.)
    rounded = 0 < whole < size and abs(share - whole) <= size * fractions.Fraction(1, 2**51)
    return fractions.Fraction(whole) if rounded else share


def highest(scores, count, among=None, by=None):
    """Marks the `count` highest scores, exactly. Among equal ones the lower (row-major) indices win.

    Args:
        scores: Float array of any shape, without NaN.
        count: Integer from 0 to the number of candidates.
        among: Bool array of the shape of `scores`: the candidates. Default: all entries.
        by: Elementwise function of arrays, such as `np.abs`: its results are what is ranked. (They are computed a piece
            at a time: an array of full size takes longer to write than to rank.)

    Returns:
        Bool array of the shape of `scores` with exactly `count` entries True.

    Raises:
        ValueError: A candidate's score is NaN, or there are fewer than `count` candidates.
    """
    return highest_overall([scores], count, None if among is None else [among], by)[0]


def highest_overall(scores, count, among=None, by=None):
    """`highest` over several arrays at once: the `count` highest scores of all together.

    Args:
        scores: List of float arrays.
        count: Integer from 0 to the number of candidates.
        among: List of bool arrays, the candidates. Default: all entries.
        by: As for `highest`.

    Returns:
        List of bool arrays with exactly `count` entries True in all. Among equal scores the earlier array wins.

    Raises:
        ValueError: As `highest`.
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
    low, high = _bracket(values, alive, count, available, by)
    marked = [_mark(*pair, low, high, by) for pair in zip(values, alive, strict=True)]
    if bad := sum(bad for *_, bad in marked):
        raise ValueError(f"`scores` must not hold NaN. Received: {bad} NaN of {available} scores")
    surplus = sum(found for _, _, _, found, _ in marked) - count
    inside = np.concatenate([inside for _, _, inside, _, _ in marked] or [[]])
    if not 0 <= surplus <= inside.size:
        # The bracket missed, which costs time only.
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
            raise ValueError(f"`among` must have an array for each of {len(scores)} scores. Received: {len(among)}")
    for array, candidates in zip(scores, among or [None] * len(scores), strict=True):
        check_array("scores", array)
        if candidates is not None:
            check_array("among", candidates, np.shape(array))
    check_integer("count", count)


def _bracket(values, alive, count, available, by):
    """Two values that are likely to have the `count`-th highest between them: of a sample (Floyd and Rivest, 1975)."""
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
    return (low, high) if low <= high else (-np.inf, np.inf)  # Not of NaN, which sort last.


def _mark(values, alive, low, high, by):
    """The candidates of at least `low`, and more exactly those of at most `high` among them.

    Returns:
        Tuple: bool array, the candidates of at least `low`; positions of those from `low` to `high`, rising, and their
        scores; the number of the former; the number of candidates that are NaN.
    """
    chosen = np.empty(values.size, bool)
    positions, inside, bad = [], [], 0
    # In pieces that stay in the cache.
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
    """Marks the `count` lowest values; of equal ones the later."""
    if count in (0, values.size):
        return np.full(values.size, count > 0)
    last = np.partition(values, count)[count]
    lowest = values < last
    ties = np.flatnonzero(values == last)
    missing = count - np.count_nonzero(lowest)
    lowest[ties[ties.size - missing :]] = True
    return lowest


def random_mask(shape, count, rng, among=None):
    """Marks `count` entries, drawn uniformly without replacement.

    Args:
        shape: Shape of the mask.
        count: Integer from 0 to the number of candidates.
        rng: `numpy.random.Generator`.
        among: Bool array of that shape: the candidates. Default: all entries.

    Returns:
        Bool array with exactly `count` entries True.

    Raises:
        ValueError: There are fewer than `count` candidates.
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
    # Few of many: positions are drawn until enough different ones are candidates.
    missing = count
    while missing:
        drawn = rng.integers(0, alive.size, missing)
        drawn = drawn[alive[drawn] & ~mask[drawn]]
        mask[drawn] = True
        missing = count - np.count_nonzero(mask)
    return mask.reshape(shape)


def zero_outside(mask, tensor, foldable=False):
    """The tensor where the mask is, exactly zero elsewhere, also in the place of what is not finite.

    Args:
        mask: Bool tensor.
        tensor: Float tensor of the same shape.
        foldable: Whether LiteRT's converter is to compute the result once, where both are constants, and store it.
    """
    if keras.backend.backend() == "tensorflow" and not foldable:
        import tensorflow as tf

        # Where XLA does not compile it, a selection takes half as long again.
        return tf.math.multiply_no_nan(tensor, tf.cast(mask, tensor.dtype))
    if keras.backend.backend() == "torch":
        # A clone keeps the order of the tensor in memory, on which the last bit of a product depends. (The orthogonal
        # initializer makes transposed kernels.)
        return tensor.clone().masked_fill_(~mask, 0)
    return ops.where(mask, tensor, ops.zeros((), tensor.dtype))


def top_k_mask(scores, k):
    """Marks the `k` entries of the largest magnitude, exactly.

    The k-th largest magnitude is found by bisection over the 31 bits of a float32 magnitude: 31 counting passes, O(n),
    where a sort costs O(n log n) and is slow under XLA. Among entries equal to it the lower (row-major) indices win.

    Args:
        scores: Float tensor of any shape; |scores| is compared, as float32. Must not hold NaN (inside a compiled step
            this can't be checked; NaN counts as larger than infinity).
        k: Integer or scalar integer tensor, how many entries to keep; clipped to [0, size].

    Returns:
        Bool tensor of the shape of `scores` with exactly `k` entries True.
    """
    if not ops.is_tensor(k):
        check_integer("k", k)
    elif not keras.backend.is_int_dtype(keras.backend.standardize_dtype(k.dtype)) or tuple(k.shape) != ():
        raise ValueError(f"`k` must be an integer. Received: k={k!r}")
    check_array("scores", scores)
    shape = ops.shape(scores)
    magnitudes = _magnitude_bits(ops.reshape(scores, (-1,)))
    size = ops.shape(magnitudes)[0]
    k = ops.clip(ops.cast(k, "int32"), 0, size)
    kth = _kth_largest([magnitudes], k, _MAGNITUDE_BITS)
    above = magnitudes > kth
    ties = magnitudes == kth
    missing = k - _count(above)

    def first_ties():
        # The same search over positions, among the tied entries only: later positions get smaller keys.
        position = ops.where(ties, size - ops.arange(size, dtype="int32"), 0)
        bits = _MAGNITUDE_BITS if not isinstance(size, int) else max(size.bit_length(), 1)
        last = _kth_largest([position], missing, bits)
        return ops.logical_and(ties, position >= ops.maximum(last, 1))

    def all_ties():
        return ties

    none = ops.zeros_like(ties)
    chosen = ops.cond(missing < _count(ties), first_ties, all_ties)
    chosen = ops.where(missing > 0, chosen, none)
    return ops.reshape(ops.logical_or(above, chosen), shape)


def largest_on_device(tensors, count, among):
    """Marks the `count` entries of the largest magnitude, exactly: `highest_overall` of tensors, where they are.

    The masks are those of `highest_overall(..., by=np.abs)`. The threshold is found as in `top_k_mask`; a weight's
    numbers stay on its device, and only masks are fetched.

    Args:
        tensors: List of float tensors.
        count: Integer from 0 to the number of candidates.
        among: List of bool tensors or arrays of the same shapes, the candidates.

    Returns:
        List of bool arrays with exactly `count` entries True in all. Among equal magnitudes the earlier array wins.

    Raises:
        ValueError: A candidate is NaN, or there are fewer than `count` candidates.
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
    """The masks of `largest_on_device`; the number of candidates, and of those that are NaN."""
    half = len(tensors_and_masks) // 2
    pairs = list(zip(tensors_and_masks[:half], tensors_and_masks[half:], strict=True))
    # 0 of no candidate; NaN as infinity, so that one can be added.
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
    """The largest T with at least `k` of the non-negative int32 `keys` >= T, a list of tensors; built bit by bit."""

    def body(step, state):
        # Halved and added: LiteRT can neither shift integers to the left nor "or" them.
        threshold, power = state
        candidate = threshold + power
        return ops.where(sum(_count(key >= candidate) for key in keys) >= k, candidate, threshold), power // 2

    start = ops.zeros((), "int32"), ops.cast(1 << (bits - 1), "int32")
    return ops.fori_loop(0, bits, body, start)[0]


def _count(mask):
    return ops.sum(ops.cast(mask, "int32"))


def _magnitude_bits(x):
    """The bits of |x| as int32: for floats of one sign their order is the order of the numbers."""
    x = ops.abs(ops.cast(x, "float32"))
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.bitcast(x, tf.int32)
    if backend == "jax":
        import jax

        return jax.lax.bitcast_convert_type(x, "int32")
    if backend == "torch":
        import torch

        return x.view(torch.int32)
    return x.view("int32")
