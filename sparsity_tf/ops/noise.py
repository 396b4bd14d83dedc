"""Random numbers for the stochastic layers: counter based, seeded, resumable and fast.

`keras.random` lets TensorFlow choose the generator. On a CPU under XLA that choice is 30 to 50 times slower than the
explicit Philox generator, and Philox itself works in blocks of four that XLA computes anew for every element and every
use when it fuses them into their consumers. On TensorFlow the numbers here are therefore a hash of (seed, step,
position), `hashed_noise.py`: elementwise, so that it fuses, and about a millisecond a million uniform numbers. On the
other backends the generator of `keras.random` is already a fast one.

The state is a `keras.random.SeedGenerator`: a seed and a counter, which sparse layers save with their variables, so
that a resumed run draws the numbers that the uninterrupted run would have drawn.
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
    """As `uniform`, but every replica draws the same numbers: for what belongs to the model, not to an example.

    Args: those of `uniform`.

    Returns:
        Tensor of the given shape, U[0, 1).
    """
    if noise_is_hashed():
        return hashed_noise.uniform(shape, seed_generator.next(), dtype)
    return uniform(shape, seed_generator, dtype)


def uniform_source(shape, seed_generator, dtype="float32"):
    """What `uniform_from` needs, inside a compiled function, to return the numbers of `uniform`.

    Args:
        shape: Tuple of integers or scalar tensors (dynamic sizes).
        seed_generator: `keras.random.SeedGenerator`; its counter advances by one.
        dtype: "float32" or "float64".

    Returns:
        Tensor: the seed on TensorFlow, where drawing costs next to nothing in a pass over memory that is made anyway;
        elsewhere the numbers.
    """
    if noise_is_hashed():
        return hashed_noise.next_seed(seed_generator)
    return uniform(shape, seed_generator, dtype)


def uniform_from(source, shape, dtype="float32"):
    """The uniform numbers of `uniform_source(shape, ...)`."""
    return hashed_noise.uniform(shape, source, dtype) if noise_is_hashed() else source


def add_normal(mean, variance, seed_generator, epsilon=0.0, shared_axes=()):
    """Samples N(mean, variance + epsilon), elementwise: mean + sqrt(max(variance, 0) + epsilon) n.

    On TensorFlow this is one pass, also in a step that XLA does not compile as a whole, and its gradient a
    multiplication: a dozen passes otherwise, over outputs that in convolutions are larger than the kernels.

    Args:
        mean: Float tensor.
        variance: Tensor of the same shape, float32 or float64. Negative values (fast convolutions may round a zero to
            below it) count as 0.
        seed_generator: `keras.random.SeedGenerator`; its counter advances by one.
        epsilon: Float added to the variance; keeps the gradient of the root finite.
        shared_axes: Tuple of axes along which the same number n is used everywhere.

    Returns:
        Tensor of the shape and dtype of `mean`.
    """
    if noise_is_hashed():
        add = hashed_noise.fused_add_normal(epsilon, tuple(shared_axes))
        return add(mean, variance, hashed_noise.next_seed(seed_generator))
    shape = [1 if axis in shared_axes else size for axis, size in enumerate(ops.shape(mean))]
    deviation = ops.sqrt(ops.maximum(variance, 0) + epsilon)
    return mean + ops.cast(deviation * normal(shape, seed_generator, variance.dtype), mean.dtype)
