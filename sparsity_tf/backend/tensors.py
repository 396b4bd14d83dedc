"""Tensors, variables and compiled functions: whatever differs between TensorFlow, JAX and torch."""

import contextlib
import functools

import keras
import numpy as np
from keras import ops


def backend_name():
    """The name of the backend that Keras runs on, for messages. (Ask no question with it: write a function here.)"""
    return keras.backend.backend()


def tensor_of(variable):
    """A variable's value as a tensor that keeps its content when the variable changes, outside any gradient.

    Args:
        variable: `keras.Variable`, or a tensor.

    Returns:
        Tensor. A copy on torch, which writes variables in place; elsewhere the variable's own memory.
    """
    value = getattr(variable, "value", variable)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # numpy would have a TensorFlow variable copy itself.
        return tf.convert_to_tensor(value)
    if keras.backend.backend() == "torch":
        return value.detach().clone()
    return value


def plain_tensors(inputs):
    """The arguments of a function with a gradient of its own: `tf.custom_gradient` takes tensors, but no variables.

    Args:
        inputs: Sequence of tensors and variables.

    Returns:
        List of tensors on TensorFlow; elsewhere the inputs.
    """
    if keras.backend.backend() != "tensorflow":
        return inputs
    import tensorflow as tf

    return [tf.convert_to_tensor(tensor) for tensor in inputs]


def as_array(tensor):
    """A tensor as a numpy array, to be read only: without a copy where the backend has it in memory.

    Args:
        tensor: Tensor of the backend, or array. A later write into a torch tensor shows in the array.

    Returns:
        Numpy array; float32 for bfloat16 on torch, of which torch makes no array.
    """
    if keras.backend.backend() == "torch":
        import torch

        if torch.is_tensor(tensor):
            tensor = tensor.detach().cpu()
            return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return np.asarray(tensor)


def is_on_accelerator(tensor):
    """Whether numpy would have to fetch a tensor from a device of its own."""
    if keras.backend.backend() == "tensorflow":
        return "CPU" not in tensor.device
    if keras.backend.backend() == "jax":
        return any(device.platform != "cpu" for device in tensor.devices())
    if keras.backend.backend() == "torch":
        return tensor.device.type != "cpu"
    return False


def zero_outside(mask, tensor, foldable=False):
    """The tensor where the mask is, exactly zero elsewhere, also in the place of what is not finite.

    Args:
        mask: Bool tensor.
        tensor: Float tensor of the same shape.
        foldable: Whether LiteRT's converter is to compute the result once, where both are constants, and store it.
    """
    if keras.backend.backend() == "tensorflow" and not foldable:
        import tensorflow as tf

        # Where XLA does not compile it, a selection takes half as long again.
        return tf.math.multiply_no_nan(tensor, tf.cast(mask, tensor.dtype))
    if keras.backend.backend() == "torch":
        # A clone keeps the order of the tensor in memory, on which the last bit of a product depends. (The orthogonal
        # initializer makes transposed kernels.)
        return tensor.clone().masked_fill_(~mask, 0)
    return ops.where(mask, tensor, ops.zeros((), tensor.dtype))


def float_bits(x):
    """The 32 bits of each float32 number in a tensor, as an int32 tensor."""
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


def sum_dtype():
    """The widest float in which sums over a data set can be taken: JAX has no float64 unless it is asked for."""
    return "float64" if keras.backend.backend() == "tensorflow" else "float32"


def no_gradients():
    """A context for inference: torch, which records every operation on a variable, records none."""
    if keras.backend.backend() == "torch":
        import torch

        return torch.no_grad()
    return contextlib.nullcontext()


# Random numbers.


def gradient(function, tensor):
    """The gradient of a function at a tensor.

    Args:
        function: Function of a tensor that returns a scalar tensor.
        tensor: Float tensor.

    Returns:
        Numpy array of the shape of the tensor.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(tensor)
            value = function(tensor)
        return np.asarray(tf.convert_to_tensor(tape.gradient(value, tensor)))
    if keras.backend.backend() == "jax":
        import jax

        return np.asarray(jax.grad(function)(tensor))
    import torch

    with torch.enable_grad():
        tensor = tensor.detach().clone().requires_grad_(True)
        return as_array(torch.autograd.grad(function(tensor), tensor)[0])


def noise_is_hashed():
    """Whether `ops/noise.py` computes its random numbers as hashes, since TensorFlow's generators are slow on a CPU."""
    return keras.backend.backend() == "tensorflow"


def seed_of_draw(seed_generator):
    """The `seed` for one draw of `keras.random`; the generator's counter advances by one.

    Args:
        seed_generator: `keras.random.SeedGenerator`.

    Returns:
        The generator itself; on torch an integer. There Keras adds seed and counter up: a generator would repeat the
        numbers of the one with the next seed, a draw later, and layers have neighbouring seeds.
    """
    if keras.backend.backend() != "torch":
        return seed_generator
    state = seed_generator.next()
    # Where only shapes are asked for, tensors hold nothing.
    return 0 if state.is_meta else int(np.random.SeedSequence(state.tolist()).generate_state(1)[0])


# Compiled functions.


def compiled(function):
    """A function of tensors, compiled (by XLA) for each combination of shapes that it is called with.

    Construct it once, not once a call: what is compiled lives as long as the result.

    Args:
        function: Function of tensors.

    Returns:
        Function of the same arguments; on torch the given one, since `torch.compile` takes up to a minute.
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


def compiled_part(function):
    """A part of a training step, compiled by itself where the step as a whole may not be: on TensorFlow.

    Args:
        function: Function of tensors.

    Returns:
        Function of the same arguments, as `compiled` makes it; on other backends the given function.
    """
    return compiled(function) if keras.backend.backend() == "tensorflow" else function


def compiled_inference(function):
    """A function of nested tensors that needs no gradient, compiled as a whole (by XLA, on TensorFlow and JAX).

    Args:
        function: Function of nested structures of tensors.

    Returns:
        Function of the same arguments.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(function, jit_compile=True, autograph=False)
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    return no_gradients()(function)


# Variables written in place, many at once.


def can_write_in_place(variables):
    """Whether one compiled function may write variables: on TensorFlow, outside `tf.distribute`.

    Args:
        variables: List of `keras.Variable`.
    """
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return not any(isinstance(variable.value, tf.distribute.DistributedValues) for variable in variables)


def constant(array):
    """A numpy array as a TensorFlow tensor, in a quarter of the time that `ops.convert_to_tensor` takes."""
    import tensorflow as tf

    return tf.constant(array)


def compiled_write(function, tensors):
    """A function that writes variables by `write_in_place`, traced and compiled once, for tensors of these shapes.

    Args:
        function: Function of tensors.
        tensors: List of tensors, an example.

    Returns:
        Function of such tensors.
    """
    import tensorflow as tf

    return tf.function(function, jit_compile=True, autograph=False).get_concrete_function(*tensors)


def write_in_place(variable, tensor):
    """Writes into a variable's own memory, in a `compiled_write`: `assign` would read the new value back, too."""
    variable.value.assign(tensor, read_value=False)
