"""Keeps the dense gradient of one step, where the optimizer receives it.

Algorithms that grow weights by their gradient (RigL) need it at the steps at which masks change, masked entries
included, and without a second pass over the data. The optimizer has it: after the replicas' gradients have been summed,
after accumulation and clipping. The tap adds one slot variable a weight and writes the gradient there, at the steps
that ask for it only.
"""

from sparsity_tf.backend import (
    add_slot,
    assign_if,
    inner_optimizer,
    optimizer_update,
    remove_slots,
    saving_without,
    tensor_of,
    variable_index,
)

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
        # Whether the step that is traced has the tap at all.
        self.open = True

    def attach(self):
        """Adds the slots and follows the optimizer's updates from now on."""
        for variable in self.variables:
            self.buffers[variable_index(self.optimizer, variable)] = add_slot(self.optimizer, variable, "gradient")
        _taps(self.optimizer).append(self)

    def detach(self):
        """Removes the slots and whatever `attach` did to the optimizer."""
        taps = _taps(self.optimizer)
        taps.remove(self)
        if not taps:
            method, _ = optimizer_update(self.optimizer)
            for name in (method, "save_own_variables", "load_own_variables", _TAPS):
                vars(self.optimizer).pop(name, None)
        remove_slots(self.optimizer, self.buffers.values())
        self.buffers = {}

    def gradient(self, variable):
        """The gradient kept last, a tensor of the variable's shape."""
        return tensor_of(self.buffers[variable_index(self.optimizer, variable)])

    def keep(self, index, gradient):
        """Keeps the gradient of the optimizer's variable number `index`, if that is wanted; in a step."""
        buffer = self.buffers.get(index)
        if buffer is None or not self.open:
            return
        assign_if(self.wanted(self.optimizer.iterations + 1), self.optimizer, buffer, gradient)


def open_taps(optimizer, wanted):
    """Says whether the steps that are traced from now on keep gradients where their taps want them.

    Args:
        optimizer: Keras optimizer.
        wanted: Bool; `False` leaves the branch that could keep a gradient out of the step.

    Returns:
        Bool: whether the optimizer has taps.
    """
    taps = vars(inner_optimizer(optimizer)).get(_TAPS, ())
    for tap in taps:
        tap.open = wanted
    return bool(taps)


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
                tap.keep(variable_index(optimizer, variable), gradient)
        return update(gradients, variables, learning_rate)

    def buffers():
        return [buffer for tap in taps for buffer in tap.buffers.values()]

    # Files hold the optimizer as it is without the taps.
    added = {_TAPS: taps, method: tapped_update, **saving_without(optimizer, buffers)}
    # Past Keras's tracking of attributes.
    vars(optimizer).update(added)
    return taps
