"""The distributions of the literature: uniform, Erdos-Renyi and its kernel form, by size, a number for each tensor.

Solutions are computed in exact rational arithmetic. So tensors of equal shapes get equal numbers, the order of the
tensors does not matter, and `masks.number_of_zeros(s, size)` rounds down the exact solution, not its binary
approximation.

Sources: Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse connectivity inspired by
network science" (arXiv 1707.04780: Erdos-Renyi); Evci et al., "Rigging the Lottery" (arXiv 1911.11134: kernels, and
tensors whose density would exceed 1); Dettmers and Zettlemoyer, "Sparse Networks from Scratch" (arXiv 1907.04840).
"""

import abc
import dataclasses
import fractions
import math
from collections.abc import Sequence
from typing import Any

from sparsity_tf.checks import check_fraction, check_number
from sparsity_tf.distributions.base import Distribution, as_written, check_tensors, exact_sparsity, match
from sparsity_tf.masks.ranking import number_of_zeros


@dataclasses.dataclass(frozen=True)
class Uniform(Distribution):
    """Every tensor gets the global target.

    Example:

    >>> Uniform()([TensorSpec("fc1", (784, 300)), TensorSpec("fc2", (300, 100))], 0.9)
    [0.9, 0.9]
    """

    def targets(self, tensors: Sequence[Any], sparsity: float | None) -> list[float]:
        return [as_written(sparsity)] * len(tensors)


class _Scaled(Distribution):
    """Density in proportion to a factor of the shape: density_l = min(1, epsilon * factor_l)."""

    @abc.abstractmethod
    def factor(self, shape: tuple[int, ...]) -> fractions.Fraction:
        """The factor of a shape, a positive `Fraction`."""

    def epsilon(self, tensors: Sequence[Any], sparsity: float) -> float:
        """The common factor epsilon, a float. The arguments are the arguments of a call."""
        check_fraction("sparsity", sparsity)
        check_tensors(tensors)
        return float(self._epsilon(tensors, sparsity))

    def targets(self, tensors: Sequence[Any], sparsity: float) -> list[float]:
        epsilon = self._epsilon(tensors, sparsity)
        exact = [max(fractions.Fraction(0), 1 - epsilon * self.factor(tensor.shape)) for tensor in tensors]
        return [exact_sparsity(s, math.prod(tensor.shape)) for s, tensor in zip(exact, tensors, strict=True)]

    def _epsilon(self, tensors, sparsity):
        left = [(self.factor(tensor.shape), math.prod(tensor.shape)) for tensor in tensors]
        ones = sum(size - number_of_zeros(sparsity, size) for _, size in left)
        while True:
            epsilon = ones / sum(factor * size for factor, size in left)
            largest = max(factor for factor, _ in left)
            # Epsilon only grows from turn to turn, so the densities of the tensors taken out would stay above 1. The
            # loop ends, because the last tensors can't exceed 1.
            if epsilon * largest <= 1:
                return epsilon
            ones -= sum(size for factor, size in left if factor == largest)
            left = [(factor, size) for factor, size in left if factor != largest]


@dataclasses.dataclass(frozen=True)
class ErdosRenyi(_Scaled):
    """Density in proportion to (n_in + n_out) / (n_in * n_out): `ErdosRenyiKernel` of the last two dimensions alone.

    Example:

    >>> tensors = [TensorSpec("conv", (3, 3, 64, 128)), TensorSpec("fc", (300, 100))]
    >>> [round(s, 4) for s in ErdosRenyi()(tensors, 0.9)]
    [0.8858, 0.935]
    """

    def factor(self, shape: tuple[int, ...]) -> fractions.Fraction:
        return fractions.Fraction(sum(shape[-2:]), math.prod(shape[-2:]))


@dataclasses.dataclass(frozen=True)
class ErdosRenyiKernel(_Scaled):
    """Density in proportion to sum(shape) / prod(shape): small tensors stay denser than large ones ("ERK").

    density_l = epsilon * (sum(shape_l) / prod(shape_l)) ** power. N_l is the number of entries, and epsilon solves
    sum_l density_l * N_l = sum_l (N_l - floor(sparsity * N_l)). If the largest density would exceed 1, all tensors with
    this density become dense. The other tensors take over the missing zeros: epsilon is solved again, until no density
    exceeds 1.

    The exact solution has as many zeros as `Uniform`. Rounding down loses less than one zero for each tensor that is
    not dense.

    Args:
        power: Number in [0, 10]. 0 gives all tensors the same density, 1 is the paper's ERK.

    Raises:
        ValueError: For any other power.

    Example:

    >>> lenet = [TensorSpec("fc1", (784, 300)), TensorSpec("fc2", (300, 100)), TensorSpec("fc3", (100, 10))]
    >>> [round(s, 6) for s in ErdosRenyiKernel()(lenet, 0.9)]
    [0.920432, 0.769811, 0.0]
    """

    power: float = 1.0

    def __post_init__(self):
        check_number("power", self.power, least=0, most=10)

    def factor(self, shape: tuple[int, ...]) -> fractions.Fraction:
        ratio = fractions.Fraction(sum(shape), math.prod(shape))
        # An integer power of a `Fraction` is exact. Any other power is a float.
        power = int(self.power) if self.power == int(self.power) else float(self.power)
        return fractions.Fraction(ratio**power)


@dataclasses.dataclass(frozen=True)
class BySize(_Scaled):
    """Density in proportion to sum(shape) / prod(shape), capped at 1. Other tensors do not make up for a capped one.

    epsilon = (1 - sparsity) * sum_l prod(shape_l) / sum_l sum(shape_l). Where a density is capped at 1, the model is
    sparser than the target. "Sparse Networks from Scratch" starts with this distribution ("linear" in its code) and
    regrows the difference later. `ErdosRenyiKernel` meets the target at once.

    Example:

    >>> tensors = [TensorSpec("fc1", (784, 300)), TensorSpec("fc2", (300, 100))]
    >>> [round(s, 4) for s in BySize()(tensors, 0.9)]
    [0.9176, 0.7617]
    """

    def factor(self, shape: tuple[int, ...]) -> fractions.Fraction:
        return fractions.Fraction(sum(shape), math.prod(shape))

    def _epsilon(self, tensors, sparsity):
        density = 1 - fractions.Fraction(str(sparsity))
        size = sum(math.prod(tensor.shape) for tensor in tensors)
        return density * size / sum(sum(tensor.shape) for tensor in tensors)


@dataclasses.dataclass(frozen=True)
class PerLayer(Distribution):
    """Every tensor, or group of tensors, gets a sparsity by its name.

    An entry is a name or a regular expression. It must match in full a tensor's path ("encoder/dense_1/kernel"), its
    layer's path ("encoder/dense_1") or its layer's name ("dense_1"). An entry that is the name of a tensor is taken
    literally.

    Args:
        sparsities: Dict from entries to sparsities in [0, 1).
        default: Sparsity in [0, 1) of the tensors that no entry matches; `None` for the global target.

    Raises:
        ValueError: For any other argument. A call raises it for an entry that matches no tensor, for a tensor that two
            entries match, and for a tensor without an entry if there is neither a default nor a global target.

    Example:

    >>> tensors = [TensorSpec("encoder/fc1/kernel", (784, 300)), TensorSpec("head/kernel", (300, 10))]
    >>> PerLayer({"encoder/.*": 0.95, "head": 0.5})(tensors, None)
    [0.95, 0.5]
    """

    sparsities: dict
    default: float | None = None
    explicit = True

    def __post_init__(self):
        # Without an entry or a default, the distribution says no more than the global target: surely a mistake.
        right = isinstance(self.sparsities, dict) and (self.sparsities or self.default is not None)
        if not right or not all(isinstance(entry, str) for entry in self.sparsities):
            raise ValueError(
                "`sparsities` must be a dict from strings, with at least one entry. "
                f"Received: sparsities={self.sparsities!r}"
            )
        object.__setattr__(self, "sparsities", dict(self.sparsities))
        for entry, sparsity in self.sparsities.items():
            check_fraction(f"sparsities[{entry!r}]", sparsity)
        if self.default is not None:
            check_fraction("default", self.default)

    def targets(self, tensors: Sequence[Any], sparsity: float | None) -> list[float]:
        fallback = sparsity if self.default is None else self.default
        targets = []
        for tensor, entries in zip(tensors, match("sparsities", self.sparsities, tensors), strict=True):
            if len(entries) > 1 or (not entries and fallback is None):
                raise ValueError(
                    f"`sparsities` must match each tensor {'exactly' if fallback is None else 'at most'} once. "
                    f"Received: {tensor.path!r}, matched by {entries}"
                )
            targets.append(as_written(self.sparsities[entries[0]] if entries else fallback))
        return targets
