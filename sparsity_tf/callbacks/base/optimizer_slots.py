"""What an optimizer remembers of each weight: momentum, second moments; and how to forget it.

(Where Keras's optimizers keep it is said in `backend/training.py`.)
"""

import keras
from keras import ops

from sparsity_tf.backend import all_slots, inner_optimizer, slots_of_kind, tensor_of, variable_index, zero_outside


def count_steps(model):
    """The number of optimizer steps that a compiled model has taken, an integer."""
    # Not `int(...)` itself, which the variables of `tf.distribute` strategies refuse.
    return int(ops.convert_to_numpy(model.optimizer.iterations))


def _slot(optimizer, kind, variable):
    slots = slots_of_kind(optimizer, kind)
    return None if slots is None else slots[variable_index(optimizer, variable)]


def check(optimizer, used, who):
    """Raises a ValueError if a built optimizer does not keep what an algorithm reads.

    Args:
        optimizer: Built Keras optimizer.
        used: Set of names, of which "momentum" and "variance" are looked at.
        who: Name of the algorithm.
    """
    for name, hint in (("momentum", "SGD needs `momentum=0.9` or so"), ("variance", "Adam keeps one")):
        if name in used and slots_of_kind(optimizer, name) is None:
            raise ValueError(
                f"{who} reads the optimizer's {name}, and the optimizer keeps none ({hint}). "
                f"Received: optimizer={type(inner_optimizer(optimizer)).__name__}"
            )


def momentum(optimizer, variable):
    """The momentum of a variable: the buffer of SGD, m / (sqrt(v) + 1e-8) of Adam.

    Keras's SGD buffer is the published one times minus the learning rate: the order and the shares are the same.

    Args:
        optimizer: Built Keras optimizer with a momentum.
        variable: `keras.Variable` that it trains.

    Returns:
        Float tensor of the shape of the variable.
    """
    first, second = (_slot(optimizer, kind, variable) for kind in ("momentum", "variance"))
    if second is None or not isinstance(inner_optimizer(optimizer), keras.optimizers.Adam):
        return tensor_of(first)
    return tensor_of(first) / (ops.sqrt(tensor_of(second)) + 1e-8)


def variance(optimizer, variable):
    """Adam's running mean of squared gradients, a tensor."""
    return tensor_of(_slot(optimizer, "variance", variable))


def mask_averages(optimizer, weights):
    """Sets masked weights, and their averages in an optimizer with `use_ema`, to zero where masks are.

    Such an optimizer averages what weights hold before constraints, and writes averages back without asking them.
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


def reset_all(optimizer):
    """Gives every slot of every variable its first value, as in an optimizer that has not taken a step.

    Averages of the weights (`use_ema`) become the weights. The count of steps stays.
    """
    for slot, weight, initial in all_slots(optimizer):
        slot.assign(weight if initial is None else ops.full(slot.shape, initial, slot.dtype))
