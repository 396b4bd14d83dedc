"""Tensors, variables and compiled functions, where TensorFlow, JAX and torch differ."""

import contextlib
import functools

import keras
import numpy as np
from keras import ops


def backend_name():
    """The name of the Keras backend, for messages only. (Code that depends on the backend belongs in this package.)"""
    return keras.backend.backend()


def tensor_of(variable):
    """A variable's value as a tensor, outside any gradient. The tensor keeps its content when the variable changes.

    Args:
        variable: `keras.Variable`, or a tensor.

    Returns:
        Tensor. On torch, which writes variables in place, a copy; elsewhere the tensor shares the variable's memory.
    """
    value = getattr(variable, "value", variable)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # Without this conversion, numpy would make a TensorFlow variable copy itself.
        return tf.convert_to_tensor(value)
    if keras.backend.backend() == "torch":
        return value.detach().clone()
    return value


def plain_tensors(inputs):
    """The arguments for a function with a custom gradient: `tf.custom_gradient` takes tensors but no variables.

    Args:
        inputs: Sequence of tensors and variables.

    Returns:
        List of tensors on TensorFlow; elsewhere the inputs themselves.
    """
    if keras.backend.backend() != "tensorflow":
        return inputs
    import tensorflow as tf

    return [tf.convert_to_tensor(tensor) for tensor in inputs]


def as_array(tensor):
    """A tensor as a numpy array for reading only. There is no copy where the backend holds the tensor in main memory.

    Args:
        tensor: Tensor of the backend, or array. A later write into a torch tensor also changes the array.

    Returns:
        Numpy array. A bfloat16 tensor of torch becomes float32, because torch makes no bfloat16 array.
    """
    if keras.backend.backend() == "torch":
        import torch

        if torch.is_tensor(tensor):
            tensor = tensor.detach().cpu()
            return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return np.asarray(tensor)


def is_on_accelerator(tensor):
    """Whether a tensor lies on an accelerator, so that numpy would have to fetch it."""
    if keras.backend.backend() == "tensorflow":
        return "CPU" not in tensor.device
    if keras.backend.backend() == "jax":
        return any(device.platform != "cpu" for device in tensor.devices())
    if keras.backend.backend() == "torch":
        return tensor.device.type != "cpu"
    return False


def zero_outside(mask, tensor, foldable=False):
    """The tensor where the mask is True, and exactly zero elsewhere, also in the place of NaN and infinity.

    Args:
        mask: Bool tensor.
        tensor: Float tensor of the same shape.
        foldable: Whether LiteRT's converter shall compute the result once and store it, if both tensors are constants.
    """
    if keras.backend.backend() == "tensorflow" and not foldable:
        import tensorflow as tf

        # In code that XLA does not compile, `tf.where` takes half as long again.
        return tf.math.multiply_no_nan(tensor, tf.cast(mask, tensor.dtype))
    if keras.backend.backend() == "torch":
        # A clone keeps the tensor's order in memory. The last bit of a product depends on this order. (The orthogonal
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
    """The widest float type for sums over a data set. (By default JAX has no float64.)"""
    return "float64" if keras.backend.backend() == "tensorflow" else "float32"


def as_loss(loss):
    """A scalar in the type of Keras's own losses, `floatx`. On TensorFlow, Keras adds up losses of one type only.

    So a float64 layer trains with our penalties, though `floatx` is float32. (Keras's own regularizers fail there.)
    """
    return ops.cast(loss, keras.config.floatx())


def no_gradients():
    """A context for inference. In it torch does not record operations on variables for a gradient."""
    if keras.backend.backend() == "torch":
        import torch

        return torch.no_grad()
    return contextlib.nullcontext()


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


# Random numbers.


def noise_is_hashed():
    """Whether `ops/noise.py` computes random numbers as hashes: on TensorFlow, whose generators are slow on a CPU."""
    return keras.backend.backend() == "tensorflow"


def seed_of_draw(seed_generator):
    """The `seed` for one draw of `keras.random`; the generator's counter advances by one.

    Args:
        seed_generator: `keras.random.SeedGenerator`.

    Returns:
        The generator itself; on torch an integer. On torch Keras adds seed and counter. So a generator would repeat,
        one draw later, the numbers of the generator with the next seed; and layers have neighbouring seeds.
    """
    if keras.backend.backend() != "torch":
        return seed_generator
    state = seed_generator.next()
    if state.is_meta:  # While Keras infers shapes, tensors hold no numbers.
        return 0
    # 32 bits. Keras 3.12 refuses a number that is no int32. Keras 3.15 draws the same for the number and its int32.
    return int(np.random.SeedSequence(state.tolist()).generate_state(1).view("int32")[0])


# Compiled functions.


def compiled(function):
    """Compiles a function of tensors (by XLA) for each combination of shapes that it is called with.

    Construct the compiled function once, not once a call: the compiled code lives as long as the result.

    Args:
        function: Function of tensors.

    Returns:
        Function of the same arguments. On torch it is the given function, because `torch.compile` takes up to a minute.
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
        # One `tf.function` for each signature. A single one would warn of the many shapes of a model's layers.
        return of_signature(tuple((t.dtype, tuple(t.shape)) for t in tensors))(*tensors)

    return call


def compiled_part(function):
    """Compiles a part of a training step by itself on TensorFlow, where the step as a whole may not be compiled.

    Args:
        function: Function of tensors.

    Returns:
        Function of the same arguments. On TensorFlow it is the result of `compiled`; elsewhere the given function.
    """
    return compiled(function) if keras.backend.backend() == "tensorflow" else function


def compiled_inference(function):
    """Compiles, as a whole, a function of nested tensors that needs no gradient (by XLA, on TensorFlow and JAX).

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


# Writing many variables in place at once.


def can_write_in_place(variables):
    """Whether one compiled function may write these variables: on TensorFlow, outside `tf.distribute`.

    Args:
        variables: List of `keras.Variable`.
    """
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return not any(isinstance(variable.value, tf.distribute.DistributedValues) for variable in variables)


def constant(array):
    """Makes a numpy array a TensorFlow tensor, in a quarter of the time of `ops.convert_to_tensor`."""
    import tensorflow as tf

    return tf.constant(array)


def compiled_write(function, tensors):
    """Traces and compiles once a function that writes variables by `write_in_place`.

    Args:
        function: Function of tensors.
        tensors: List of example tensors.

    Returns:
        Function of tensors with the shapes and dtypes of the example.
    """
    import tensorflow as tf

    return tf.function(function, jit_compile=True, autograph=False).get_concrete_function(*tensors)


def write_in_place(variable, tensor):
    """Writes into a variable's own memory, inside a `compiled_write`. (`assign` would also read the value back.)"""
    variable.value.assign(tensor, read_value=False)
