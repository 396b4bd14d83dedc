"""Gradients and compilation in tests, the same words on every Keras backend."""

import keras
import numpy as np
from keras import ops


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
    else:
        import jax

        def stateless(values):
            mapping = list(zip(variables, values, strict=True))
            with keras.StatelessScope(state_mapping=mapping):
                return fn()

        found = jax.grad(stateless)([v.value for v in variables])
    return [np.asarray(ops.convert_to_numpy(gradient), "float64") for gradient in found]


def compiled(fn):
    """`fn` compiled by XLA, for functions of tensors to tensors."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(fn, jit_compile=True)
    import jax

    return jax.jit(fn)
