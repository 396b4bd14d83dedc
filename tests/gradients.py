"""Gradients and compilation in tests, the same words on every Keras backend."""

import keras
import numpy as np
from keras import ops

from tests import compiled_parts


def gradients(fn, variables):
    """Gradients of the scalar `fn()` with respect to `variables`, as a list of float64 numpy arrays.

    Args:
        fn: Function without arguments that reads the variables. What it assigns (noise counters)
            may or may not last, as the backend has it.
        variables: List of `keras.Variable`.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            value = fn()
        found = tape.gradient(value, [v.value for v in variables], unconnected_gradients="zero")
        found = [tf.convert_to_tensor(gradient) for gradient in found]
    elif keras.backend.backend() == "torch":
        import torch

        values = [v.value for v in variables]
        found = torch.autograd.grad(fn(), values, allow_unused=True)
        found = [torch.zeros_like(v) if g is None else g for v, g in zip(values, found, strict=True)]
    else:
        import jax

        def stateless(values):
            mapping = list(zip(variables, values, strict=True))
            with keras.StatelessScope(state_mapping=mapping):
                return fn()

        found = jax.grad(stateless)([v.value for v in variables])
    return [np.asarray(ops.convert_to_numpy(gradient), "float64") for gradient in found]


def weighted_sum(tensor, upstream):
    """The sum of a tensor's entries times `upstream`, which is the gradient with respect to the tensor.

    Args:
        tensor: Tensor.
        upstream: Array that broadcasts against it. (torch would multiply a tensor by an array in numpy.)
    """
    return ops.sum(tensor * ops.cast(upstream, tensor.dtype))


def compiled(fn):
    """`fn` compiled by XLA, for functions of tensors to tensors; `fn` itself on torch, which has no XLA."""
    if keras.backend.backend() == "torch":
        return fn
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        function = tf.function(fn, jit_compile=True)
        return lambda *args: compiled_parts.run_compiled(function, *args)
    import jax

    return jax.jit(fn)
