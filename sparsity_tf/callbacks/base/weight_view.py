"""What an algorithm sees of one weight at one update: numpy arrays, and on a GPU the tensors behind them."""

import functools
from typing import Any

import numpy as np

from sparsity_tf.backend import as_array, masks_in_forward_pass, tensor_of
from sparsity_tf.type_names import Tensor


class WeightView:
    """What an algorithm, or a function of the user's, sees of one sparse weight at one update. Arrays are numpy's.

    Beside the mask they are read when they are first asked for, before the algorithm assigns a mask.

    Attributes:
        path: The weight's path in the model, e.g. `"encoder/dense_1/kernel"`.
        value: Float array, the weight; exactly zero where masked.
        mask: Bool array of the same shape, which entries live.
        step: Count of the optimizer step that the update belongs to.
        rng: `numpy.random.Generator`, seeded by the algorithm's seed, the step and the weight: draw from nothing else.
        filter_axes: Axes of the array that index output units.
        drop_fraction: Share of the live entries that is to be dropped now.

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
        _slots: dict | None = None,
        _tensors: dict | None = None,
        _weight: Any = None,
    ) -> None:
        self.path, self.mask, self.step, self._rng = path, mask, step, rng
        self.filter_axes, self.drop_fraction = filter_axes, drop_fraction
        # The handle that an algorithm assigns a mask to.
        self._weight = _weight
        # Name -> array, or function that reads it.
        self._readers = {"value": value, **(_slots or {})}
        self._arrays = {}
        # Name -> function that returns the tensor, of weights on an accelerator.
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
        """Number of live entries."""
        return int(np.count_nonzero(self.mask))

    @functools.cached_property
    def live(self) -> np.ndarray:
        """Positions of the live entries in the flattened array, rising."""
        return np.flatnonzero(self.mask)

    @property
    def gradient(self) -> np.ndarray:
        """The loss's gradient at this step, masked entries included; for functions that use it (`uses("gradient")`)."""
        return self._array("gradient")

    @property
    def saliency(self) -> np.ndarray:
        """Value times gradient, the change of the loss to first order if the entry goes; `uses("gradient")`.

        Of a channel the sum over all weights that make it.
        """
        return self._array("saliency") if "saliency" in self._readers else self.value * self.gradient

    @property
    def momentum(self) -> np.ndarray:
        """The optimizer's momentum (m / (sqrt(v) + 1e-8) of Adam), masked entries included; `uses("momentum")`."""
        return self._array("momentum")

    @property
    def variance(self) -> np.ndarray:
        """Adam's running mean of squared gradients; `uses("variance")`."""
        return self._array("variance")

    def tensor(self, name: str) -> Tensor | None:
        """The tensor behind "value", "mask", "gradient" or "momentum", if it lies on a GPU or the like; else `None`."""
        return self._tensors[name]() if name in self._tensors else None

    def _array(self, name):
        if name not in self._readers:
            raise ValueError(
                f"A function reads the {name} of {self.path!r} without saying so. Decorate it with "
                f'`sparsity_tf.callbacks.uses("{name}")`.'
            )
        if name not in self._arrays:
            reader = self._readers[name]
            self._arrays[name] = reader() if callable(reader) else reader
        return self._arrays[name]

    def _release(self):
        """Lets go of the arrays, which may be the variables' own memory: it can't be written in place meanwhile."""
        self._arrays.clear()


def read_mask(weight):
    """The mask of a masked weight as a numpy array."""
    return as_array(tensor_of(weight.extra_variable("mask")))


def value_tensor(weight):
    """The value of a masked weight as a tensor, which keeps its content when the variable changes."""
    return weight.value() if masks_in_forward_pass() else tensor_of(weight.variable)
