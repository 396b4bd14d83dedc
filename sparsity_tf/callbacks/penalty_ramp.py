"""Warm-up of the penalty of variational dropout and L0 regularization.

Source: Gale, Elsen and Hooker, "The State of Sparsity in Deep Neural Networks" (arXiv 1902.09574):
the coefficient of the KL term or of the expected L0 norm rises from 0 to its full value between two
steps, in a straight line (ResNet-50 and Transformer) or as a cubic followed by an exponential
moving average (Transformer).

Factors for single layers are those of SBPa, structured Bayesian pruning for acceleration (Neklyudov et al., NIPS 2017,
arXiv 1705.07283): the divergence counts more in the layers that cost more operations.
"""

from collections.abc import Mapping

import keras

from sparsity_tf import schedules
from sparsity_tf.call_repr import CallRepr
from sparsity_tf.callbacks.base.configured import Configured
from sparsity_tf.callbacks.base.copying import Copyable
from sparsity_tf.checks import check_integer, check_number
from sparsity_tf.distributions.base import match
from sparsity_tf.layers import get_penalty_weights, get_sparse_weights
from sparsity_tf.type_names import NumberOrSchedule

RAMPS = ("linear", "cubic", "none")


def _make_schedule(schedule, begin_step, end_step):
    check_integer("begin_step", begin_step, 0)
    check_integer("end_step", end_step, 0)
    if not isinstance(schedule, str):
        return schedules.of_argument("schedule", schedule)
    if schedule not in RAMPS:
        raise ValueError(
            f"`schedule` must be one of {list(RAMPS)} or a callable of the step. Received: schedule={schedule!r}"
        )
    if schedule == "none":
        return schedules.Constant(1.0)
    if begin_step > end_step:
        raise ValueError(
            f"`begin_step` must not be greater than `end_step`. Received: begin_step={begin_step}, end_step={end_step}"
        )
    if begin_step == end_step:
        ramp = schedules.Piecewise([begin_step], [0.0, 1.0])
    elif schedule == "linear":
        ramp = schedules.Linear(0.0, 1.0, begin_step, end_step)
    else:
        ramp = schedules.Cubic(0.0, 1.0, begin_step, end_step)
    if schedule == "cubic":
        return schedules.ExponentialMovingAverage(ramp, decay=0.9)
    return ramp


def _checked_factors(factors):
    if factors is None:
        return None
    if not isinstance(factors, Mapping) or not all(isinstance(entry, str) for entry in factors):
        raise ValueError(f"`factors` must be a dict from strings, or None. Received: factors={factors!r}")
    for entry, factor in factors.items():
        check_number(f"factors[{entry!r}]", factor, least=0)
    return dict(factors)


def _find_variables(model, factors):
    """A list of pairs: the `penalty_weight` of a layer, and the layer's factor."""
    variables = get_penalty_weights(model)
    if not variables:
        raise ValueError(
            "PenaltyRamp needs a built model with at least one layer that has a `penalty_weight`: "
            'sparsity_tf.sparsify(model, "variational_dropout"), or "l0", makes one. '
            f"Received: model={model.name!r} with no such layer"
        )
    entries = entries_of_layers(model, factors or {})
    return [(variable, factors[entries[id(variable)]] if id(variable) in entries else 1.0) for variable in variables]


def entries_of_layers(model, factors, name="factors"):
    """The id of a layer's `penalty_weight` -> the entry of `factors` that matches the layer.

    Raises:
        ValueError: An entry matches no layer with a penalty, or two match one. The message has the argument's `name`.
    """
    weights = [weight for weight in get_sparse_weights(model) if weight.technique.penalized]
    found = {}
    for weight, entries in zip(weights, match(name, factors, weights), strict=True):
        known = found.setdefault(id(weight.layer.penalty_weight), [])
        known.extend(entry for entry in entries if entry not in known)
        if len(known) > 1:
            raise ValueError(
                f"`{name}` must match each layer at most once. Received: {weight.path!r}, matched by {known}"
            )
    return {key: entries[0] for key, entries in found.items() if entries}


class PenaltyRamp(CallRepr, Configured, Copyable, keras.callbacks.Callback):
    """Changes the `penalty_weight` of all layers that have one, during training.

    At optimizer step t every such layer (`VDDense`, `L0Conv2D`, ...) gets

    `penalty_weight = weight * factor(t) / num_examples`

    times the layer's own entry of `factors`.

    **Unit.** A loss in Keras is a mean over examples. The penalty of a layer is a sum over its
    weights, and the variational bound counts this sum once for the whole training set. Hence the
    division by the number of training examples. `weight=1` is the bound itself. The coefficients
    published by Gale et al. are this quotient: their coefficient for the Transformer, 1/4.5e6, is
    `weight=1` with `num_examples=4_500_000`.

    The weight is set before each step and depends on `model.optimizer.iterations` alone, so a
    resumed run continues exactly. With `steps_per_execution=k` the weight is set every k steps, to
    the value for the first of these steps. The present value appears as `penalty_weight` in the
    logs of each epoch (History, CSVLogger, the progress bar), without `factors`. On the JAX backend, Keras brings the
    model's variables up to date before each step of the ramp, which costs some time. After the end
    of the ramp the callback costs nothing on any backend.

    With `train_on_batch` or a loop of your own, call `update(model)` before each step.

    Args:
        weight: float >= 0, full weight of the penalty in per-example units: 1 for the bound.
        num_examples: integer >= 1, number of training examples. Required.
        begin_step: integer >= 0, the last step at which the factor is 0.
        end_step: integer >= `begin_step`, the first step at which the factor is 1. If it equals
            `begin_step`, the factor jumps from 0 to 1 at that step. So with the defaults the full
            weight applies from the start.
        schedule: `"linear"`; `"cubic"`: 1 - (1 - p)^3, where p is the fraction of the ramp that has
            passed, then an exponential moving average with decay 0.9 that starts at 0 at step 0;
            `"none"`: the factor is always 1, and `begin_step` and `end_step` have no effect; a
            number; or a schedule (see `sparsity_tf.schedules`) or other callable that takes the
            step (an `int`) and returns a factor in [0, 1].
        factors: Dict from entries to numbers >= 0, which multiply the penalty of single layers, or `None`. An entry is
            a layer's name or path, or a regular expression that matches one of them in full. Other layers have factor
            1. The authors' SBPa of VGG has 10 in the first two convolutions and 5 in the next two.

    Raises:
        ValueError: for any other argument; at the start of training, if no layer of the model has a
            `penalty_weight`, if an entry of `factors` matches no such layer, or if two match one;
            during training, if `schedule` returns anything but a number in [0, 1].

    Example:

    ```python
    model = sparsity_tf.sparsify(model, "variational_dropout")
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    ramp = sparsity_tf.callbacks.PenaltyRamp(num_examples=len(x), begin_step=1000, end_step=5000)
    model.fit(x, y, callbacks=[ramp])
    ```
    """

    def __init__(
        self,
        weight: float = 1.0,
        num_examples: int | None = None,
        begin_step: int = 0,
        end_step: int = 0,
        schedule: str | NumberOrSchedule = "linear",
        factors: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        check_number("weight", weight, least=0)
        check_integer("num_examples", num_examples, 1)
        self.weight = float(weight)
        self.num_examples = int(num_examples)
        self.begin_step = begin_step
        self.end_step = end_step
        self.schedule = _make_schedule(schedule, begin_step, end_step)
        self.factors = _checked_factors(factors)
        vars(self).update(self._forget_model())

    def _forget_model(self):
        # `_value` is the present value of the variables, `None` while it is not known.
        return {**super()._forget_model(), "_variables": [], "_value": None, "_settled": False}

    def penalty_weight(self, step: int) -> float:
        """The weight at a step, without `factors`: `weight * factor(step) / num_examples`.

        Args:
            step: integer >= 0, the number of optimizer updates before this step.

        Returns:
            float.

        Raises:
            ValueError: if the schedule returns anything but a number in [0, 1].
        """
        factor = float(self.schedule(step))
        if not 0.0 <= factor <= 1.0:
            raise ValueError(f"`schedule` must return a factor in [0, 1]. Received: schedule({step}) = {factor}")
        return self.weight * factor / self.num_examples

    def update(self, model: keras.Model) -> float:
        """Sets the weight for the step that `model` takes next.

        Args:
            model: compiled Keras model.

        Returns:
            float, the new weight, without `factors`.

        Raises:
            ValueError: if no layer of `model` has a `penalty_weight`, or if `factors` does not fit the model.
        """
        self._variables = _find_variables(model, self.factors)
        self._value = None
        return self._move(model)

    def _move(self, model):
        # Convert to numpy first: the variables of `tf.distribute` strategies refuse `int(...)`.
        step = int(keras.ops.convert_to_numpy(model.optimizer.iterations))
        value = self.penalty_weight(step)
        if value != self._value:
            for variable, factor in self._variables:
                # Assign a number, not one tensor to all variables: JAX donates the buffer of each variable.
                variable.assign(value * factor)
            self._value = value
        settled_from = getattr(self.schedule, "settled_from", None)
        self._settled = settled_from is not None and step >= settled_from
        return value

    def on_train_begin(self, logs: dict | None = None) -> None:
        self.update(self.model)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        # Start afresh: another callback may have restored the weights and the step in the meantime.
        self.update(self.model)

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        # Read `self.model` only when it is needed: on JAX reading it synchronises the state.
        if not self._settled:
            self._move(self.model)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if logs is not None:
            logs["penalty_weight"] = self._value
