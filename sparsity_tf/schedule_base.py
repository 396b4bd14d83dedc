"""What a schedule is: the base class of those in `schedules.py`."""

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
    """A number of numpy's as Python's."""
    return value.item() if isinstance(value, np.generic) else value


class Schedule(abc.ABC):
    """Base class: a number as a function of the step.

    A subclass is a frozen dataclass that implements `value(step, xp)`: elementwise in `step` (an integer array or
    tensor), written with the functions that `numpy` and `keras.ops` share, which `xp` is one of. It may also give
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
        """Value at `step`.

        Args:
            step: non-negative integer, or an integer numpy array, tensor or Keras variable of any shape.

        Returns:
            `float` for a Python or numpy integer; float64 array for an array; else a float32 tensor of the same shape.

        Raises:
            ValueError: if a Python number is negative or no integer, or an array holds one such.
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
        """Value at integer steps `step`, computed with `xp` (`numpy` or `keras.ops`)."""

    @property
    def settled_from(self) -> int | None:
        """First step from which on the value no longer changes, or None if there is none known."""
        return None

    def get_config(self) -> dict:
        """The constructor's arguments, as plain Python values that JSON can hold."""
        config = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.init}
        return {name: plain(value) for name, value in config.items()}

    @classmethod
    def from_config(cls, config: dict) -> "Schedule":
        """The schedule whose `get_config` is `config`."""
        return cls(**config)
