"""From scores to masks: which entries of a weight tensor live.

Pure functions on tensors, for any Keras backend, inside or outside a compiled step. Counts are exact, also with ties
and with all-equal scores.
"""

import fractions
import math

import keras
from keras import ops

# Bits of |x| for a float32 x: everything but the sign.
_MAGNITUDE_BITS = 31


def number_of_zeros(sparsity, size):
    """How many of `size` entries are zero at a sparsity: floor(sparsity * size), of the number as it is written.

    The decimal notation decides, not its binary approximation: 0.7 of 10 entries are 7, and 0.29 of 100 are 29, which
    the floating-point product would make 28.

    Args:
        sparsity: Fraction of zeros, in [0, 1].
        size: Number of entries.

    Returns:
        Integer.
    """
    return math.floor(fractions.Fraction(str(sparsity)) * size)


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
