"""The calls of a model as a graph that can be analysed and rebuilt: `read_graph`.

A functional model is a graph of calls of layers and `keras.ops`. `read_graph` lists the calls in order, makes an object
for every tensor between them, and replaces a nested model by its calls. It also opens layers that only call other
layers (a Transformer block, a subclassed model): their `call` runs once on symbolic tensors, so that Keras records it
as a graph.
"""

import inspect
from dataclasses import dataclass, field

import keras

from sparsity_tf.backend import calls_of, functional_inside, maker_of, own_variables, runs_by_graph, sublayers
from sparsity_tf.layers import flatten_layers


@dataclass(eq=False)
class Tensor:
    """A tensor that one call puts out and other calls read.

    A *channel* is an entry of the tensor's channel axis. This is the last axis, unless a layer with
    `data_format="channels_first"` or a permutation says otherwise.

    Args:
        shape: tuple, the batch first; `None` for unknown sizes.
        dtype: name of the dtype.
        axis: index of the channel axis. `None` if the channels can't be told apart: the tensor then counts as one
            channel.
    """

    shape: tuple
    dtype: str
    axis: int | None = None

    def set_axis(self, axis):
        """Sets the channel axis. It becomes `None` if there is no such axis or its size is unknown."""
        known = axis is not None and 0 < axis < len(self.shape) and self.shape[axis] is not None
        self.axis = axis if known else None

    @property
    def channels(self):
        """Number of channels."""
        return 1 if self.axis is None else self.shape[self.axis]

    @property
    def last_axis(self):
        """Index of the last axis."""
        return len(self.shape) - 1


@dataclass(eq=False)
class Call:
    """One call of a layer or of an operation of `keras.ops`.

    Args:
        operation: the layer or operation.
        arguments: `(args, kwargs)` of the call, each tensor replaced by a `Tensor`.
        outputs: list of `Tensor`.
        path: path of the layer in the model, e.g. `"encoder/dense_1"`.
        rule: the rule that says how the call treats channels, see `rules`.
    """

    operation: object
    arguments: tuple
    outputs: list
    path: str
    rule: object = None

    @property
    def read(self):
        """The tensors among the arguments, in order."""
        return _tensors_in(self.arguments)

    @property
    def inputs(self):
        """The tensors that the call reads, without the masks."""
        args, kwargs = self.arguments
        return _tensors_in((args, {name: x for name, x in kwargs.items() if name != "mask"}))

    @property
    def masks(self):
        """The tensors that say which time steps count: the masks that Keras passes on from `Masking` or `Embedding`."""
        return _tensors_in(self.arguments[1].get("mask"))

    @property
    def is_layer(self):
        """Whether this is a call of a layer, not of an operation of `keras.ops`."""
        return isinstance(self.operation, keras.layers.Layer)

    def run(self, operation, values):
        """Calls `operation` with this call's arguments.

        Args:
            operation: the call's own operation, or its replacement.
            values: dict or function, `Tensor` -> the value to put in its place.

        Returns:
            Flat list of outputs.
        """
        look_up = values if callable(values) else values.__getitem__
        args, kwargs = keras.tree.map_structure(lambda x: look_up(x) if isinstance(x, Tensor) else x, self.arguments)
        return keras.tree.flatten(operation(*args, **kwargs))


@dataclass
class Graph:
    """A model as a list of calls.

    Args:
        model: the functional or sequential model that was read, or the one made from a subclassed model.
        inputs: list of `(InputLayer, Tensor)`.
        calls: list of `Call`, each after the calls whose outputs it reads.
        outputs: list of `Tensor`.
    """

    model: object
    inputs: list
    calls: list
    outputs: list = field(default_factory=list)

    @property
    def tensors(self):
        """Every tensor: the inputs, then the outputs of the calls in order."""
        return [tensor for _, tensor in self.inputs] + [tensor for call in self.calls for tensor in call.outputs]

    def calls_of(self, operation):
        """The calls of one operation. A shared layer has several."""
        return [call for call in self.calls if call.operation is operation]

    @property
    def makes_masks(self):
        """Whether some layer marks time steps to be skipped (`Masking`, `Embedding(mask_zero=True)`)."""
        return any(_makes_masks(call.operation) for call in self.calls)

    def replace(self, old, new):
        """Makes every call that reads the tensor `old` read `new`."""
        for call in self.calls:
            if old in call.read:
                args, kwargs = call.arguments
                call.arguments = keras.tree.map_structure(lambda x: new if x is old else x, (args, kwargs))

    def drop_unread_calls(self):
        """Removes the calls whose outputs no other call and no output of the model needs.

        Returns:
            List of the removed calls.
        """
        wanted = set(self.outputs)
        live = []
        for call in reversed(self.calls):
            if wanted.intersection(call.outputs):
                live.append(call)
                wanted.update(call.read)
        dropped = [call for call in self.calls if call not in live]
        self.calls = live[::-1]
        return dropped


def read_graph(model):
    """Reads the graph of a model's calls.

    Args:
        model: a built Keras model. Give a copy: opening subclassed layers adds inbound nodes to the model's layers.

    Returns:
        A `Graph`, the channel axes of the inputs set.

    Raises:
        ValueError: the model is subclassed and its `call` does not run on symbolic tensors.
    """
    functional = _as_functional(model)
    channels_first = any(
        getattr(layer, "data_format", None) == "channels_first" for layer in flatten_layers(functional)
    )
    tensors, inputs, calls = {}, [], []
    for x in functional.inputs:
        tensor = _tensor(x)
        tensor.set_axis(1 if channels_first and len(x.shape) > 2 else tensor.last_axis)
        tensors[id(x)] = tensor
        inputs.append((maker_of(x)[0], tensor))
    may_open = not any(_makes_masks(layer) for layer in flatten_layers(functional))
    outputs = _read_calls(functional, tensors, calls, "", may_open)
    whole = model if isinstance(model, keras.Sequential) else functional
    return Graph(whole, inputs, calls, outputs)


def _as_functional(model):
    if runs_by_graph(model):
        return functional_inside(model)
    from sparsity_tf.inspection.tracing import symbolic_inputs

    try:
        args, kwargs = symbolic_inputs(model)
        args, kwargs = keras.tree.map_structure(
            lambda x: keras.Input(tuple(x.shape[1:]), dtype=x.dtype), (tuple(args), kwargs)
        )
        inputs = keras.tree.flatten((args, kwargs))
        return keras.Model(inputs[0] if len(inputs) == 1 else inputs, _call_symbolically(model, args, kwargs))
    except Exception as error:  # The model's own code runs here and may raise anything.
        raise ValueError(
            f"The subclassed model {model.name!r} can't be shrunk: its `call` does not run on symbolic tensors "
            f"({type(error).__name__}: {_first_line(error)}). Shrink the functional models inside it one by one."
        ) from error


def _read_calls(functional, tensors, calls, prefix, may_open):
    """Appends the calls of a functional model; returns the `Tensor`s of its outputs.

    `tensors` maps the id of a symbolic tensor of this model to its `Tensor`. A nested model that is called twice is
    read twice, with different tensors.
    """
    for node in calls_of(functional):
        operation = node.operation
        if node.is_input or any(id(x) not in tensors for x in node.arguments.keras_tensors):
            continue
        arguments = keras.tree.map_structure(
            lambda x: tensors.get(id(x), x), (node.arguments.args, node.arguments.kwargs)
        )
        path = prefix + operation.name
        inner = _inner_graph(operation, node.arguments, arguments, may_open)
        if inner is None:
            outputs = [_tensor(x) for x in node.outputs]
            calls.append(Call(operation, arguments, outputs, path))
        else:
            read = [tensors[id(x)] for x in node.arguments.keras_tensors]
            inside = {id(x): tensor for x, tensor in zip(inner.inputs, read, strict=True)}
            outputs = _read_calls(inner, inside, calls, path + "/", may_open)
        tensors.update({id(x): tensor for x, tensor in zip(node.outputs, outputs, strict=True)})
    return [tensors[id(x)] for x in functional.outputs]


def _inner_graph(operation, symbolic, arguments, may_open):
    """A functional model that computes the same as a nested model or a composite layer, or `None`."""
    if runs_by_graph(operation):
        inner = functional_inside(operation)
        return inner if len(inner.inputs) == len(symbolic.keras_tensors) else None
    if not (may_open and _only_calls_layers(operation)):
        return None
    inputs = []

    def placeholder(x):
        if not isinstance(x, Tensor):
            return x
        inputs.append(keras.Input(batch_shape=x.shape, dtype=x.dtype))
        return inputs[-1]

    args, kwargs = keras.tree.map_structure(placeholder, arguments)
    try:
        return keras.Model(inputs, _call_symbolically(operation, args, kwargs))
    except Exception:  # The layer's own code failed, so the layer stays closed.
        return None


def _only_calls_layers(operation):
    """Whether a layer of the user has no weights of its own. It can then be replaced by the layers that it calls."""
    if not isinstance(operation, keras.layers.Layer) or not sublayers(operation):
        return False
    # A subclass of e.g. `MultiHeadAttention` or `RNN` does more than call its sublayers one after the other.
    base = next(cls for cls in type(operation).__mro__ if cls.__module__.partition(".")[0] == "keras")
    takes_mask = "mask" in inspect.signature(operation.call).parameters
    return (
        base in (keras.layers.Layer, keras.Model)
        and base is not type(operation)
        and not own_variables(operation)
        and not takes_mask
    )


def _call_symbolically(layer, args, kwargs):
    kwargs = dict(kwargs)
    if "training" in inspect.signature(layer.call).parameters:
        kwargs["training"] = False
    outputs = layer.call(*args, **kwargs)
    if not all(isinstance(x, keras.KerasTensor) for x in keras.tree.flatten(outputs)):
        raise TypeError("an output is no tensor")
    return outputs


def _tensors_in(structure):
    return [x for x in keras.tree.flatten(structure) if isinstance(x, Tensor)]


def _makes_masks(operation):
    return isinstance(operation, keras.layers.Masking) or getattr(operation, "mask_zero", False)


def _tensor(x):
    return Tensor(tuple(x.shape), keras.backend.standardize_dtype(x.dtype))


def _first_line(error):
    return (str(error).strip().splitlines() or [""])[0]
