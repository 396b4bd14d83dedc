"""Keeps the dense gradient of one step, where the optimizer receives it.

Algorithms that grow weights by their gradient (RigL) need it at the steps at which masks change, masked entries
included, and without a second pass over the data. The optimizer has it: after the replicas' gradients have been summed,
after accumulation and clipping. The tap adds one slot variable a weight and writes the gradient there, at the steps
that ask for it only.
"""

import keras
from keras import ops

from sparsity_tf.backend import optimizer_update, tensor_of
from sparsity_tf.callbacks.base.optimizer_slots import inner_optimizer

# Name of the attribute of an optimizer under which its taps are.
_TAPS = "_gradient_taps"


class GradientTap:
    """The tap on one optimizer. `attach` and `detach` leave it as it was.

    Args:
        optimizer: Built Keras optimizer.
        variables: The `keras.Variable`s whose gradients are kept.
        wanted: Function from the count of the step being taken (1 for the first), a scalar integer tensor, to a scalar
            bool tensor: whether this step's gradient is kept.
    """

    def __init__(self, optimizer, variables, wanted):
        self.optimizer = inner_optimizer(optimizer)
        self.variables = list(variables)
        self.wanted = wanted
        self.buffers = {}

    def attach(self):
        """Adds the slots and follows the optimizer's updates from now on."""
        for variable in self.variables:
            self.buffers[self.optimizer._get_variable_index(variable)] = self._add_buffer(variable)
        _taps(self.optimizer).append(self)

    def detach(self):
        """Removes the slots and whatever `attach` did to the optimizer."""
        taps = _taps(self.optimizer)
        taps.remove(self)
        if not taps:
            method, _ = optimizer_update(self.optimizer)
            for name in (method, "save_own_variables", "load_own_variables", _TAPS):
                vars(self.optimizer).pop(name, None)
        if keras.backend.backend() == "jax":
            for buffer in self.buffers.values():
                self.optimizer._untrack_variable(buffer)
        self.buffers = {}

    def _add_buffer(self, variable):
        if keras.backend.backend() == "jax":
            # Among the optimizer's own, which are all that a step can change there.
            return self.optimizer.add_variable_from_reference(variable, name="gradient")
        return keras.Variable("zeros", shape=variable.shape, dtype=variable.dtype, trainable=False, name="gradient")

    def gradient(self, variable):
        """The gradient kept last, a tensor of the variable's shape."""
        return tensor_of(self.buffers[self.optimizer._get_variable_index(variable)])

    def keep(self, index, gradient):
        """Keeps the gradient of the optimizer's variable number `index`, if that is wanted; in a step."""
        buffer = self.buffers.get(index)
        if buffer is None:
            return
        wanted = self.wanted(self.optimizer.iterations + 1)
        if keras.backend.backend() == "torch":
            if wanted:
                buffer.assign(gradient)
            return
        if keras.backend.backend() != "tensorflow":
            buffer.assign(ops.where(wanted, ops.cast(gradient, buffer.dtype), ops.convert_to_tensor(buffer)))
            return
        import tensorflow as tf

        # A branch: steps that keep nothing write nothing. (The gradient of an embedding may be sparse.)
        tf.cond(
            wanted,
            lambda: self.optimizer.assign(buffer, tf.convert_to_tensor(gradient)),
            lambda: None,
        )


def _taps(optimizer):
    """The taps on an optimizer, a list that its update goes through. (Two algorithms may share a model.)"""
    if _TAPS in vars(optimizer):
        return vars(optimizer)[_TAPS]
    taps, (method, batched) = [], optimizer_update(optimizer)
    update = getattr(optimizer, method)

    def tapped_update(gradients, variables, learning_rate):
        pairs = zip(gradients, variables, strict=True) if batched else ((gradients, variables),)
        for gradient, variable in pairs:
            for tap in taps:
                tap.keep(optimizer._get_variable_index(variable), gradient)
        return update(gradients, variables, learning_rate)

    def without_buffers(function):
        """Files hold the optimizer as it is without the taps."""

        def call(store):
            variables = list(optimizer._variables)
            buffers = {id(buffer) for tap in taps for buffer in tap.buffers.values()}
            optimizer._variables[:] = [variable for variable in variables if id(variable) not in buffers]
            try:
                return function(store)
            finally:
                optimizer._variables[:] = variables

        return call

    # Past Keras's tracking of attributes.
    added = {_TAPS: taps, method: tapped_update}
    if keras.backend.backend() == "jax":
        for name in ("save_own_variables", "load_own_variables"):
            added[name] = without_buffers(getattr(optimizer, name))
    vars(optimizer).update(added)
    return taps
