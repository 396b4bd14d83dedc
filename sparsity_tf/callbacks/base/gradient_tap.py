"""Keeps the dense gradient of one step, at the place where the optimizer receives it.

Algorithms that grow weights by their gradient (RigL) need the gradient at the steps at which masks change, masked
entries included, and without a second pass over the data. The optimizer receives this gradient after summation over the
replicas, accumulation and clipping. The tap adds one slot variable for each weight, and writes the gradient there only
at the steps that need it.
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

# The name of the optimizer's attribute that holds its taps.
_TAPS = "_gradient_taps"


class GradientTap:
    """The tap of one algorithm on one optimizer. After `attach` and `detach` the optimizer is as before.

    Args:
        optimizer: Built Keras optimizer.
        variables: The `keras.Variable`s whose gradients are kept.
        wanted: Function from the count of the present step to a scalar bool tensor: whether to keep the gradient of
            this step. The count is a scalar integer tensor, 1 in the first step.
    """

    def __init__(self, optimizer, variables, wanted):
        self.optimizer = inner_optimizer(optimizer)
        self.variables = list(variables)
        self.wanted = wanted
        self.buffers = {}
        # Whether a step that is traced now contains the tap.
        self.open = True

    def attach(self):
        """Adds the slots. From now on the tap follows the optimizer's updates."""
        for variable in self.variables:
            self.buffers[variable_index(self.optimizer, variable)] = add_slot(self.optimizer, variable, "gradient")
        _taps(self.optimizer).append(self)

    def detach(self):
        """Removes the slots and undoes every change that `attach` made to the optimizer."""
        taps = _taps(self.optimizer)
        taps.remove(self)
        if not taps:
            method, _ = optimizer_update(self.optimizer)
            for name in (method, "save_own_variables", "load_own_variables", _TAPS):
                vars(self.optimizer).pop(name, None)
        remove_slots(self.optimizer, self.buffers.values())
        self.buffers = {}

    def gradient(self, variable):
        """The last gradient that was kept, a tensor of the variable's shape."""
        return tensor_of(self.buffers[variable_index(self.optimizer, variable)])

    def keep(self, index, gradient):
        """Called in a step: keeps the gradient of the optimizer's variable number `index`, if it is wanted."""
        buffer = self.buffers.get(index)
        if buffer is None or not self.open:
            return
        assign_if(self.wanted(self.optimizer.iterations + 1), self.optimizer, buffer, gradient)


def open_taps(optimizer, wanted):
    """Says whether a step that is traced from now on contains the taps.

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
    """The list of the taps on an optimizer. The optimizer's update calls each. (Two algorithms may share a model.)"""
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

    # A saved optimizer does not contain the taps.
    added = {_TAPS: taps, method: tapped_update, **saving_without(optimizer, buffers)}
    # Written through `vars`, so that Keras does not track the new attributes.
    vars(optimizer).update(added)
    return taps
