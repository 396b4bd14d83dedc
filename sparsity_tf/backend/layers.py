"""Layers and the graphs of their calls: functions for which Keras has no public name.

A private name of Keras may vanish in any release. `tests/test_backend.py` lists the private names and fails when one
vanishes.
"""

import contextlib
import functools
import inspect

import keras
from keras import ops
from keras.src.backend import get_stateless_scope
from keras.src.layers.rnn import conv_lstm
from keras.src.models.functional import Functional

from sparsity_tf.backend.tensors import as_loss

# Before 3.14, Keras's export lists the parts of a model as a checkpoint does, so a layer can't tell the two apart.
_EXPORT_LOOKS_LIKE_A_CHECKPOINT = tuple(map(int, keras.__version__.split(".")[:2])) < (3, 14)

# The cell of `keras.layers.ConvLSTM1D`, `ConvLSTM2D` and `ConvLSTM3D`. Keras has no public name for it.
ConvLSTMCell = conv_lstm.ConvLSTMCell


class LayerHooks:
    """A mixin, placed before the Keras layer, that turns Keras's calls of private methods into hooks.

    A subclass defines the hooks. They are the first four methods here.
    """

    def _own_losses(self, losses):
        """Returns the list of a forward pass's losses that belong to this layer, given the list that Keras counts."""
        return losses

    def _forget_own_losses(self):
        """Called when Keras forgets the losses of the last forward pass."""

    def _check_quantization(self, mode):
        """Called before the layer is quantized. It raises if the layer can't be quantized."""

    def _check_export(self):
        """Called before TensorFlow exports the layer, in any format. It raises if the layer can't be exported."""

    def _get_own_losses(self):
        return [as_loss(loss) for loss in self._own_losses(super()._get_own_losses())]

    def _clear_losses(self):
        super()._clear_losses()
        self._forget_own_losses()

    # Do not override `quantize` instead: Keras binds `quantize` to the instance, so a layer whose class was swapped
    # still has the method of its former class.
    def _check_quantize_args(self, mode, compute_dtype):
        self._check_quantization(mode)
        super()._check_quantize_args(mode, compute_dtype)

    def _trackable_children(self, save_type="checkpoint", **kwargs):
        # TensorFlow lists the parts of every object that it exports. Since Keras 3.14 all formats of export go through
        # this method.
        if save_type == "savedmodel":
            self._check_export()
        return super()._trackable_children(save_type, **kwargs)

    if _EXPORT_LOOKS_LIKE_A_CHECKPOINT and keras.config.backend() == "tensorflow":

        def __call__(self, *args, **kwargs):
            if _is_traced_for_export():
                self._check_export()
            return super().__call__(*args, **kwargs)


def _is_traced_for_export():
    """Whether TensorFlow records this call for one of Keras's exports: a function of `keras.src.export` is running."""
    import tensorflow as tf

    if tf.executing_eagerly():
        return False
    frame = inspect.currentframe()
    while frame is not None and not frame.f_globals.get("__name__", "").startswith("keras.src.export."):
        frame = frame.f_back
    return frame is not None


class MomentsHook:
    """A mixin, placed before `keras.layers.BatchNormalization`. A subclass computes mean and variance itself."""

    def _own_moments(self, inputs, mask):
        """Mean and variance of a batch by channel, two tensors. The default is the computation of the Keras layer."""
        return super()._moments(inputs, mask)

    def _moments(self, inputs, mask):
        return self._own_moments(inputs, mask)


def axes_of_moments(layer):
    """The list of the axes over which a batch normalisation takes mean and variance."""
    return layer._reduction_axes


# Variables and sublayers.


def own_variables(layer):
    """The variables that belong to a layer itself and not to its sublayers, trainable variables first; a new list."""
    return _not_below(layer, [*layer._trainable_variables, *layer._non_trainable_variables])


def own_trainable_variables(layer):
    """The variables of a layer itself that were created as trainable, also if the layer is frozen; a new list."""
    return _not_below(layer, list(layer._trainable_variables))


def _not_below(layer, variables):
    """Leaves out the variables of sublayers. (`SpectralNormalization` has its layer's kernel as an attribute.)"""
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
        `keras.Variable`. In some Keras layers `kernel` is a property that may add LoRA or quantisation; these layers
        keep the variable in `_kernel`.
    """
    private = getattr(layer, f"_{name}", None)
    return getattr(layer, name) if private is None else private


def set_autocast(variable, casts):
    """Sets whether layers read a variable in their compute dtype (Keras's default) or in the variable's own dtype."""
    variable._autocast = casts


def change_initial_value(variable, function, after=None):
    """Replaces the value of a new variable by a function of it.

    If a model is built by its first symbolic call, Keras initializes its variables only after the call, in the order of
    their creation. An `assign` inside the call would be lost, so the function then waits for the variable.

    Args:
        variable: `keras.Variable`.
        function: Function from a tensor to a tensor of the same shape.
        after: A later `keras.Variable` that the function reads, too. The function waits for it.
    """
    last = variable if after is None else after

    def change():
        variable.assign(function(ops.convert_to_tensor(variable)))

    def initialize_and_change():
        del last._deferred_initialize
        last._deferred_initialize()
        change()

    if last._value is None:
        last._deferred_initialize = initialize_and_change
    else:
        change()


def sublayers(layer):
    """The layers that are attributes of a layer, in the order of their creation. The result is Keras's own list."""
    return layer._layers


def sublayers_below(layer):
    """All layers below a layer, in Keras's order. Files name these layers by their position in the list."""
    return layer._flatten_layers(include_self=False)


# Changing a layer after it was made.


@contextlib.contextmanager
def unlocked(layer):
    """A context in which a built layer accepts new variables and sublayers."""
    layer._tracker.unlock()
    try:
        yield
    finally:
        layer._tracker.lock()


def untrack(layer, value):
    """Removes a sublayer or seed generator from the lists that a layer keeps. The attribute stays."""
    layer._tracker.untrack(value)


def delete_attribute(layer, name):
    """Deletes an attribute without a garbage collection.

    For a variable Keras's `delattr` collects all garbage, which would take most of the time of changing a large model.
    """
    variable = getattr(layer, name)
    if isinstance(variable, keras.Variable):
        layer._untrack_variable(variable)
        super(keras.layers.Layer, layer).__delattr__(name)
    else:
        delattr(layer, name)


def delete_variable(layer, name):
    """Deletes the variable behind a weight of a layer. Other variables of the layer take its place."""
    private = f"_{name}"
    delete_attribute(layer, name if getattr(layer, private, None) is None else private)


def restore_kernel(layer, value, regularizer):
    """Makes the variable of a layer's kernel anew, after `delete_variable`. It comes first in the layer, as before.

    Args:
        layer: Built layer that stores its kernel in `_kernel`.
        value: Tensor, the value of the kernel.
        regularizer: Keras regularizer of the kernel, or `None`.
    """
    with unlocked(layer):
        variable = layer.add_weight(
            name="kernel", shape=tuple(value.shape), initializer="zeros", regularizer=regularizer
        )
        layer._kernel = variable
    # Keras lists a layer's variables in the order of their creation.
    layer._trainable_variables.insert(0, layer._trainable_variables.pop())
    variable.assign(value)


def refresh_call_signature(layer):
    """Reads the signature of a layer's `call` again. Call this after a change of the layer's class.

    Keras itself reads the signature only when the layer is made.
    """
    layer._call_signature = inspect.signature(layer.call)
    layer.call_signature_parameters = list(layer._call_signature.parameters)
    layer._call_has_training_arg = "training" in layer.call_signature_parameters
    layer._call_has_context_arg = {name: name in layer.call_signature_parameters for name in layer._call_context_args}


# The call that runs.


def forward_pass():
    """An object that identifies a forward pass of a model: it is the same throughout one pass, and differs in the next.

    Every call of Keras without side effects opens a scope, and the object belongs to the scope. (`keras.StatelessScope`
    is public, but the function that returns the open scope is not.) Outside of such calls layers keep their losses
    until the next call.
    """
    scope = get_stateless_scope()
    return "layers keep their losses" if scope is None else vars(scope).setdefault("sparsity_tf_pass", object())


@functools.cache
def _asking_layer():
    return keras.layers.Layer(name="asking_layer")


def model_of_call(layer):
    """The model whose training step calls a layer.

    Args:
        layer: Keras layer.

    Returns:
        The outermost layer of the call that runs, or `layer` if no call runs. On JAX a training step calls
        `Model.stateless_call`, and Keras does not record this call. So on JAX the result is the outermost model on
        Python's stack that runs `stateless_call`.
    """
    # Keras begins a call if none runs, and ends it with the layer that began it. Without this end all later calls would
    # seem to be parts of this one. The layer that asks is not `layer`, whose own call may be the one that runs.
    asking = _asking_layer()
    found = asking._get_call_context().entry_layer
    asking._maybe_reset_call_context()
    found = layer if found is asking else found
    frame = inspect.currentframe() if keras.backend.backend() == "jax" else None
    while frame is not None:
        if frame.f_code.co_name == "stateless_call":
            found = frame.f_locals.get("self", found)
        frame = frame.f_back
    return found


def is_training_call(layer):
    """Whether the outermost call that runs is a call in training. For layer code that gets no `training` argument."""
    training = bool(getattr(layer._get_call_context(), "training", None))
    layer._maybe_reset_call_context()
    return training


def set_mask(outputs, mask):
    """Gives a tensor the mask of its time steps. The next layer reads the mask. For a layer without `compute_mask`."""
    outputs._keras_mask = mask


def causal_padding(layer):
    """The padding of a one-dimensional convolution with `padding="causal"`, as an argument of `ops.pad`."""
    return layer._compute_causal_padding()


# The graph in which Keras records the calls on symbolic tensors.


def runs_by_graph(model):
    """Whether the calls of a model are known: the model is functional or sequential, and runs by its graph alone."""
    if isinstance(model, keras.Sequential):
        return type(model).call is keras.Sequential.call and getattr(model, "_functional", None) is not None
    return isinstance(model, Functional) and type(model).call is Functional.call


def functional_inside(model):
    """The functional model inside a built sequential model. A functional model is returned unchanged."""
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
    """Removes an operation from every graph. Its nodes would keep the graph, and with it all weights, in memory."""
    operation._inbound_nodes.clear()
    operation._outbound_nodes.clear()


def is_keras_operation(operation):
    """Whether an operation of a graph comes from `keras.ops`, and is neither a layer nor an operation of the user."""
    return type(operation).__module__.startswith("keras.src.ops")
