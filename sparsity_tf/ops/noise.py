"""Random numbers for the stochastic layers: counter based, seeded, resumable and fast.

`keras.random` lets TensorFlow choose the generator. On a CPU under XLA this generator is 30 to 50 times slower than the
explicit Philox generator. Philox itself works in blocks of four. When XLA fuses a block into the operations that use
the numbers, it computes the block anew for every element and every use. On TensorFlow each number here is therefore a
hash of (seed, step, position), see `hashed_noise.py`. The hash is elementwise, so XLA can fuse it, and a million
uniform numbers take about a millisecond. On the other backends the generator of `keras.random` is already fast.

The state is a `keras.random.SeedGenerator`: a seed and a counter. Sparse layers save it with their variables, so that
a resumed run draws the same numbers as an uninterrupted run.
"""

import keras
from keras import ops

from sparsity_tf.backend import noise_is_hashed, seed_of_draw
from sparsity_tf.ops import hashed_noise


def normal(shape, seed_generator, dtype="float32"):
    """Draws independent standard normal numbers.

    Args:
        shape: Tuple of integers or scalar tensors (dynamic sizes).
        seed_generator: `keras.random.SeedGenerator`; its counter advances by one.
        dtype: "float32" or "float64".

    Returns:
        Tensor of the given shape, N(0, 1).
    """
    if noise_is_hashed():
        return hashed_noise.normal(shape, hashed_noise.next_seed(seed_generator), dtype)
    return keras.random.normal(shape, dtype=dtype, seed=seed_of_draw(seed_generator))


def uniform(shape, seed_generator, dtype="float32"):
    """Draws independent numbers, uniform on [0, 1).

    Args:
        shape: Tuple of integers or scalar tensors (dynamic sizes).
        seed_generator: `keras.random.SeedGenerator`; its counter advances by one.
        dtype: "float32" or "float64".

    Returns:
        Tensor of the given shape, U[0, 1).
    """
    if noise_is_hashed():
        return hashed_noise.uniform(shape, hashed_noise.next_seed(seed_generator), dtype)
    return keras.random.uniform(shape, dtype=dtype, seed=seed_of_draw(seed_generator))


def uniform_of_model(shape, seed_generator, dtype="float32"):
    """Draws as `uniform` does, but the same numbers on every replica: for noise on the model, not on the examples.

    Args:
        shape: Tuple of integers or scalar tensors (dynamic sizes).
        seed_generator: `keras.random.SeedGenerator`; its counter advances by one.
        dtype: "float32" or "float64".

    Returns:
        Tensor of the given shape, U[0, 1).
    """
    if noise_is_hashed():
        return hashed_noise.uniform(shape, seed_generator.next(), dtype)
    return uniform(shape, seed_generator, dtype)


def normal_of_model(shape, seed_generator, dtype="float32"):
    """Draws as `normal` does, but the same numbers on every replica, as `uniform_of_model`.

    Args:
        shape: Tuple of integers or scalar tensors (dynamic sizes).
        seed_generator: `keras.random.SeedGenerator`; its counter advances by one.
        dtype: "float32" or "float64".

    Returns:
        Tensor of the given shape, N(0, 1).
    """
    if noise_is_hashed():
        return hashed_noise.normal(shape, seed_generator.next(), dtype)
    return normal(shape, seed_generator, dtype)


def uniform_source(shape, seed_generator, dtype="float32"):
    """Prepares a draw: `uniform_from` turns the result, inside a compiled function, into the numbers of `uniform`.

    Args:
        shape: Tuple of integers or scalar tensors (dynamic sizes).
        seed_generator: `keras.random.SeedGenerator`; its counter advances by one.
        dtype: "float32" or "float64".

    Returns:
        Tensor: the seed on TensorFlow, where the compiled function draws the numbers in a pass over memory that it
        makes anyway, at next to no cost; elsewhere the numbers themselves.
    """
    if noise_is_hashed():
        return hashed_noise.next_seed(seed_generator)
    return uniform(shape, seed_generator, dtype)


def uniform_from(source, shape, dtype="float32"):
    """The uniform numbers of `uniform_source(shape, ...)`."""
    return hashed_noise.uniform(shape, source, dtype) if noise_is_hashed() else source


def add_normal(mean, variance, seed_generator, epsilon=0.0, shared_axes=(), of_model=False):
    """Samples N(mean, variance + epsilon), elementwise: mean + sqrt(max(variance, 0) + epsilon) n.

    On TensorFlow this is one pass over memory, also in a step that XLA does not compile as a whole. Its gradient is one
    multiplication. Separate operations would take a dozen passes over the outputs, which in convolutions are larger
    than the kernels.

    Args:
        mean: Float tensor.
        variance: Tensor of the same shape, float32 or float64. A negative value counts as 0. (The rounding of fast
            convolutions may make a zero slightly negative.)
        seed_generator: `keras.random.SeedGenerator`; its counter advances by one.
        epsilon: Float added to the variance. It keeps the gradient of the square root finite.
        shared_axes: Tuple of axes along which the same number n is used everywhere.
        of_model: Whether every replica draws the same numbers: for noise on the model, not on the examples.

    Returns:
        Tensor of the shape and dtype of `mean`.
    """
    if noise_is_hashed():
        add = hashed_noise.fused_add_normal(epsilon, tuple(shared_axes))
        return add(mean, variance, seed_generator.next() if of_model else hashed_noise.next_seed(seed_generator))
    shape = [1 if axis in shared_axes else size for axis, size in enumerate(ops.shape(mean))]
    deviation = ops.sqrt(ops.maximum(variance, 0) + epsilon)
    return mean + ops.cast(deviation * normal(shape, seed_generator, variance.dtype), mean.dtype)
