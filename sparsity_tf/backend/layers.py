"""Layers and the graphs of their calls: what Keras has no public name for.

A private name of Keras may vanish in any release. `tests/test_backend.py` names all of them and fails when one does.
"""

import contextlib
import inspect

import keras
from keras.src.backend import get_stateless_scope
from keras.src.layers.rnn import conv_lstm
from keras.src.models.functional import Functional

# The cell of `keras.layers.ConvLSTM2D` and its likes, for which Keras has no public name.
ConvLSTMCell = conv_lstm.ConvLSTMCell


class LayerHooks:
    """Moments of a layer's life at which Keras calls a private method: a mixin, placed before the Keras layer.

    A subclass defines what happens in the methods that are named here first.
    """

    def _own_losses(self, losses):
        """The losses of a forward pass that belong to this layer, given those that Keras counts; a list."""
        return losses

    def _forget_own_losses(self):
        """Called when Keras forgets the losses of the last forward pass."""

    def _check_quantization(self, mode):
        """Called before the layer is quantized; raises if it can't be."""

    def _check_export(self):
        """Called before the layer is exported by TensorFlow, whatever the format; raises if it can't be."""

    def _get_own_losses(self):
        return self._own_losses(super()._get_own_losses())

    def _clear_losses(self):
        super()._clear_losses()
        self._forget_own_losses()

    # Not `quantize`: Keras binds that to the instance, so a layer whose class was swapped still has the plain one.
    def _check_quantize_args(self, mode, compute_dtype):
        self._check_quantization(mode)
        super()._check_quantize_args(mode, compute_dtype)

    def _trackable_children(self, save_type="checkpoint", **kwargs):
        # TensorFlow lists the parts of all that is exported: the one place through which every format goes.
        if save_type == "savedmodel":
            self._check_export()
        return super()._trackable_children(save_type, **kwargs)


class MomentsHook:
    """A mixin, placed before `keras.layers.BatchNormalization`, whose subclass computes mean and variance itself."""

    def _own_moments(self, inputs, mask):
        """Mean and variance of a batch by channel, two tensors; here those of the Keras layer."""
        return super()._moments(inputs, mask)

    def _moments(self, inputs, mask):
        return self._own_moments(inputs, mask)


def axes_of_moments(layer):
    """The axes over which a batch normalisation takes mean and variance, a list."""
    return layer._reduction_axes


# Variables and sublayers.


def own_variables(layer):
    """The variables that belong to a layer itself, not to layers below it: the trainable ones first; a new list."""
    return _not_below(layer, [*layer._trainable_variables, *layer._non_trainable_variables])


def own_trainable_variables(layer):
    """The variables of a layer itself that were made trainable, whether or not the layer is frozen; a new list."""
    return _not_below(layer, list(layer._trainable_variables))


def _not_below(layer, variables):
    """Leaves out the variables of sublayers: `SpectralNormalization` has the kernel of its layer as an attribute."""
    if not (variables and layer._layers):
        return variables
    below = {id(variable) for sublayer in layer._layers for variable in sublayer.variables}
    return [variable for variable in variables if id(variable) not in below]


def stored_variable(layer, name):
    """The variable behind a weight.

    Args:
        layer: Built Keras layer.
        name: Name of the weight, "kernel".

    Returns:
        `keras.Variable`. Keras layers keep it under `_kernel` where `kernel` is a property that may add LoRA or
        quantisation.
    """
    private = getattr(layer, f"_{name}", None)
    return getattr(layer, name) if private is None else private


def set_autocast(variable, casts):
    """Says whether layers read a variable in their compute dtype (Keras's default) or in its own."""
    variable._autocast = casts


def sublayers(layer):
    """The layers that are attributes of a layer, in the order of their creation; Keras's own list."""
    return layer._layers


def sublayers_below(layer):
    """All layers below a layer, in Keras's order: files name them by their position in this list."""
    return layer._flatten_layers(include_self=False)


# Changing what a layer is, after it was made.


@contextlib.contextmanager
def unlocked(layer):
    """A context in which a built layer takes new variables and sublayers."""
    layer._tracker.unlock()
    try:
        yield
    finally:
        layer._tracker.lock()


def untrack(layer, value):
    """Takes a sublayer or seed generator off the lists that a layer keeps; the attribute stays."""
    layer._tracker.untrack(value)


def delete_attribute(layer, name):
    """`delattr` without the collection of all garbage that Keras adds for a variable: most of a large model's time."""
    variable = getattr(layer, name)
    if isinstance(variable, keras.Variable):
        layer._untrack_variable(variable)
        super(keras.layers.Layer, layer).__delattr__(name)
    else:
        delattr(layer, name)


def refresh_call_signature(layer):
    """To be called when the class of a layer was changed: Keras read the signature of its `call` at its creation."""
    layer._call_signature = inspect.signature(layer.call)
    layer.call_signature_parameters = list(layer._call_signature.parameters)
    layer._call_has_training_arg = "training" in layer.call_signature_parameters
    layer._call_has_context_arg = {name: name in layer.call_signature_parameters for name in layer._call_context_args}


# The call that runs.


def forward_pass():
    """An object that is the same throughout one forward pass of a model, and another in the next one.

    All of Keras's calls without side effects have a scope. (`keras.StatelessScope` is public; asking for the one that
    is open is not.) Outside of them layers keep their losses until the next call.
    """
    scope = get_stateless_scope()
    return "layers keep their losses" if scope is None else vars(scope).setdefault("sparsity_tf_pass", object())


def model_of_call(layer):
    """The model whose training step calls a layer.

    Args:
        layer: Keras layer, while it is called.

    Returns:
        The outermost layer of the call that runs. On JAX a training step calls `Model.stateless_call`, which Keras does
        not note down, so there it is the outermost model on Python's stack that runs this method.
    """
    found = layer._get_call_context().entry_layer
    frame = inspect.currentframe() if keras.backend.backend() == "jax" else None
    while frame is not None:
        if frame.f_code.co_name == "stateless_call":
            found = frame.f_locals.get("self", found)
        frame = frame.f_back
    return found


def is_training_call(layer):
    """Whether the outermost call that runs is one of training, for code of a layer that is not told."""
    training = bool(getattr(layer._get_call_context(), "training", None))
    layer._maybe_reset_call_context()
    return training


def set_mask(outputs, mask):
    """Gives a tensor the mask of its time steps, which the next layer reads: for a layer without `compute_mask`."""
    outputs._keras_mask = mask


def causal_padding(layer):
    """The widths by which a one-dimensional convolution with `padding="causal"` pads its inputs, for `ops.pad`."""
    return layer._compute_causal_padding()


# The graph that Keras draws of calls on symbolic tensors.


def runs_by_graph(model):
    """Whether the calls of a model are known: it is functional or sequential, and runs by its graph alone."""
    if isinstance(model, keras.Sequential):
        return type(model).call is keras.Sequential.call and getattr(model, "_functional", None) is not None
    return isinstance(model, Functional) and type(model).call is Functional.call


def functional_inside(model):
    """The functional model that a built sequential one consists of; a functional model itself."""
    return model._functional if isinstance(model, keras.Sequential) else model


def calls_of(functional):
    """The calls in a functional model, each after the calls whose outputs it reads: a list of Keras's nodes.

    A node has the attributes `operation`, `arguments` (`args`, `kwargs`, `keras_tensors`), `outputs` and `is_input`.
    """
    nodes = functional._nodes_by_depth
    return [node for depth in sorted(nodes, reverse=True) for node in nodes[depth]]


def maker_of(tensor):
    """The call that made a symbolic tensor: `(operation, number of the call among the operation's calls)`."""
    operation, number, _ = tensor._keras_history
    return operation, number


def tensors_read(operation, number):
    """The symbolic tensors that call `number` of an operation reads, a list; empty for an `InputLayer`."""
    return operation._inbound_nodes[number].input_tensors


def forget_calls(operation):
    """Drops an operation's place in every graph. The nodes hold the graph, and with it all its weights, in memory."""
    operation._inbound_nodes.clear()
    operation._outbound_nodes.clear()


def is_keras_operation(operation):
    """Whether an operation of a graph is one of `keras.ops`: no layer, and none of the user's own."""
    return type(operation).__module__.startswith("keras.src.ops")
