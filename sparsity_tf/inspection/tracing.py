"""Finds the layers that a model calls, and the shapes of their inputs, from one recorded symbolic call.

A layer does not know the shapes on which it runs, and a model that is subclassed, nested, or calls a layer several
times does not list its calls. So this module wraps the `call` of every layer and then calls the model once on symbolic
inputs of batch size 1, as Keras itself does to infer shapes. No data flows and no variable changes. The wraps are
removed also after an error.
"""

import contextlib
import functools
import inspect
import math
from collections import namedtuple

import keras

from sparsity_tf.layers import flatten_layers

LayerCall = namedtuple("LayerCall", ["layer", "arguments", "input_shape", "output_shape"])
LayerCall.__doc__ = """One call of one layer.

Args:
    layer: the layer called.
    arguments: dict, name of the call argument -> its shape (a tuple) for a tensor, the argument
        itself otherwise.
    input_shape: shape(s) of the first call argument, batch of 1 included.
    output_shape: shape(s) of the result.
"""


def trace_calls(model, input_shape=None):
    """Records the calls of all layers during one symbolic inference call of `model`.

    Calls inside a Python loop (`TimeDistributed` over a known number of steps) are all recorded. Calls inside a
    recurrent layer are not: the backend decides how often it traces the loop. So only the call of the recurrent layer
    itself is recorded.

    Args:
        model: a Keras model or layer. If it is not built, it is built with `input_shape`.
        input_shape: shape of the input without the batch dimension, e.g. `(224, 224, 3)`; a list or dict of shapes for
            a model with several inputs. `None`: the shape with which the model was built.

    Returns:
        List of `LayerCall` in order of call.

    Raises:
        ValueError: if the input shape is neither given nor known, or has unknown dimensions.
    """
    layers = flatten_layers(model)
    args, kwargs = symbolic_inputs(model, input_shape)
    _check_ranks(model, args, input_shape)
    if not model.built:
        model(*args, **kwargs)
        layers = flatten_layers(model)
    calls = []

    def run(*args, **kwargs):
        # A backend may trace the function more than once. Only the last trace counts.
        calls.clear()
        return model(*args, **kwargs)

    with wrapped_calls(layers, _recorder(calls)):
        _Symbolic(run).compute_output_spec(*args, **kwargs)
    return calls


def _check_ranks(model, args, input_shape):
    """Refuses a shape whose rank differs from the model's input. Most often the shape wrongly includes the batch."""
    known = _functional_inputs(model)
    if input_shape is None or known is None:
        return
    pairs = zip(keras.tree.flatten(known), keras.tree.flatten(args), strict=False)
    if any(len(one.shape) != len(other.shape) for one, other in pairs):
        shapes = [tuple(one.shape[1:]) for one in keras.tree.flatten(known)]
        raise ValueError(
            "`input_shape` must have the dimensions of the model's input without the batch's: "
            f"{shapes[0] if len(shapes) == 1 else shapes}. Received: input_shape={input_shape!r}"
        )


def call_symbolically(model):
    """Calls a built model once for inference on inputs without data. Keras then treats the model as called.

    No variable changes.

    Args:
        model: a built Keras model whose input shapes are known, at least their ranks.

    Raises:
        ValueError: if the input shapes are not known. The model's own code may raise other errors.
    """
    args, kwargs = symbolic_inputs(model, sizes_known=False)
    _Symbolic(lambda *args, **kwargs: model(*args, **kwargs)).compute_output_spec(*args, **kwargs)


class _Symbolic(keras.Operation):
    """Lets Keras's shape inference, which runs every `call` inside, run a plain function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def call(self, *args, **kwargs):
        return self.function(*args, **kwargs)


@contextlib.contextmanager
def wrapped_calls(layers, wrap, method="call"):
    """A context that replaces the `call`, or another method, of layers. It is restored also after an error.

    Args:
        layers: list of Keras layers.
        wrap: function of (layer, its own bound method) that returns the replacement for the method.
        method: name of the method.
    """
    replaced = []
    try:
        for layer in layers:
            quantized = method == "call" and getattr(layer, "quantization_mode", None)
            name = "quantized_call" if quantized else method
            replaced.append((layer, name, layer.__dict__.get(name)))
            # Written through `__dict__`: Keras tracks attributes that are set on a layer, and may lock them when it is
            # built.
            layer.__dict__[name] = wrap(layer, getattr(layer, name))
        yield
    finally:
        for layer, name, original in replaced:
            if original is None:
                layer.__dict__.pop(name, None)
            else:
                layer.__dict__[name] = original


def _recorder(calls):
    """Makes a function for `wrapped_calls` that appends a `LayerCall` to `calls` for each call."""
    depth = [0]

    def wrap(layer, call):
        opaque = isinstance(layer, keras.layers.RNN)
        # `quantized_call` takes `*args`, so the argument names come from `call`.
        signature = inspect.signature(layer.call)

        @functools.wraps(call)
        def recorder(*args, **kwargs):
            inside = depth[0] > 0
            depth[0] += opaque
            try:
                outputs = call(*args, **kwargs)
            finally:
                depth[0] -= opaque
            if not inside:
                arguments = {k: _shapes(v) for k, v in signature.bind(*args, **kwargs).arguments.items()}
                first = next(iter(arguments.values()), None)
                calls.append(LayerCall(layer, arguments, first, _shapes(outputs)))
            return outputs

        return recorder

    return wrap


def _shapes(structure):
    def shape(x):
        if not hasattr(x, "shape"):
            return x
        try:
            return tuple(x.shape)
        except ValueError:  # A TensorFlow tensor has an unknown rank.
            return None

    # Maps over tensors and not over shapes: a shape is a tuple, which would be taken for a structure.
    return keras.tree.map_structure(shape, structure)


def symbolic_inputs(model, input_shape=None, sizes_known=True):
    """Positional and keyword arguments (`KerasTensor`s) for a symbolic call of batch size 1; see `trace_calls`.

    `sizes_known=False` allows all other sizes to be `None`.
    """
    if input_shape is not None:
        dtypes = _input_dtypes(model)
        try:
            shapes = _map_shapes(lambda shape: (1,) + shape, input_shape)
        except RecursionError:
            shapes = _map_shapes(None, repr(input_shape))  # This refuses the shape with a message.
        return (_symbolic(shapes, dtypes, input_shape, sizes_known),), {}
    known = _functional_inputs(model)
    if known is not None:
        tensors = keras.tree.map_structure(lambda x: _tensor((1,) + tuple(x.shape[1:]), x.dtype, sizes_known), known)
        return (tensors,), {}
    config = model.get_build_config() if model.built else None
    if config and config.get("input_shape") is not None:
        shapes = _map_shapes(lambda shape: (1,) + shape[1:], config["input_shape"])
        return (_symbolic(shapes, None, config["input_shape"], sizes_known),), {}
    if config and config.get("shapes_dict"):
        arguments = {
            name.removesuffix("_shape"): _map_shapes(lambda shape: (1,) + shape[1:], shape)
            for name, shape in config["shapes_dict"].items()
            if shape is not None
        }
        return (), {name: _symbolic(shape, None, shape, sizes_known) for name, shape in arguments.items()}
    raise ValueError(
        "`input_shape` must be given for a model that does not know the shape of its inputs, as a "
        "tuple without the batch dimension, e.g. (224, 224, 3). "
        f"Received: input_shape=None with model={model.name!r}"
    )


def _functional_inputs(model):
    """Symbolic inputs of a functional or built sequential model, else `None`."""
    if isinstance(model, keras.Sequential):
        return model.inputs[0] if model.built else None
    if isinstance(model, keras.Model) and getattr(model, "inputs", None):
        return model.input
    return None


def _input_dtypes(model):
    inputs = _functional_inputs(model)
    return None if inputs is None else [x.dtype for x in keras.tree.flatten(inputs)]


def _symbolic(shapes, dtypes, received, sizes_known):
    dtypes = iter(dtypes or [])
    try:
        return _map_shapes(lambda shape: _tensor(shape, next(dtypes, None), sizes_known), shapes)
    except TypeError as error:
        raise ValueError(
            "`input_shape` must be a tuple of positive integers, or a list or dict of such tuples. "
            f"Received: input_shape={received!r}"
        ) from error


def _tensor(shape, dtype, sizes_known):
    if any(not isinstance(size, int) or size < 1 for size in shape if sizes_known or size is not None):
        # One unknown size is the length of a text or another sequence. All other inputs are most often images.
        sequence = shape.count(None) == 1 and len(shape) <= 3
        example = tuple(128 if size is None else size for size in shape[1:]) if sequence else (224, 224, 3)
        raise ValueError(
            "`input_shape` must say every dimension but the batch's, as positive integers, "
            f"e.g. input_shape={example}{' for sequences of length 128' if sequence else ''}. "
            f"Received, or known from the model, with a batch of 1: {tuple(shape)}"
        )
    return keras.KerasTensor(tuple(shape), dtype=dtype or keras.config.floatx())


def _map_shapes(function, shapes):
    """Maps over a shape, or over a list, tuple or dict of shapes."""
    if isinstance(shapes, dict) and shapes:
        return {key: _map_shapes(function, value) for key, value in shapes.items()}
    if isinstance(shapes, (list, tuple)):
        if all(size is None or isinstance(size, int) for size in shapes):
            return function(tuple(shapes))
        return [_map_shapes(function, shape) for shape in shapes]
    raise ValueError(
        f"`input_shape` must be a tuple of positive integers, or a list or dict of such tuples. Received: {shapes!r}"
    )


def size_of(shape):
    """Number of elements of a shape, or `None` if it is not one fully known shape."""
    if not isinstance(shape, tuple) or any(not isinstance(size, int) for size in shape):
        return None
    return math.prod(shape)
