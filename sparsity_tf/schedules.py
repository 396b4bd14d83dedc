"""Schedules: numbers that change with the training step, such as sparsity, drop fraction or penalty weight.

A schedule is a small immutable object, called with the step:

* with a Python (or numpy) integer it computes in double precision and returns a `float`;
* with a numpy array of steps it returns a float64 array of the same shape;
* with a tensor or Keras variable it uses `keras.ops` and returns a float32 tensor of the same
  shape, so a compiled train step can call it on any backend.

A schedule has no state: its value depends on the step alone, so that a resumed run continues exactly.
Steps count optimizer updates. Step 0 is the update with the first batch.

Sources: Zhu and Gupta, "To prune, or not to prune" (arXiv 1710.01878, eq. 1: the cubic sparsity ramp); Gale, Elsen and
Hooker, "The State of Sparsity in Deep Neural Networks" (arXiv 1902.09574: penalty ramps and their moving average); Evci
et al., "Rigging the Lottery" (arXiv 1911.11134, cosine drop fraction); Dettmers and Zettlemoyer, "Sparse Networks from
Scratch" (arXiv 1907.04840, cosine with a floor).
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from sparsity_tf.checks import (
    check_bool,
    check_callable,
    check_choice,
    check_instance,
    check_integer,
    check_number,
    is_number,
)
from sparsity_tf.schedule_base import Schedule, plain
from sparsity_tf.type_names import Tensor


def _check_range(begin_step, end_step):
    check_integer("begin_step", begin_step, 0)
    check_integer("end_step", end_step, 0)
    if begin_step >= end_step:
        raise ValueError(
            f"`begin_step` must be smaller than `end_step`. Received: begin_step={begin_step}, end_step={end_step}"
        )


def _progress(step, begin_step, end_step, xp):
    """The fraction of [begin_step, end_step] that has passed, between 0 and 1."""
    # Subtract integers, because a float32 step is inexact from 2**24 on.
    passed = step - begin_step
    if xp is ops:
        passed = ops.cast(passed, "float32")
    return xp.clip(passed / (end_step - begin_step), 0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Constant(Schedule):
    """The same number at every step.

    Args:
        constant: float.

    Example:

    >>> Constant(0.5)(1000)
    0.5
    """

    constant: float

    def __post_init__(self):
        check_number("constant", self.constant)

    def value(self, step: int | Tensor, xp: Any) -> Tensor:
        return xp.zeros_like(step, "float32" if xp is ops else "float64") + self.constant

    @property
    def settled_from(self) -> int:
        return 0


@dataclasses.dataclass(frozen=True)
class Polynomial(Schedule):
    """Goes from `initial` to `final`, ever more slowly, along a power; cubic by default.

    The value is `final + (initial - final) * (1 - p) ** power` with p = clip((step - begin_step) / (end_step -
    begin_step), 0, 1). It is exactly `initial` up to `begin_step` and exactly `final` from `end_step` on. (Zhu and
    Gupta, eq. 1, is `power=3`.) RigL's `exponential_k` drop fraction is
    `Polynomial(alpha, 0.0, begin_step, end_step, power=k)`.

    Args:
        initial: float, value up to `begin_step`.
        final: float, value from `end_step` on.
        begin_step: integer >= 0.
        end_step: integer > `begin_step`.
        power: float > 0.

    Raises:
        ValueError: for any other argument.

    Example:

    >>> Polynomial(0.0, 0.9, begin_step=40000, end_step=100000)(70000)
    0.7875
    """

    initial: float
    final: float
    begin_step: int
    end_step: int
    power: float = 3.0

    def __post_init__(self):
        check_number("initial", self.initial)
        check_number("final", self.final)
        _check_range(self.begin_step, self.end_step)
        check_number("power", self.power, above=0)

    def value(self, step: int | Tensor, xp: Any) -> Tensor:
        left = (1.0 - _progress(step, self.begin_step, self.end_step, xp)) ** self.power
        # This weighted mean is exact at both ends; `final + (initial - final) * left` would not be.
        return self.initial * left + self.final * (1.0 - left)

    @property
    def settled_from(self) -> int:
        return self.end_step


@dataclasses.dataclass(frozen=True)
class Cubic(Polynomial):
    """`Polynomial` with `power=3`: the sparsity ramp of Zhu and Gupta.

    Args:
        initial, final, begin_step, end_step: see `Polynomial`.

    Example:

    >>> Cubic(0.0, 0.5, begin_step=0, end_step=100)(50)
    0.4375
    """

    power: float = dataclasses.field(default=3.0, init=False, repr=False)


@dataclasses.dataclass(frozen=True)
class Linear(Polynomial):
    """`Polynomial` with `power=1`: a straight line from `initial` to `final`.

    Args:
        initial, final, begin_step, end_step: see `Polynomial`.

    Example:

    >>> Linear(0.0, 0.8, begin_step=0, end_step=100)(50)
    0.4
    """

    power: float = dataclasses.field(default=1.0, init=False, repr=False)


@dataclasses.dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine wave from `initial` down (or up) to `floor`.

    The value is `floor + (initial - floor) / 2 * (1 + cos(pi * p))` with p as in `Polynomial`. It stays at `floor` from
    `end_step` on. With `floor=0` this is RigL's drop fraction. (The published TensorFlow code starts the wave at step 0
    instead of `begin_step`, a defect.) With `floor=0.005` it is the prune rate of Sparse Networks from Scratch. (In the
    published code the rate rises again after the end, a defect.)

    Args:
        initial: float, value up to `begin_step`.
        begin_step: integer >= 0.
        end_step: integer > `begin_step`.
        floor: float, value from `end_step` on.

    Raises:
        ValueError: for any other argument.

    Example:

    >>> Cosine(0.3, begin_step=0, end_step=100)(50)
    0.15
    """

    initial: float
    begin_step: int
    end_step: int
    floor: float = 0.0

    def __post_init__(self):
        check_number("initial", self.initial)
        check_number("floor", self.floor)
        _check_range(self.begin_step, self.end_step)

    def value(self, step: int | Tensor, xp: Any) -> Tensor:
        progress = _progress(step, self.begin_step, self.end_step, xp)
        left = 0.5 * (1.0 + xp.cos(math.pi * progress))
        return self.initial * left + self.floor * (1.0 - left)

    @property
    def settled_from(self) -> int:
        return self.end_step


@dataclasses.dataclass(frozen=True)
class Exponential(Schedule):
    """Geometric: multiplies the value by `rate` every `decay_steps` steps, continuously or in stairs.

    The value is `initial * rate ** ((step - begin_step) / decay_steps)` from `begin_step` on, and `initial` before.

    Args:
        initial: float, value up to `begin_step`.
        rate: float > 0. Below 1 the value falls.
        decay_steps: integer >= 1.
        begin_step: integer >= 0.
        staircase: bool: whether the exponent is rounded down to a whole number.

    Raises:
        ValueError: for any other argument.

    Example:

    >>> Exponential(1.0, rate=0.5, decay_steps=100)(200)
    0.25
    """

    initial: float
    rate: float
    decay_steps: int
    begin_step: int = 0
    staircase: bool = False

    def __post_init__(self):
        check_number("initial", self.initial)
        check_number("rate", self.rate, above=0)
        check_integer("decay_steps", self.decay_steps, 1)
        check_integer("begin_step", self.begin_step, 0)
        check_bool("staircase", self.staircase)

    def value(self, step: int | Tensor, xp: Any) -> Tensor:
        passed = xp.maximum(step - self.begin_step, 0)
        if self.staircase:
            passed = passed // self.decay_steps * self.decay_steps
        if xp is ops:
            passed = ops.cast(passed, "float32")
        return self.initial * xp.exp(math.log(self.rate) / self.decay_steps * passed)


@dataclasses.dataclass(frozen=True)
class Piecewise(Schedule):
    """Constant between boundaries.

    The value is `values[0]` before `boundaries[0]`, and `values[i]` from step `boundaries[i - 1]` on, this step
    included. (Keras's `PiecewiseConstantDecay` changes one step later, after its boundary.)

    Args:
        boundaries: strictly increasing integers >= 0.
        values: floats, one more than there are `boundaries`.

    Raises:
        ValueError: for any other argument.

    Example:

    >>> Piecewise((100, 200), (0.3, 0.2, 0.1))(150)
    0.2
    """

    boundaries: tuple
    values: tuple

    def __post_init__(self):
        for name in ("boundaries", "values"):
            check_instance(name, getattr(self, name), list, tuple)
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for boundary in self.boundaries:
            check_integer("boundaries", boundary, 0)
        for value in self.values:
            check_number("values", value)
        if any(a >= b for a, b in zip(self.boundaries, self.boundaries[1:], strict=False)):
            raise ValueError(f"`boundaries` must be strictly increasing. Received: boundaries={self.boundaries}")
        if len(self.values) != len(self.boundaries) + 1:
            raise ValueError(
                "`values` must hold one number more than `boundaries`. "
                f"Received: boundaries={self.boundaries}, values={self.values}"
            )

    def value(self, step: int | Tensor, xp: Any) -> Tensor:
        value = Constant(self.values[0]).value(step, xp)
        for boundary, new in zip(self.boundaries, self.values[1:], strict=True):
            value = xp.where(step >= boundary, new, value)
        return value

    @property
    def settled_from(self) -> int:
        return self.boundaries[-1] if self.boundaries else 0

    def get_config(self) -> dict:
        return {"boundaries": list(map(plain, self.boundaries)), "values": list(map(plain, self.values))}


@dataclasses.dataclass(frozen=True)
class ExponentialMovingAverage(Schedule):
    """Exponential moving average of another schedule. Gale et al. smooth their cubic ramp in this way.

    The value at step t is v_t = decay * v_(t-1) + (1 - decay) * schedule(t) with v_(-1) = 0: one update in each step,
    the first at step 0. It is computed as the sum (1 - decay) * sum_k decay^k * schedule(t - k). So it needs no state,
    and a resumed run gets the same number to the bit. Terms with decay^k < 2^-53, below double precision, are left out:
    the sum has 349 terms for `decay=0.9` and 36,719 for 0.999.

    Args:
        schedule: a `Schedule`, or a number or config that `get` turns into one.
        decay: float in [0, 0.9999].

    Raises:
        ValueError: for any other argument.

    Example:

    >>> round(ExponentialMovingAverage(Cubic(0.0, 1.0, 0, 1000), decay=0.9)(100), 6)
    0.248664
    """

    schedule: Schedule
    decay: float = 0.9

    def __post_init__(self):
        if is_number(self.schedule) or isinstance(self.schedule, dict):
            object.__setattr__(self, "schedule", of_argument("schedule", self.schedule))
        check_instance("schedule", self.schedule, Schedule)
        check_number("decay", self.decay, least=0, most=0.9999)

    @property
    def _terms(self):
        return 1 + (math.floor(-53 * math.log(2) / math.log(self.decay)) if self.decay else 0)

    def value(self, step: int | Tensor, xp: Any) -> Tensor:
        age = np.arange(self._terms)
        weight = (1.0 - self.decay) * np.power(float(self.decay), age)
        if xp is ops:
            dtype = keras.backend.standardize_dtype(step.dtype)
            age, weight = ops.cast(age, dtype), ops.cast(weight, "float32")
        past = xp.expand_dims(step, -1) - age
        value = self.schedule.value(xp.maximum(past, 0), xp)
        return xp.sum(xp.where(past >= 0, weight * value, 0.0), -1)

    @property
    def settled_from(self) -> int | None:
        settled = self.schedule.settled_from
        return None if settled is None else settled + self._terms - 1

    def get_config(self) -> dict:
        return {"schedule": serialize(self.schedule), "decay": plain(self.decay)}


_CLASSES = {
    "constant": Constant,
    "polynomial": Polynomial,
    "cubic": Cubic,
    "linear": Linear,
    "cosine": Cosine,
    "exponential": Exponential,
    "piecewise": Piecewise,
    "exponential_moving_average": ExponentialMovingAverage,
}


def serialize(schedule: Schedule) -> dict:
    """Turns a schedule of this module into plain Python values, for configs and JSON.

    Args:
        schedule: an instance of a class of this module.

    Returns:
        `{"class_name": ..., "config": ...}`, which `get` turns back into an equal schedule.

    Raises:
        ValueError: if `schedule` is anything else, because `get` could not rebuild it from its name.

    Example:

    >>> serialize(Constant(0.5))
    {'class_name': 'Constant', 'config': {'constant': 0.5}}
    """
    if type(schedule) not in _CLASSES.values():
        raise ValueError(
            "`schedule` must be one of the classes of sparsity_tf.schedules, because other functions can't be saved. "
            f"Received: schedule={schedule!r}"
        )
    return {"class_name": type(schedule).__name__, "config": schedule.get_config()}


def get(identifier: float | str | dict | Callable[[int], float], **kwargs: Any) -> Callable[[int], float]:
    """Turns a user's notation for a schedule into a schedule.

    Args:
        identifier: a number (`Constant`), a schedule or other callable of the step (returned unchanged), the result of
            `serialize`, or a name with arguments as keywords: "constant", "polynomial", "cubic", "linear", "cosine",
            "exponential", "piecewise", "exponential_moving_average".
        **kwargs: arguments of the named schedule. Only allowed with a name.

    Returns:
        A `Schedule`, or the given callable.

    Raises:
        ValueError: for an unknown name or anything else.

    Example:

    >>> get("cosine", initial=0.3, begin_step=0, end_step=100)(50)
    0.15
    """
    if isinstance(identifier, str):
        check_choice("identifier", identifier, sorted(_CLASSES))
        return _CLASSES[identifier](**kwargs)
    if kwargs:
        raise ValueError(
            f"Arguments can be given only with the name of a schedule. Received: identifier={identifier!r}, {kwargs}"
        )
    return of_argument("identifier", identifier)


def of_argument(name: str, identifier: float | dict | Callable[[int], float]) -> Callable[[int], float]:
    """The schedule that a number, a config or a function of the step stands for: `get` for everything but names.

    Args:
        name: Name of the argument, for messages.
        identifier: Value of the argument.

    Raises:
        ValueError: for anything else.
    """
    if isinstance(identifier, dict):
        by_class_name = {cls.__name__: cls for cls in _CLASSES.values()}
        check_choice(f"{name}['class_name']", identifier.get("class_name"), sorted(by_class_name))
        check_instance(f"{name}['config']", identifier.get("config"), dict)
        return by_class_name[identifier["class_name"]].from_config(identifier["config"])
    if is_number(identifier):
        check_number(name, identifier)
        return Constant(float(identifier))
    if not callable(identifier):
        raise ValueError(
            f"`{name}` must be a number, a name, a config or a callable of the step. Received: {name}={identifier!r}"
        )
    check_callable(name, identifier, "step")
    return identifier
