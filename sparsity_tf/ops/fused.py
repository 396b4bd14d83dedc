"""Elementwise functions in few passes over memory, with a gradient of their own.

A training step that XLA does not compile as a whole makes one pass over the kernel for every operation, forwards and
backwards. A step that XLA does compile recomputes cheap values in the gradient. Both cost more than the arithmetic.
So the layers here state which tensors the gradient needs, and `fused` saves these tensors.
"""

from keras import ops

from sparsity_tf.backend import compiled_part, plain_tensors


def fused(forward, backward):
    """Makes a differentiable function from its forward and its backward pass.

    Each pass is compiled on its own (on TensorFlow, by XLA). Construct the function once, not once a call: the compiled
    code lives as long as the function.

    Args:
        forward: Function of the inputs (tensors). It returns the result (one tensor) and a tuple of tensors to save.
        backward: Function of the gradient with respect to the result, followed by the saved tensors. It returns a tuple
            of gradients, one for each input; `None` for an input without a gradient.

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
