"""From scores to masks: which entries of a weight tensor live.

Counts are exact, also with ties and with all-equal scores. Two ideas live here:

* `highest` and its relatives work on numpy arrays, between steps: what the algorithms of `callbacks/` use. numpy
  partitions with vector instructions, in a fraction of a training step, and gives the same mask on every backend,
  device and replica;
* `top_k_mask` works on tensors of any Keras backend, inside a compiled step (discovering neural wirings).
"""

import fractions
import math

import keras
import numpy as np
from keras import ops

# About how many entries are sorted to find where a threshold lies.
_SAMPLE = 10_000
# How many entries are looked at at a time.
_PIECE = 1 << 16
# Bits of |x| for a float32 x: everything but the sign.
_MAGNITUDE_BITS = 31


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
    share = fractions.Fraction(str(sparsity)) * size
    whole = round(share)
    # Two roundings of a number below 1: a quotient of counts, and perhaps a percentage on the way. (All or none is only
    # what says so: 0.9999999999999999 leaves an entry.)
    rounded = 0 < whole < size and abs(share - whole) <= size * fractions.Fraction(1, 2**51)
    return fractions.Fraction(whole) if rounded else share


def highest(scores, count, among=None):
    """Marks the `count` highest scores, exactly. Among equal ones the lower (row-major) indices win.

    Args:
        scores: Float array of any shape, without NaN.
        count: Integer from 0 to the number of candidates.
        among: Bool array of the shape of `scores`: the candidates. Default: all entries.

    Returns:
        Bool array of the shape of `scores` with exactly `count` entries True.

    Raises:
        ValueError: A candidate's score is NaN, or there are fewer than `count` candidates.
    """
    scores = np.asarray(scores)
    values = scores.reshape(-1)
    alive = None if among is None else np.asarray(among, bool).reshape(-1)
    available = values.size if alive is None else np.count_nonzero(alive)
    if not 0 <= count <= available:
        raise ValueError(f"`count` must be from 0 to the {available} candidates. Received: count={count}")
    if values.size and np.isnan(values.max()):
        bad = np.count_nonzero(np.isnan(values if alive is None else values[alive]))
        if bad:
            raise ValueError(f"`scores` must not hold NaN. Received: {bad} NaN of {available} scores")
    if count == 0:
        return np.zeros(scores.shape, bool)
    if count == available:
        return np.ones(scores.shape, bool) if alive is None else alive.copy().reshape(scores.shape)
    last = _nth_highest(values, alive, count, available)
    chosen = values >= last
    if alive is not None:
        chosen &= alive
    surplus = np.count_nonzero(chosen) - count
    if surplus:
        ties = np.flatnonzero(_among(values == last, alive))
        chosen[ties[ties.size - surplus :]] = False
    return chosen.reshape(scores.shape)


def _among(chosen, alive):
    return chosen if alive is None else chosen & alive


def _nth_highest(values, alive, count, available):
    """The `count`-th highest of the values that are alive.

    A sorted sample brackets it, and only what lies in the bracket is partitioned (Floyd and Rivest, 1975): a partition
    of everything takes five times as long. A bracket that misses, which costs time only, is given up.
    """
    step = values.size // _SAMPLE
    if step > 1:
        sample = np.sort(values[::step] if alive is None else values[::step][alive[::step]])
        position = sample.size * (1 - count / available)
        margin = 1.5 * np.sqrt(sample.size)
        low = sample[int(position - margin)] if position > margin else -np.inf
        high = sample[int(position + margin)] if position + margin < sample.size else np.inf
        above, inside = _above_and_inside(values, alive, low, high)
        if low == high and above < count <= above + inside.size:
            return low  # Nothing but ties.
        if 1 <= count - above <= inside.size:
            return np.partition(inside, inside.size - (count - above))[inside.size - (count - above)]
    if alive is not None:
        values = values[alive]
    return np.partition(values, values.size - count)[values.size - count]


def _above_and_inside(values, alive, low, high):
    """How many values lie above `high`, and those within [low, high]."""
    above, inside = 0, []
    # In pieces that stay in the cache: fresh memory for arrays of the full size takes longer than all the rest.
    for start in range(0, values.size, _PIECE):
        piece = values[start : start + _PIECE]
        live = None if alive is None else alive[start : start + _PIECE]
        above += np.count_nonzero(_among(piece > high, live))
        inside.append(piece[_among((piece >= low) & (piece <= high), live)])
    return above, np.concatenate(inside)


def highest_overall(scores, count, among=None):
    """`highest` over several arrays at once: the `count` highest scores of all together.

    Args:
        scores: List of float arrays.
        count: Integer from 0 to the number of candidates.
        among: List of bool arrays, the candidates. Default: all entries.

    Returns:
        List of bool arrays with exactly `count` entries True in all. Among equal scores the earlier array wins.

    Raises:
        ValueError: As `highest`.
    """
    if not scores:
        return []
    flat = np.concatenate([np.asarray(array).reshape(-1) for array in scores])
    candidates = None if among is None else np.concatenate([np.asarray(array).reshape(-1) for array in among])
    chosen = highest(flat, count, candidates)
    ends = np.cumsum([np.size(array) for array in scores])
    return [part.reshape(np.shape(array)) for part, array in zip(np.split(chosen, ends[:-1]), scores, strict=True)]


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
    if among is None:
        return highest(rng.random(shape, dtype=np.float32), count)
    alive = np.asarray(among, bool).reshape(-1)
    available = np.count_nonzero(alive)
    if not 0 <= count <= available:
        raise ValueError(f"`count` must be from 0 to the {available} candidates. Received: count={count}")
    if 4 * count > available or 4 * available < alive.size:
        return highest(rng.random(shape, dtype=np.float32), count, among)
    # Few of many: positions are drawn until enough different ones are candidates.
    mask = np.zeros(alive.size, bool)
    missing = count
    while missing:
        drawn = rng.integers(0, alive.size, missing)
        drawn = drawn[alive[drawn] & ~mask[drawn]]
        mask[drawn] = True
        missing = count - np.count_nonzero(mask)
    return mask.reshape(shape)


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
    shape = ops.shape(scores)
    magnitudes = _magnitude_bits(ops.reshape(scores, (-1,)))
    size = ops.shape(magnitudes)[0]
    k = ops.clip(ops.cast(k, "int32"), 0, size)
    kth = _kth_largest(magnitudes, k, _MAGNITUDE_BITS)
    above = magnitudes > kth
    ties = magnitudes == kth
    missing = k - _count(above)

    def first_ties():
        # The same search over positions, among the tied entries only: later positions get smaller keys.
        position = ops.where(ties, size - ops.arange(size, dtype="int32"), 0)
        bits = _MAGNITUDE_BITS if not isinstance(size, int) else max(size.bit_length(), 1)
        last = _kth_largest(position, missing, bits)
        return ops.logical_and(ties, position >= ops.maximum(last, 1))

    def all_ties():
        return ties

    none = ops.zeros_like(ties)
    chosen = ops.cond(missing < _count(ties), first_ties, all_ties)
    chosen = ops.where(missing > 0, chosen, none)
    return ops.reshape(ops.logical_or(above, chosen), shape)


def _kth_largest(keys, k, bits):
    """The largest T with at least `k` of the non-negative int32 `keys` >= T, built bit by bit."""

    def body(step, threshold):
        bit = ops.left_shift(ops.cast(1, "int32"), ops.cast(bits - 1 - step, "int32"))
        candidate = ops.bitwise_or(threshold, bit)
        return ops.where(_count(keys >= candidate) >= k, candidate, threshold)

    return ops.fori_loop(0, bits, body, ops.zeros((), "int32"))


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
