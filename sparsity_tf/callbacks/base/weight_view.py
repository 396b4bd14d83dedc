"""The view that an algorithm has of one weight at one update: numpy arrays, and on a GPU the tensors behind them."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from sparsity_tf.backend import as_array, masks_in_forward_pass, tensor_of
from sparsity_tf.type_names import Tensor


class WeightView:
    """The view of one sparse weight at one update, for an algorithm or a user's function. Arrays are numpy arrays.

    All arrays but the mask are read when they are first used. Use them before the algorithm assigns a mask.

    Attributes:
        path: The weight's path in the model, e.g. `"encoder/dense_1/kernel"`.
        value: Float array: the weight. It is exactly zero where it is masked.
        mask: Bool array of the same shape: True for live entries.
        step: Count of the optimizer step that the update belongs to.
        rng: `numpy.random.Generator`, seeded by the algorithm's seed, the step and the weight. Draw all random numbers
            from it.
        filter_axes: Axes of the array that index output units.
        drop_fraction: Share of the live entries to drop now.

    Example:

    ```python
    def largest_first(weight):
        return weight.rng.random(weight.value.shape) - np.abs(weight.value)


    sparsity_tf.callbacks.DropAndGrow(sparsity=0.9, drop=largest_first)
    ```
    """

    def __init__(
        self,
        path: str,
        value: np.ndarray,
        mask: np.ndarray,
        step: int = 0,
        rng: np.random.Generator | None = None,
        filter_axes: tuple[int, ...] = (-1,),
        drop_fraction: float = 0.0,
        _stored: Callable[[], np.ndarray] | None = None,
        _slots: dict | None = None,
        _tensors: dict | None = None,
        _weight: Any = None,
    ) -> None:
        self.path, self.mask, self.step, self._rng = path, mask, step, rng
        self.filter_axes, self.drop_fraction = filter_axes, drop_fraction
        # The `SparseWeight` or `TiedWeight` whose mask the algorithm sets.
        self._weight = _weight
        # Name -> array, or function that reads the array.
        self._readers = {"value": value, "live_value": _stored or value, **(_slots or {})}
        self._arrays = {}
        # Name -> function that returns the tensor. It is empty unless the weight lies on an accelerator.
        self._tensors = _tensors or {}

    def __repr__(self):
        return f"WeightView({self.path!r}, shape={self.mask.shape}, live={self.active}, step={self.step})"

    @property
    def value(self) -> np.ndarray:
        return self._array("value")

    @functools.cached_property
    def rng(self) -> np.random.Generator | None:
        return self._rng() if callable(self._rng) else self._rng

    @functools.cached_property
    def active(self) -> int:
        """The number of live entries."""
        return int(np.count_nonzero(self.mask))

    @functools.cached_property
    def live(self) -> np.ndarray:
        """The rising positions of the live entries in the flattened array."""
        return np.flatnonzero(self.mask)

    @property
    def live_value(self) -> np.ndarray:
        """As `value` where the weight lives; elsewhere any number.

        On JAX `value` is computed from the variable and the mask. This array is the variable's own memory.
        """
        return self._array("live_value")

    @property
    def gradient(self) -> np.ndarray:
        """The gradient of the loss at this step, masked entries included. For functions marked `uses("gradient")`."""
        return self._array("gradient")

    @property
    def saliency(self) -> np.ndarray:
        """Value times gradient: to first order the change of the loss if the entry is pruned, up to its sign.

        For a channel it is the sum over all weights that make the channel. For functions marked `uses("gradient")`.
        """
        return self._array("saliency") if "saliency" in self._readers else self.value * self.gradient

    @property
    def momentum(self) -> np.ndarray:
        """The optimizer's momentum, masked entries included. For Adam it is m / (sqrt(v) + 1e-8).

        For functions marked `uses("momentum")`.
        """
        return self._array("momentum")

    @property
    def variance(self) -> np.ndarray:
        """Adam's running mean of squared gradients. For functions marked `uses("variance")`."""
        return self._array("variance")

    def tensor(self, name: str) -> Tensor | None:
        """The tensor behind "value", "mask", "gradient" or "momentum" if it lies on an accelerator, else `None`."""
        return self._tensors[name]() if name in self._tensors else None

    def _array(self, name):
        if name not in self._readers:
            raise ValueError(
                f"A function reads the {name} of {self.path!r}, but does not declare it. Decorate the function with "
                f'`sparsity_tf.callbacks.uses("{name}")`.'
            )
        if name not in self._arrays:
            reader = self._readers[name]
            self._arrays[name] = reader() if callable(reader) else reader
        return self._arrays[name]

    def _release(self, mask):
        """Takes a new mask. Drops the arrays: a variable whose memory one of them is could not be written in place."""
        self._arrays.clear()
        self.mask = mask


def read_mask(weight):
    """The mask of a masked weight as a numpy array."""
    return as_array(tensor_of(weight.extra_variable("mask")))


def value_tensor(weight):
    """The value of a masked weight as a tensor that keeps its content when the variable changes."""
    return weight.value() if masks_in_forward_pass() else stored_tensor(weight)


def stored_tensor(weight):
    """As `value_tensor` where the weight lives; elsewhere any number."""
    return weight.value() if weight.technique.reparametrized else tensor_of(weight.variable)
