"""What an optimizer remembers of each weight: momentum, second moments; and how to forget it.

Keras optimizers keep a slot as a list of variables in the order of the trainable ones. Slots are found by that form, so
that optimizers of the user's own are served, too.
"""

import keras
from keras import ops

from sparsity_tf.backend import tensor_of
from sparsity_tf.masks import zero_outside

# Names of the lists, first one that is there: SGD; Adam, AdamW, Lamb, Nadam, Lion and RMSprop; Adamax.
_MOMENTUM = ("momentums", "_momentums", "_m")
_VARIANCE = ("_velocities", "velocities")
_AVERAGES = "_model_variables_moving_average"


def inner_optimizer(optimizer):
    """The optimizer that updates the weights: what a `LossScaleOptimizer` wraps, or the optimizer itself."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def count_steps(model):
    """The number of optimizer steps that a compiled model has taken, an integer."""
    # Not `int(...)` itself, which the variables of `tf.distribute` strategies refuse.
    return int(ops.convert_to_numpy(model.optimizer.iterations))


def _slots(optimizer, names=None):
    """Dict name -> list of slot variables (or None), one for each trainable variable of a built optimizer."""
    optimizer = inner_optimizer(optimizer)
    own = {id(variable) for variable in optimizer.variables}
    count = len(optimizer._trainable_variables)
    slots = {}
    for name, value in vars(optimizer).items():
        if name == "_variables":
            continue  # All of them, the count of steps included: of that length by chance.
        if isinstance(value, list) and len(value) == count and (names is None or name in names):
            if any(entry is not None for entry in value) and all(e is None or id(e) in own for e in value):
                slots[name] = value
    return slots


def _slot(optimizer, names, variable):
    found = _slots(optimizer, names)
    index = inner_optimizer(optimizer)._get_variable_index(variable)
    return next((found[name][index] for name in names if name in found), None)


def check(optimizer, used, who):
    """Raises a ValueError if a built optimizer does not keep what an algorithm reads.

    Args:
        optimizer: Built Keras optimizer.
        used: Set of names, of which "momentum" and "variance" are looked at.
        who: Name of the algorithm.
    """
    for name, slots, hint in (
        ("momentum", _MOMENTUM, "SGD needs `momentum=0.9` or so"),
        ("variance", _VARIANCE, "Adam keeps one"),
    ):
        if name in used and not _slots(optimizer, slots):
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
    first, second = (_slot(optimizer, names, variable) for names in (_MOMENTUM, _VARIANCE))
    if second is None or not isinstance(inner_optimizer(optimizer), keras.optimizers.Adam):
        return tensor_of(first)
    return tensor_of(first) / (ops.sqrt(tensor_of(second)) + 1e-8)


def variance(optimizer, variable):
    """Adam's running mean of squared gradients, a tensor."""
    return tensor_of(_slot(optimizer, _VARIANCE, variable))


def slots_of(optimizer, variable):
    """What an optimizer remembers of each entry of a variable.

    Args:
        optimizer: Built Keras optimizer.
        variable: `keras.Variable` that it trains.

    Returns:
        List of pairs: a variable of the same shape, and the number that it begins with.
    """
    index = inner_optimizer(optimizer)._get_variable_index(variable)
    slots = [(slot[index], _initial(optimizer, name)) for name, slot in _slots(optimizer).items()]
    return [(slot, initial) for slot, initial in slots if slot is not None and slot.shape == variable.shape]


def _initial(optimizer, name):
    """The number that a slot begins with; Ftrl divides by its accumulator, which must not be zero."""
    return getattr(inner_optimizer(optimizer), "initial_accumulator_value", 0.0) if name == "_accumulators" else 0.0


def mask_averages(optimizer, weights):
    """Sets masked weights, and their averages in an optimizer with `use_ema`, to zero where masks are.

    Such an optimizer averages what weights hold before constraints, and writes averages back without asking them.
    """
    averages = _slots(optimizer, [_AVERAGES]).get(_AVERAGES)
    if averages is None:
        return
    for weight in weights:
        average = averages[inner_optimizer(optimizer)._get_variable_index(weight.variable)]
        mask = ops.convert_to_tensor(weight.extra_variable("mask"))
        for variable in (weight.variable, average):
            if variable is not None:
                variable.assign(zero_outside(mask, ops.convert_to_tensor(variable)))


def reset_all(optimizer):
    """Gives every slot of every variable its first value, as in an optimizer that has not taken a step.

    Averages of the weights (`use_ema`) become the weights. The count of steps stays.
    """
    trained = inner_optimizer(optimizer)._trainable_variables
    for name, slot in _slots(optimizer).items():
        for variable, weight in zip(slot, trained, strict=True):
            if variable is None:
                continue
            if name == _AVERAGES:
                variable.assign(weight)
            else:
                variable.assign(ops.full(variable.shape, _initial(optimizer, name), variable.dtype))
