"""Questions whose answer depends on the Keras backend that runs: one function a question."""

import contextlib
import sys

import keras
import numpy as np


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


def no_gradients():
    """A context for inference: torch, which records every operation on a variable, records none."""
    if keras.backend.backend() == "torch":
        import torch

        return torch.no_grad()
    return contextlib.nullcontext()


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


def optimizer_update(optimizer):
    """Where a Keras optimizer receives the gradients of a step, once they are summed, accumulated and clipped.

    Args:
        optimizer: Keras optimizer, without a `LossScaleOptimizer` around it.

    Returns:
        Name of the method, and whether it takes lists (all gradients at once) rather than one gradient a call. Its
        arguments are the gradients, the variables and the learning rate.
    """
    # On torch Keras's optimizers update all variables together and never call `update_step`.
    batched = keras.backend.backend() == "torch"
    return ("_backend_update_step" if batched else "update_step"), batched


def model_of_call(layer):
    """The model whose training step calls a layer.

    Args:
        layer: Keras layer, while it is called.

    Returns:
        The outermost layer of the call that runs. On JAX a training step calls `Model.stateless_call`, which Keras does
        not note down, so there it is the outermost model on Python's stack that runs this method.
    """
    found = layer._get_call_context().entry_layer
    frame = sys._getframe(1) if keras.backend.backend() == "jax" else None
    while frame is not None:
        if frame.f_code.co_name == "stateless_call":
            found = frame.f_locals.get("self", found)
        frame = frame.f_back
    return found
