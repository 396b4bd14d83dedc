"""What an algorithm sees of one weight at one update, as numpy arrays."""

import dataclasses
import functools

import keras
import numpy as np

from sparsity_tf.callbacks.optimizer_slots import read


@dataclasses.dataclass
class WeightView:
    """What an algorithm, or a function of the user's, sees of one sparse weight at one update. Arrays are numpy's.

    Attributes:
        path: The weight's path in the model, e.g. `"encoder/dense_1/kernel"`.
        value: Float array, the weight; exactly zero where masked.
        mask: Bool array of the same shape, which entries live.
        step: Count of the optimizer step that the update belongs to.
        rng: `numpy.random.Generator`, seeded by the algorithm's seed, the step and the weight: draw from nothing else.
        filter_axes: Axes of the array that index output units.
        drop_fraction: Share of the live entries that is to be dropped now.
    """

    path: str
    value: np.ndarray
    mask: np.ndarray
    step: int = 0
    rng: np.random.Generator = None
    filter_axes: tuple = (-1,)
    drop_fraction: float = 0.0
    _slots: dict = dataclasses.field(default_factory=dict, repr=False)

    @functools.cached_property
    def active(self):
        """Number of live entries."""
        return int(np.count_nonzero(self.mask))

    @functools.cached_property
    def live(self):
        """Positions of the live entries in the flattened array, rising."""
        return np.flatnonzero(self.mask)

    @property
    def gradient(self):
        """The loss's gradient at this step, masked entries included; for functions that use it (`uses("gradient")`)."""
        return self._slot("gradient")

    @property
    def momentum(self):
        """The optimizer's momentum (m / (sqrt(v) + 1e-8) of Adam), masked entries included; `uses("momentum")`."""
        return self._slot("momentum")

    @property
    def variance(self):
        """Adam's running mean of squared gradients; `uses("variance")`."""
        return self._slot("variance")

    def _slot(self, name):
        if name not in self._slots:
            raise ValueError(
                f"A function reads the {name} of {self.path!r} without saying so. Decorate it with "
                f'`sparsity_tf.callbacks.uses("{name}")`.'
            )
        return self._slots[name]() if callable(self._slots[name]) else self._slots[name]


def read_mask(weight):
    """The mask of a masked weight as a numpy array."""
    return read(weight.extra_variable("mask"))


def read_value(weight):
    """The value of a masked weight as a numpy array."""
    # On JAX the variable itself may hold something where it is masked.
    source = weight.value() if keras.backend.backend() == "jax" else weight.variable
    return np.asarray(read(source), "float32")
