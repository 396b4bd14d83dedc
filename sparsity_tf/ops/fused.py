"""Elementwise functions in few passes over memory, with a gradient of their own.

A training step that XLA does not compile as a whole makes one pass over the kernel for every operation, forwards and
backwards; one that it does compile computes again in the gradient what it finds cheap. Both cost more than the
arithmetic, so that the layers here state what the gradient needs, and have it saved.
"""

import functools

import keras
from keras import ops


def fused(forward, backward):
    """A differentiable function of two functions of tensors, each compiled on its own (on TensorFlow, by XLA).

    Construct it once, not once a call: what is compiled lives as long as the result.

    Args:
        forward: Function of the inputs, tensors; returns the result, one tensor, and a tuple of tensors to save.
        backward: Function of the gradient with respect to the result, followed by the saved tensors; returns a tuple of
            gradients, one for each input, `None` for inputs without one.

    Returns:
        Function of the inputs; returns the result.
    """
    if keras.backend.backend() == "tensorflow":
        forward, backward = compiled(forward), compiled(backward)

    @ops.custom_gradient
    def function(*inputs):
        result, saved = forward(*inputs)

        def gradient(*args, upstream=None):
            gradients = backward(args[0] if upstream is None else upstream, *saved)
            return gradients if len(inputs) > 1 else gradients[0]

        return result, gradient

    return lambda *inputs: function(*_read(inputs))


def _read(inputs):
    """The inputs, with the values of variables (`tf.custom_gradient` takes only tensors)."""
    if keras.backend.backend() != "tensorflow":
        return inputs
    import tensorflow as tf

    return [tf.convert_to_tensor(tensor) for tensor in inputs]


def compiled(function):
    """A function of tensors, compiled (by XLA) for each combination of shapes that it is called with.

    Construct it once, not once a call: what is compiled lives as long as the result.
    """
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    if keras.backend.backend() != "tensorflow":
        return function

    @functools.cache
    def of_signature(signature):
        import tensorflow as tf

        return tf.function(function, jit_compile=True, autograph=False)

    def call(*tensors):
        # One `tf.function` for each signature: it would warn of the many shapes that a model's layers have.
        return of_signature(tuple((t.dtype, tuple(t.shape)) for t in tensors))(*tensors)

    return call
