"""Training: optimizers and their slots, gradients, and the state that a model's train function works on."""

import contextlib

import keras
import numpy as np
from keras import ops

from sparsity_tf.backend.tensors import as_array

# The attribute of a Keras optimizer that holds the slots of a kind: a list in the order of the trained variables. Of
# several names, the first that the optimizer has counts.
_KINDS = {
    # The names in SGD; in Adam, AdamW, Lamb, Nadam, Lion and RMSprop; in Adamax.
    "momentum": ("momentums", "_momentums", "_m"),
    "variance": ("_velocities", "velocities"),
    # Averages of the weights, with `use_ema=True`.
    "average": ("_model_variables_moving_average",),
}


def inner_optimizer(optimizer):
    """The optimizer that updates the weights: the one inside a `LossScaleOptimizer`, or the optimizer itself."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def trained_variables(optimizer):
    """The variables that a built optimizer updates: a new list."""
    return list(inner_optimizer(optimizer)._trainable_variables)


def variable_index(optimizer, variable):
    """The position of a variable in the list of variables that a built optimizer trains."""
    return inner_optimizer(optimizer)._get_variable_index(variable)


def call_counter(optimizer):
    """The variable that counts an optimizer's calls. (`iterations` counts updates: fewer, with accumulation.)"""
    return inner_optimizer(optimizer)._iterations


def last_learning_rate(optimizer):
    """The learning rate that a Keras optimizer used in its last update, a float.

    A schedule is a function of the count of calls, which the update has raised by one. Before the first update: the
    rate of the first.
    """
    optimizer = inner_optimizer(optimizer)
    rate = optimizer.learning_rate
    if isinstance(optimizer._learning_rate, keras.optimizers.schedules.LearningRateSchedule):
        count = max(int(ops.convert_to_numpy(optimizer._iterations)) - 1, 0)
        rate = optimizer._learning_rate(ops.convert_to_tensor(count, optimizer._iterations.dtype))
    return float(ops.convert_to_numpy(rate))


def decays(optimizer, variable):
    """Whether an optimizer has weight decay and applies it to a variable."""
    optimizer = inner_optimizer(optimizer)
    if not optimizer.weight_decay:
        return False
    # Since Keras 3.16 `_use_weight_decay` answers for a built optimizer only. The first call of a layer comes before.
    excluded = getattr(optimizer, "_is_excluded_from_weight_decay", None)
    return bool(optimizer._use_weight_decay(variable) if excluded is None else not excluded(variable))


def optimizer_update(optimizer):
    """The method in which a Keras optimizer receives a step's gradients, after summation, accumulation and clipping.

    Args:
        optimizer: Keras optimizer, without a `LossScaleOptimizer` around it.

    Returns:
        Name of the method, and a bool: whether the method takes lists (all gradients at once) rather than one gradient
        a call. The method's arguments are the gradients, the variables and the learning rate.
    """
    # On torch Keras's optimizers update all variables together and never call `update_step`.
    batched = keras.backend.backend() == "torch"
    return ("_backend_update_step" if batched else "update_step"), batched


# Slots are the variables in which an optimizer remembers something of each weight. They are found by their form: a list
# of variables in the order of the trained variables. So the slots of a user's own optimizer are found, too.


def _slots(optimizer):
    """Dict: name -> list with a slot variable, or `None`, for each trained variable of a built optimizer."""
    optimizer = inner_optimizer(optimizer)
    own = {id(variable) for variable in optimizer.variables}
    count = len(optimizer._trainable_variables)
    slots = {}
    for name, value in vars(optimizer).items():
        if name == "_variables":
            continue  # The list of all variables, the count of steps included. It may have the same length by chance.
        if isinstance(value, list) and len(value) == count:
            if any(entry is not None for entry in value) and all(e is None or id(e) in own for e in value):
                slots[name] = value
    return slots


def _initial(optimizer, name):
    """The initial value of a slot: 0, except for Ftrl, which divides by its accumulator."""
    return getattr(inner_optimizer(optimizer), "initial_accumulator_value", 0.0) if name == "_accumulators" else 0.0


def slots_of_kind(optimizer, kind):
    """The slots of one kind that a built optimizer keeps.

    Args:
        optimizer: Built Keras optimizer.
        kind: "momentum", "variance" or "average" (of the weights, with `use_ema=True`).

    Returns:
        List with a variable, or `None`, for each trained variable; `None` if the optimizer keeps no slots of the kind.
    """
    slots = _slots(optimizer)
    return next((slots[name] for name in _KINDS[kind] if name in slots), None)


def slots_of(optimizer, variable):
    """The slots in which an optimizer remembers something of each entry of a variable.

    Args:
        optimizer: Built Keras optimizer.
        variable: `keras.Variable` that the optimizer trains.

    Returns:
        List of pairs: a slot of the same shape, and its initial value (a number).
    """
    index = variable_index(optimizer, variable)
    slots = [(slot[index], _initial(optimizer, name)) for name, slot in _slots(optimizer).items()]
    return [(slot, initial) for slot, initial in slots if slot is not None and slot.shape == variable.shape]


def all_slots(optimizer):
    """Every slot of a built optimizer.

    Args:
        optimizer: Built Keras optimizer.

    Returns:
        List of triples: the slot, the trained variable that it belongs to, and its initial value (a number). For
        averages of the weights, which start as the weights, the initial value is `None`.
    """
    trained = inner_optimizer(optimizer)._trainable_variables
    return [
        (slot, variable, None if name in _KINDS["average"] else _initial(optimizer, name))
        for name, slots in _slots(optimizer).items()
        for slot, variable in zip(slots, trained, strict=True)
        if slot is not None
    ]


def add_slot(optimizer, variable, name):
    """Makes a variable of the shape of a trained variable. The optimizer may write the new variable in a step.

    Args:
        optimizer: Built Keras optimizer, without a `LossScaleOptimizer` around it.
        variable: `keras.Variable` that the optimizer trains.
        name: Name of the new variable.

    Returns:
        `keras.Variable`, zeros. On JAX it belongs to the optimizer, because there an update can change only the
        optimizer's own variables.
    """
    if keras.backend.backend() == "jax":
        return optimizer.add_variable_from_reference(variable, name=name)
    return keras.Variable("zeros", shape=variable.shape, dtype=variable.dtype, trainable=False, name=name)


def remove_slots(optimizer, slots):
    """Undoes `add_slot`."""
    if keras.backend.backend() == "jax":
        for slot in slots:
            optimizer._untrack_variable(slot)


def saving_without(optimizer, slots):
    """Methods that save and load an optimizer without the slots of `add_slot`.

    Args:
        optimizer: Built Keras optimizer.
        slots: Function that returns an iterable of the slots to leave out.

    Returns:
        Dict: name of a method of the optimizer -> the function that replaces it. It is empty on backends where the
        slots do not belong to the optimizer.
    """

    def without_slots(function):
        def call(store):
            variables, left_out = list(optimizer._variables), {id(slot) for slot in slots()}
            optimizer._variables[:] = [variable for variable in variables if id(variable) not in left_out]
            try:
                return function(store)
            finally:
                optimizer._variables[:] = variables

        return call

    if keras.backend.backend() != "jax":
        return {}
    return {name: without_slots(getattr(optimizer, name)) for name in ("save_own_variables", "load_own_variables")}


def assign_if(wanted, optimizer, slot, value):
    """Writes a value into a slot of `add_slot` during a step, if `wanted`.

    On TensorFlow and torch a step that writes nothing costs nothing.

    Args:
        wanted: Scalar bool tensor: whether to write.
        optimizer: The optimizer that takes the step.
        slot: The variable to write.
        value: Tensor of the shape of the slot: a gradient, which may be sparse.
    """
    if keras.backend.backend() == "torch":
        if wanted:
            slot.assign(value)
        return
    if keras.backend.backend() != "tensorflow":
        slot.assign(ops.where(wanted, ops.cast(value, slot.dtype), ops.convert_to_tensor(slot)))
        return
    import tensorflow as tf

    # A branch, so that a step which keeps no gradient writes nothing. (The gradient of an embedding may be sparse.)
    tf.cond(wanted, lambda: optimizer.assign(slot, tf.convert_to_tensor(value)), lambda: None)


def masks_in_forward_pass():
    """Whether masked layers mask their kernel in the forward pass, rather than by a constraint after each step.

    This is so on JAX, where the Keras trainer applies optimizers in a place where a constraint can't read a mask. The
    kernel's variable may then hold other values than zero at masked entries.
    """
    return keras.backend.backend() == "jax"


# Derivatives outside training.


def loss_derivatives(loss, variables, scale, hessian):
    """The gradient g of a loss, or H g: the Hessian of the loss over these variables, times g.

    Args:
        loss: Function without arguments that returns a scalar float32 tensor.
        variables: List of `keras.Variable`.
        scale: Number by which the loss is multiplied during the computation, so that float16 keeps small derivatives.
            The result is divided by it.
        hessian: Bool: compute H g rather than g.

    Returns:
        List of float32 numpy arrays, of the shapes of the variables; `None` for a variable on which the loss does not
        depend.
    """
    find = {"tensorflow": _tensorflow_derivatives, "jax": _jax_derivatives, "torch": _torch_derivatives}
    return find[keras.backend.backend()](loss, variables, scale, hessian)


def _tensorflow_derivatives(loss, variables, scale, hessian):
    import tensorflow as tf

    values = [variable.value for variable in variables]

    def dense(gradient):
        return None if gradient is None else tf.cast(tf.convert_to_tensor(gradient), tf.float32) / scale

    with tf.GradientTape() as outer:
        with tf.GradientTape() as inner:
            # The tape does not watch frozen variables by itself.
            inner.watch(values)
            value = loss() * scale
        found = [dense(gradient) for gradient in inner.gradient(value, values)]
        if hessian:
            flow = sum(tf.reduce_sum(tf.stop_gradient(g) * g) for g in found if g is not None) * scale
    if hessian and any(g is not None for g in found):
        found = [dense(gradient) for gradient in outer.gradient(flow, values)]
    return [None if gradient is None else gradient.numpy() for gradient in found]


def _jax_derivatives(loss, variables, scale, hessian):
    import jax

    def value_of(values):
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            return loss() * scale

    def flow_of(values):
        first = [ops.cast(g, "float32") / scale for g in jax.grad(value_of)(values)]
        return sum(ops.sum(jax.lax.stop_gradient(g) * g) for g in first) * scale

    values = [variable.value for variable in variables]
    return [np.asarray(g, "float32") / scale for g in jax.grad(flow_of if hessian else value_of)(values)]


def _torch_derivatives(loss, variables, scale, hessian):
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    def derivatives(value, graph):
        if not value.requires_grad:  # The value is a constant.
            return [None] * len(values)
        found = torch.autograd.grad(value, values, create_graph=graph, allow_unused=True)
        return [None if gradient is None else gradient.float() / scale for gradient in found]

    values = [variable.value for variable in variables]
    # Fused attention has no second derivative.
    attention = sdpa_kernel(SDPBackend.MATH) if hessian else contextlib.nullcontext()
    with torch.enable_grad(), attention:
        found = derivatives(loss() * scale, graph=hessian)
        known = [gradient for gradient in found if gradient is not None]
        if hessian and known:
            flow = sum(torch.sum(gradient.detach() * gradient) for gradient in known) * scale
            found = derivatives(flow, graph=False)
    return [None if gradient is None else as_array(gradient) for gradient in found]


# `fit`, its train function and its data.

# The attribute of a model in which `predict_on_batch` keeps the model's `_compile_config` and a function made for it.
_OF_ONE_STEP = "predict_function_of_one_step"
# The order in which Keras's JAX trainer passes a model's state through the train function.
_JAX_STATE = ("trainable_variables", "non_trainable_variables", "optimizer_variables", "metrics_variables")


def between_steps(model, result, change):
    """Lets a function read and write a model's variables right after a call of the model's train function.

    Args:
        model: Keras model, in `fit`.
        result: The result of the train function.
        change: Function without arguments, which reads and writes the variables.

    Returns:
        The result to return to `fit` instead of `result`. On JAX the result holds the new state of the model, whose
        variables are empty during `fit`.
    """
    if keras.backend.backend() != "jax":
        change()
        return result
    logs, state = result
    put_jax_state(model, state)
    change()
    state = take_jax_state(model)
    model._jax_state_synced = False
    return logs, state


def take_jax_state(model):
    """Takes the state for the train function (JAX) out of a model. Its variables are empty until `put_jax_state`."""
    return model._get_jax_state(purge_model_variables=True, **dict.fromkeys(_JAX_STATE, True))


def put_jax_state(model, state):
    """Writes a state that the train function returned (JAX) back into the model's variables."""
    model._jax_state, model._jax_state_synced = dict(zip(_JAX_STATE, state, strict=True)), False
    model.jax_state_sync()


def without_model(callback):
    """The attributes of a Keras callback without the model, as before its first `fit`: a new dict."""
    return {**vars(callback), "_model": None}


def fit_builds_models():
    """Whether `fit` may start with an unbuilt model, and build it with the first batch: on TensorFlow only."""
    return keras.backend.backend() == "tensorflow"


def build_for_data(model, example):
    """Builds a compiled model, its optimizer and its metrics, as `fit` does with the first batch.

    Args:
        model: Compiled Keras model.
        example: An example of a training batch: arrays, or their `tf.TensorSpec`s.
    """
    model._symbolic_build(data_batch=example)


def build_in_fit_no_more(model):
    """Stops `fit` and `evaluate` from building a model again that `build_for_data` has built."""
    model._maybe_symbolic_build = lambda iterator=None, data_batch=None: None


def predict_on_batch(model, batch):
    """`model.predict_on_batch`, also for a model that is compiled with `steps_per_execution` above 1.

    On JAX, Keras 3.16 takes the batch of such a model for a stack of batches, one for each step. The model therefore
    predicts with a function for one step, which it keeps until it is compiled again.
    """
    if keras.backend.backend() != "jax" or model.steps_per_execution == 1:
        return model.predict_on_batch(batch)
    # `compile` makes a new configuration. A function that was made before may hold other trainable variables.
    compiled = getattr(model, "_compile_config", None)
    made_for, kept = vars(model).get(_OF_ONE_STEP, (None, None))
    steps, function = model.steps_per_execution, model.predict_function
    model.steps_per_execution, model.predict_function = 1, kept if made_for is compiled else None
    try:
        result = model.predict_on_batch(batch)
        vars(model)[_OF_ONE_STEP] = compiled, model.predict_function
        return result
    finally:
        model.steps_per_execution, model.predict_function = steps, function


def drop_functions(model):
    """Drops what a model has compiled for `fit`, `evaluate` and `predict`; it is made anew when it is needed."""
    model.train_function = model.test_function = model.predict_function = None
    vars(model).pop(_OF_ONE_STEP, None)


def strategy_scope(model):
    """The context in which to create and set a model's variables: the scope of its `tf.distribute` strategy."""
    if keras.backend.backend() == "tensorflow":
        return model.distribute_strategy.scope()
    return contextlib.nullcontext()


def has_strategies():
    """Whether Keras can train under a `tf.distribute` strategy: on TensorFlow only."""
    return keras.backend.backend() == "tensorflow"


def uses_tf_data():
    """Whether data sets are `tf.data.Dataset`s: on TensorFlow. Elsewhere a data set draws each batch by its number."""
    return keras.backend.backend() == "tensorflow"


def has_xla():
    """Whether XLA can compile training, with several steps in one call.

    Torch has another compiler, which needs minutes to start, and Keras makes one step a call there.
    """
    return keras.backend.backend() != "torch"


def always_compiles():
    """Whether training is always compiled by XLA: on JAX, and on TensorFlow with a GPU."""
    if keras.backend.backend() != "tensorflow":
        return keras.backend.backend() == "jax"
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))
