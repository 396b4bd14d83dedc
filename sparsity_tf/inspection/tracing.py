"""Which layers a model calls, and on which shapes: one symbolic call, recorded.

A layer does not know the shapes on which it runs, and a model that is subclassed, nested, or calls
a layer several times does not list its calls. So the model is called once on symbolic inputs of
batch size 1, as Keras itself does to infer shapes, while the `call` of every layer in it is
wrapped. No data flows, no variable changes, and the wraps are removed whatever happens.
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

    Calls inside a Python loop (`TimeDistributed` over a known number of steps) are recorded each.
    What runs inside a recurrent layer is not: its loop is traced a number of times that depends on
    the backend, so only the call of the recurrent layer itself is recorded.

    Args:
        model: a Keras model or layer. If it is not built, it is built with `input_shape`.
        input_shape: shape of the input without the batch dimension, e.g. `(224, 224, 3)`; a list or
            dict of shapes for a model of several inputs. `None`: the shape that the model was built
            with.

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
        # A backend may trace the function more than once; the last trace counts.
        calls.clear()
        return model(*args, **kwargs)

    with wrapped_calls(layers, _recorder(calls)):
        _Symbolic(run).compute_output_spec(*args, **kwargs)
    return calls


def _check_ranks(model, args, input_shape):
    """Refuses a shape that has other dimensions than the model's input: most often the batch's is among them."""
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
    """Calls a built model once for inference on inputs without data: Keras takes it for called, no variable changes.

    Args:
        model: a built Keras model whose input shapes are known, at least their ranks.

    Raises:
        ValueError: if they are not. Also whatever the model's own code raises.
    """
    args, kwargs = symbolic_inputs(model, sizes_known=False)
    _Symbolic(lambda *args, **kwargs: model(*args, **kwargs)).compute_output_spec(*args, **kwargs)


class _Symbolic(keras.Operation):
    """Gives Keras's shape inference, which runs every `call` below it, a plain function to run."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def call(self, *args, **kwargs):
        return self.function(*args, **kwargs)


@contextlib.contextmanager
def wrapped_calls(layers, wrap, method="call"):
    """Replaces the `call`, or another method, of layers, and puts it back whatever happens.

    Args:
        layers: list of Keras layers.
        wrap: function of (layer, its own bound method) that gives the function to run in its place.
        method: name of the method.
    """
    replaced = []
    try:
        for layer in layers:
            quantized = method == "call" and getattr(layer, "quantization_mode", None)
            name = "quantized_call" if quantized else method
            replaced.append((layer, name, layer.__dict__.get(name)))
            # Through __dict__: attributes set on a layer are tracked, and those of a built layer
            # may be locked.
            layer.__dict__[name] = wrap(layer, getattr(layer, name))
        yield
    finally:
        for layer, name, original in replaced:
            if original is None:
                layer.__dict__.pop(name, None)
            else:
                layer.__dict__[name] = original


def _recorder(calls):
    """What `wrapped_calls` takes: appends a `LayerCall` to `calls` for each call."""
    depth = [0]

    def wrap(layer, call):
        opaque = isinstance(layer, keras.layers.RNN)
        # `quantized_call` takes `*args`: the names of the arguments are those of `call`.
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
        except ValueError:  # a TensorFlow tensor of unknown rank
            return None

    # A tuple that stands for a shape must not be taken for a structure: map over tensors, not over
    # shapes.
    return keras.tree.map_structure(shape, structure)


def symbolic_inputs(model, input_shape=None, sizes_known=True):
    """Positional and keyword arguments for a symbolic call of batch size 1, `KerasTensor`s; see `trace_calls`.

    `sizes_known=False` lets the other sizes be `None`.
    """
    if input_shape is not None:
        dtypes = _input_dtypes(model)
        try:
            shapes = _map_shapes(lambda shape: (1,) + shape, input_shape)
        except RecursionError:
            shapes = _map_shapes(None, repr(input_shape))  # Refused by name.
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
        # One open size is the length of a text or another sequence. Other inputs are most often images.
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
    """Number of elements of a shape, or `None` when it is not a fully known single shape."""
    if not isinstance(shape, tuple) or any(not isinstance(size, int) for size in shape):
        return None
    return math.prod(shape)
