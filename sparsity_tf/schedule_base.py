"""The base class of the schedules in `schedules.py`."""

import abc
import dataclasses
import numbers
from typing import Any

import keras
import numpy as np
from keras import ops

from sparsity_tf.checks import check_integer
from sparsity_tf.type_names import Tensor


def plain(value):
    """Turns a numpy number into a Python number."""
    return value.item() if isinstance(value, np.generic) else value


class Schedule(abc.ABC):
    """Base class of schedules. A schedule is a number that depends on the step.

    A subclass is a frozen dataclass that implements `value(step, xp)`, elementwise in `step` (an integer array or
    tensor). `xp` is `numpy` or `keras.ops`: use only functions that both have. A subclass may also define
    `settled_from`.

    Example:

    ```python
    @dataclasses.dataclass(frozen=True)
    class SquareRoot(Schedule):
        scale: float

        def value(self, step, xp):
            return self.scale * xp.sqrt(step)
    ```
    """

    def __call__(self, step: int | Tensor) -> float | Tensor:
        """The value at `step`.

        Args:
            step: non-negative integer, or an integer numpy array, tensor or Keras variable of any shape.

        Returns:
            A `float` for a Python or numpy integer; a float64 array for an array; else a float32 tensor of the same
            shape.

        Raises:
            ValueError: if a Python number, or a number in an array, is negative or not an integer.
        """
        if isinstance(step, numbers.Number):
            check_integer("step", step, 0)
            return float(self.value(np.int64(step), np))
        if isinstance(step, np.ndarray | np.generic):
            if not np.issubdtype(step.dtype, np.integer) or np.any(step < 0):
                raise ValueError(f"`step` must be non-negative integers. Received: step={step!r}")
            value = np.asarray(self.value(step.astype(np.int64), np), "float64")
            return float(value) if step.ndim == 0 else value
        known = ops.is_tensor(step) or isinstance(step, keras.Variable | keras.KerasTensor)
        if not known or not keras.backend.is_int_dtype(keras.backend.standardize_dtype(step.dtype)):
            raise ValueError(f"`step` must be an integer, or an array or tensor of them. Received: step={step!r}")
        return ops.cast(self.value(ops.convert_to_tensor(step), ops), "float32")

    @abc.abstractmethod
    def value(self, step: int | Tensor, xp: Any) -> Tensor:
        """The value at integer steps `step`, computed with `xp` (`numpy` or `keras.ops`)."""

    @property
    def settled_from(self) -> int | None:
        """The first step from which on the value no longer changes, or `None` if no such step is known."""
        return None

    def get_config(self) -> dict:
        """The arguments of the constructor, as plain Python values that JSON can hold."""
        config = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.init}
        return {name: plain(value) for name, value in config.items()}

    @classmethod
    def from_config(cls, config: dict) -> "Schedule":
        """Makes the schedule whose `get_config` is `config`."""
        return cls(**config)
