"""Reads and resets an optimizer's slots: the momentum and the second moment of each weight.

(`backend/training.py` knows where Keras's optimizers keep them.)
"""

import keras
from keras import ops

from sparsity_tf.backend import all_slots, inner_optimizer, slots_of_kind, tensor_of, variable_index, zero_outside


def count_steps(model):
    """The number of optimizer steps that a compiled model has taken, an integer."""
    # Convert to numpy first: the variables of `tf.distribute` strategies refuse `int(...)`.
    return int(ops.convert_to_numpy(model.optimizer.iterations))


def _slot(optimizer, kind, variable):
    slots = slots_of_kind(optimizer, kind)
    return None if slots is None else slots[variable_index(optimizer, variable)]


def check(optimizer, used, who):
    """Raises a ValueError if a built optimizer lacks slots that an algorithm reads.

    Args:
        optimizer: Built Keras optimizer.
        used: Set of names. Only "momentum" and "variance" are checked.
        who: Name of the algorithm.
    """
    for name, hint in (("momentum", "give SGD a momentum, such as `momentum=0.9`"), ("variance", "use Adam")):
        if name in used and slots_of_kind(optimizer, name) is None:
            raise ValueError(
                f"{who} reads the {name} that the optimizer keeps for each weight, but this optimizer keeps none "
                f"({hint}). Received: optimizer={type(inner_optimizer(optimizer)).__name__}"
            )


def momentum(optimizer, variable):
    """The momentum of a variable: for SGD its buffer, for Adam m / (sqrt(v) + 1e-8).

    Keras's SGD buffer is the published buffer times minus the learning rate. Ranks and shares by magnitude are the
    same.

    Args:
        optimizer: Built Keras optimizer with a momentum.
        variable: `keras.Variable` that the optimizer trains.

    Returns:
        Float tensor of the shape of the variable.
    """
    first, second = (_slot(optimizer, kind, variable) for kind in ("momentum", "variance"))
    if second is None or not isinstance(inner_optimizer(optimizer), keras.optimizers.Adam):
        return tensor_of(first)
    return tensor_of(first) / (ops.sqrt(tensor_of(second)) + 1e-8)


def variance(optimizer, variable):
    """Adam's running mean of the squared gradients of a variable, a tensor."""
    return tensor_of(_slot(optimizer, "variance", variable))


def mask_averages(optimizer, weights):
    """Sets masked entries of weights, and of their averages in an optimizer with `use_ema=True`, to zero.

    Such an optimizer averages the weights before their constraints are applied, and later writes the averages back
    without applying constraints.
    """
    averages = slots_of_kind(optimizer, "average")
    if averages is None:
        return
    for weight in weights:
        average = averages[variable_index(optimizer, weight.variable)]
        mask = ops.convert_to_tensor(weight.extra_variable("mask"))
        for variable in (weight.variable, average):
            if variable is not None:
                variable.assign(zero_outside(mask, ops.convert_to_tensor(variable)))


def restart_average(optimizer, variable):
    """Sets the average of a weight, in an optimizer with `use_ema=True`, to the value that the weight has now."""
    averages = slots_of_kind(optimizer, "average")
    average = None if averages is None else averages[variable_index(optimizer, variable)]
    if average is not None:
        average.assign(variable)


def reset_momentum(optimizer):
    """Sets the momentum of every variable of the model to zero. Second moments stay."""
    for slot in slots_of_kind(optimizer, "momentum") or ():
        if slot is not None:
            slot.assign(ops.zeros(slot.shape, slot.dtype))


def reset_all(optimizer):
    """Gives every slot its initial value, as in an optimizer that has not taken a step.

    Averages of the weights (`use_ema`) are set to the weights. The count of steps stays.
    """
    for slot, weight, initial in all_slots(optimizer):
        slot.assign(weight if initial is None else ops.full(slot.shape, initial, slot.dtype))
