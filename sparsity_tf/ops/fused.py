"""Elementwise functions in few passes over memory, with a gradient of their own.

A training step that XLA does not compile as a whole makes one pass over the kernel for every operation, forwards and
backwards; one that it does compile computes again in the gradient what it finds cheap. Both cost more than the
arithmetic, so that the layers here state what the gradient needs, and have it saved.
"""

from keras import ops

from sparsity_tf.backend import compiled_part, plain_tensors


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
    forward, backward = compiled_part(forward), compiled_part(backward)

    @ops.custom_gradient
    def function(*inputs):
        result, saved = forward(*inputs)

        def gradient(*args, upstream=None):
            gradients = backward(args[0] if upstream is None else upstream, *saved)
            return gradients if len(inputs) > 1 else gradients[0]

        return result, gradient

    return lambda *inputs: function(*plain_tensors(inputs))
