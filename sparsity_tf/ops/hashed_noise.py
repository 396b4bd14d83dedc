"""Random numbers as hashes of (seed, step, position): the source of `noise.py` on TensorFlow. `noise.py` says why."""

import functools

from sparsity_tf.ops.fused import fused


def next_seed(seed_generator):
    """The pair (seed, step). The seed depends on the replica: replicas see different examples and need other noise."""
    import tensorflow as tf

    seed = seed_generator.next()
    context = tf.distribute.get_replica_context()
    replica = 0 if context is None else context.replica_id_in_sync_group
    return seed + tf.cast(tf.stack([replica, 0]), seed.dtype) * 0x3779B97F


@functools.cache
def fused_add_normal(epsilon, shared_axes):
    """Returns `noise.add_normal` as a function of (mean, variance, seed): one pass over memory, and its gradient."""
    import tensorflow as tf

    def forward(mean, variance, seed):
        shape = [1 if axis in shared_axes else size for axis, size in enumerate(tf.unstack(tf.shape(mean)))]
        n = normal(shape, seed, variance.dtype)
        deviation = tf.sqrt(tf.maximum(variance, 0) + epsilon)
        slope = tf.where(variance >= 0, 0.5 * n / deviation, 0)
        return mean + tf.cast(deviation * n, mean.dtype), (slope,)

    def backward(upstream, slope):
        return upstream, tf.cast(upstream, slope.dtype) * slope, None

    return fused(forward, backward)


# The inverse of the normal distribution function is (u - 1/2) P(w) / Q(w) with w = -log(4 u (1 - u)). These are the
# coefficients of P and Q, the constant first. They are a minimax fit: the relative error is at most 7.5e-6 over all
# uniform numbers drawn here.
_P = (2.5066187, 0.84394697, 0.15127333, 0.0160685)
_Q = (1.0, 0.074778199, 0.028052526, 0.000420525)


def normal(shape, seed, dtype):
    """Normal numbers by inversion: one logarithm. The division comes last, so that XLA computes no number twice."""
    import tensorflow as tf

    # Move each of the 2^23 uniform numbers to the middle of its step. So the largest normal number is finite: 5.3.
    u = uniform(shape, seed, dtype) + 2.0**-24
    w = -tf.math.log(4.0 * u * (1.0 - u))
    return (u - 0.5) * _polynomial(_P, w) / _polynomial(_Q, w)


def _polynomial(coefficients, x):
    return functools.reduce(lambda value, coefficient: value * x + coefficient, reversed(coefficients))


def uniform(shape, seed, dtype):
    """Uniform numbers of 23 bits. Each is a hash of its position under two keys, which are made of seed and step."""
    import tensorflow as tf

    words = tf.bitcast(tf.cast(tf.bitwise.bitwise_and(seed, 0xFFFFFFFF), tf.uint32), tf.int32)
    # Both keys depend on seed and step. The first keys of two sequences may lie so close that their positions overlap.
    # Then the second keys still tell the sequences apart.
    first = _mix(_mix(words[0] + 0x3C6EF372) + words[1])
    second = _mix(first + 0x1B873593)
    positions = tf.range(tf.reduce_prod(tf.convert_to_tensor(shape, tf.int32)), dtype=tf.int32)
    bits = _mix(tf.bitwise.bitwise_xor(_mix(positions + first), second))
    # The bits of a float in [1, 2).
    one_to_two = tf.bitwise.bitwise_or(_shift_right(bits, 9), 0x3F800000)
    return tf.reshape(tf.cast(tf.bitcast(one_to_two, tf.float32) - 1.0, dtype), shape)


def _mix(x):
    """A bijection of 32-bit words. Every input bit changes every output bit (C. Wellons, "lowbias32", 2018)."""
    import tensorflow as tf

    x = tf.bitwise.bitwise_xor(x, _shift_right(x, 16)) * 0x7FEB352D
    x = tf.bitwise.bitwise_xor(x, _shift_right(x, 15)) * (0x846CA68B - (1 << 32))
    return tf.bitwise.bitwise_xor(x, _shift_right(x, 16))


def _shift_right(x, bits):
    """Logical shift of int32 words (TensorFlow multiplies int32 on every device, but not uint32)."""
    import tensorflow as tf

    shifted = tf.bitwise.right_shift(tf.bitcast(x, tf.uint32), tf.constant(bits, tf.uint32))
    return tf.bitcast(shifted, tf.int32)
