"""From one global target sparsity to one target for each weight tensor.

A distribution is a small immutable object, called with tensors and a sparsity: `ErdosRenyiKernel()(tensors, 0.9)` is a
list of floats. `allocate` is the form that algorithms use: it takes distributions by name, keeps chosen tensors dense
and returns a dict. A tensor is anything with a `path` and a `shape`: a `SparseWeight`, or a `TensorSpec`.

Solutions are computed in exact rational arithmetic: tensors of one shape get one number, the order of the tensors does
not matter, and `masks.number_of_zeros(s, size)` rounds the exact solution down, not its binary approximation.

Sources: Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse connectivity inspired by
network science" (arXiv 1707.04780: Erdos-Renyi); Evci et al., "Rigging the Lottery" (arXiv 1911.11134: kernels, and
tensors that would be more than dense); Dettmers and Zettlemoyer, "Sparse Networks from Scratch" (arXiv 1907.04840).
"""

import abc
import collections.abc
import dataclasses
import fractions
import math
import os
import re

from sparsity_tf.checks import (
    check_callable,
    check_fraction,
    check_integer,
    check_integers,
    check_number,
    check_string,
    is_integer,
    is_number,
)
from sparsity_tf.masks import number_of_zeros


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """A weight tensor without a model: all that distributions know of one.

    Args:
        path: Where it stands, layer first: "encoder/dense_1/kernel".
        shape: Tuple of positive integers, at least one, axes as in Keras: inputs before outputs, both last.
    """

    path: str
    shape: tuple

    def __post_init__(self):
        check_string("path", self.path)
        try:
            shape = None if isinstance(self.shape, bytes) else tuple(self.shape)
        except TypeError:
            shape = None
        if shape is None:
            check_integers("shape", self.shape, 1)
        object.__setattr__(self, "shape", shape)
        check_tensors([self])

    @property
    def name(self):
        """Last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def size(self):
        """Number of entries."""
        return math.prod(self.shape)


class Distribution(abc.ABC):
    """Base class: a global sparsity becomes one sparsity a tensor. A subclass implements `targets`.

    `explicit` says that a tensor's number does not depend on the other tensors.
    """

    explicit = False

    def __call__(self, tensors, sparsity):
        """One target for each tensor.

        Args:
            tensors: Non-empty list of `SparseWeight`, `TensorSpec` or the like.
            sparsity: Global target in [0, 1): fraction of zeros among all entries of `tensors`. `None` if the
                distribution is `explicit`.

        Returns:
            List of floats in [0, 1), in the order of `tensors`.

        Raises:
            ValueError: For any other argument.
        """
        check_tensors(tensors)
        if sparsity is not None or not self.explicit:
            check_fraction("sparsity", sparsity)
        return self.targets(tensors, sparsity)

    @abc.abstractmethod
    def targets(self, tensors, sparsity):
        """What `__call__` returns, for arguments that have been checked."""


@dataclasses.dataclass(frozen=True)
class Uniform(Distribution):
    """Every tensor gets the global target."""

    def targets(self, tensors, sparsity):
        return [_as_written(sparsity)] * len(tensors)


class _Scaled(Distribution):
    """Density in proportion to a factor of the shape: density_l = min(1, epsilon * factor_l)."""

    @abc.abstractmethod
    def factor(self, shape):
        """Positive `Fraction`."""

    def epsilon(self, tensors, sparsity):
        """The common factor epsilon as a float; arguments as for a call."""
        check_fraction("sparsity", sparsity)
        check_tensors(tensors)
        return float(self._epsilon(tensors, sparsity))

    def targets(self, tensors, sparsity):
        epsilon = self._epsilon(tensors, sparsity)
        exact = [max(fractions.Fraction(0), 1 - epsilon * self.factor(tensor.shape)) for tensor in tensors]
        return [exact_sparsity(s, math.prod(tensor.shape)) for s, tensor in zip(exact, tensors, strict=True)]

    def _epsilon(self, tensors, sparsity):
        left = [(self.factor(tensor.shape), math.prod(tensor.shape)) for tensor in tensors]
        ones = sum(size - number_of_zeros(sparsity, size) for _, size in left)
        while True:
            epsilon = ones / sum(factor * size for factor, size in left)
            largest = max(factor for factor, _ in left)
            # Epsilon only grows from turn to turn, so tensors taken out stay above 1; the last ones can't pass it.
            if epsilon * largest <= 1:
                return epsilon
            ones -= sum(size for factor, size in left if factor == largest)
            left = [(factor, size) for factor, size in left if factor != largest]


@dataclasses.dataclass(frozen=True)
class ErdosRenyi(_Scaled):
    """As `ErdosRenyiKernel`, but in proportion to (n_in + n_out) / (n_in * n_out), the last two dimensions alone."""

    def factor(self, shape):
        return fractions.Fraction(sum(shape[-2:]), math.prod(shape[-2:]))


@dataclasses.dataclass(frozen=True)
class ErdosRenyiKernel(_Scaled):
    """Density in proportion to sum(shape) / prod(shape): small tensors stay denser than large ones ("ERK").

    density_l = epsilon * (sum(shape_l) / prod(shape_l)) ** power, with the epsilon that solves
    sum_l density_l * N_l = sum_l (N_l - floor(sparsity * N_l)), N_l the number of entries. If the largest density would
    exceed 1, all tensors that share it become dense, the zeros that they would have had are charged to the others, and
    epsilon is solved again, until no density exceeds 1.

    The solution has as many zeros as `Uniform`; rounding down loses fewer than one for each tensor that is not dense.

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

    def factor(self, shape):
        ratio = fractions.Fraction(sum(shape), math.prod(shape))
        # An integer power of a Fraction is exact, any other is a float.
        power = int(self.power) if self.power == int(self.power) else float(self.power)
        return fractions.Fraction(ratio**power)


@dataclasses.dataclass(frozen=True)
class BySize(_Scaled):
    """Density in proportion to sum(shape) / prod(shape), where what a full tensor can't take is lost.

    epsilon = (1 - sparsity) * sum_l prod(shape_l) / sum_l sum(shape_l), density_l capped at 1: the model is sparser
    than the target where a tensor is capped. "Sparse Networks from Scratch" starts like this ("linear" in its code) and
    regrows the difference later; `ErdosRenyiKernel` meets the target at once.
    """

    def factor(self, shape):
        return fractions.Fraction(sum(shape), math.prod(shape))

    def _epsilon(self, tensors, sparsity):
        density = 1 - fractions.Fraction(str(sparsity))
        size = sum(math.prod(tensor.shape) for tensor in tensors)
        return density * size / sum(sum(tensor.shape) for tensor in tensors)


@dataclasses.dataclass(frozen=True)
class PerLayer(Distribution):
    """A sparsity for each tensor, or group of tensors, by name.

    An entry is a name or a regular expression, matched in full against a tensor's path ("encoder/dense_1/kernel"), its
    layer's path ("encoder/dense_1") and its layer's name ("dense_1"). An entry that is the name of a tensor is taken
    literally.

    Args:
        sparsities: Dict from entries to sparsities in [0, 1).
        default: Sparsity in [0, 1) of the tensors that no entry matches; `None` for the global target.

    Raises:
        ValueError: For any other argument. In a call: an entry without a tensor, a tensor with two entries, or with
            none where there is neither a default nor a global target.
    """

    sparsities: dict
    default: float | None = None
    explicit = True

    def __post_init__(self):
        # Without a number of its own, the global target would do as well: a mistake.
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

    def targets(self, tensors, sparsity):
        fallback = sparsity if self.default is None else self.default
        targets = []
        for tensor, entries in zip(tensors, _match("sparsities", self.sparsities, tensors), strict=True):
            if len(entries) > 1 or (not entries and fallback is None):
                raise ValueError(
                    f"`sparsities` must match each tensor {'exactly' if fallback is None else 'at most'} once. "
                    f"Received: {tensor.path!r}, matched by {entries}"
                )
            targets.append(_as_written(self.sparsities[entries[0]] if entries else fallback))
        return targets


_CLASSES = {
    "uniform": Uniform,
    "constant": Uniform,
    "er": ErdosRenyi,
    "erdos_renyi": ErdosRenyi,
    "erk": ErdosRenyiKernel,
    "erdos_renyi_kernel": ErdosRenyiKernel,
    "by_size": BySize,
    "linear": BySize,
}


def get(identifier):
    """Turns what a user may pass as a distribution into a distribution.

    Args:
        identifier: A name: "uniform" (or "constant"), "er" ("erdos_renyi"), "erk" ("erdos_renyi_kernel"), "by_size"
            ("linear"); a dict (`PerLayer`); the path of a CSV file with one budget (`budgets.read_csv`); or a
            distribution or other callable of (tensors, sparsity), which is returned as it is.

    Raises:
        ValueError: For an unknown name or anything else.
    """
    if isinstance(identifier, str | os.PathLike) and os.fspath(identifier).lower().endswith(".csv"):
        from sparsity_tf.distributions import budgets

        return budgets.read_csv(identifier)
    if isinstance(identifier, str) and identifier in _CLASSES:
        return _CLASSES[identifier]()
    if isinstance(identifier, dict):
        try:
            return PerLayer(identifier)
        except ValueError as error:
            raise ValueError(f"`distribution`: {error}") from None
    if callable(identifier) and not isinstance(identifier, type):
        check_callable("distribution", identifier, "tensors", "sparsity")
        return identifier
    raise ValueError(
        f"`distribution` must be one of {sorted(_CLASSES)}, a dict, the path of a .csv file or a "
        f"callable of (tensors, sparsity). Received: distribution={identifier!r}"
    )


def allocate(tensors, sparsity, distribution="uniform", dense=None):
    """One target sparsity for each tensor, by path.

    Tensors that are kept dense are left out on both sides, as in RigL: the others take the target among themselves, so
    that the whole is less sparse than `sparsity`. Where numbers are explicit (`PerLayer`, a budget), `dense` overrides
    them. How many entries of a tensor are zero is `masks.number_of_zeros(s, size)`: rounded down.

    Args:
        tensors: Non-empty list of tensors with distinct paths: `get_sparse_weights(model)`, or `TensorSpec`s.
        sparsity: Global target in [0, 1); `None` where every tensor has a number of its own.
        distribution: What `get` takes.
        dense: Which tensors to keep dense: "first", "last" or "first_and_last" in the order of `tensors`; a name or
            regular expression, or a list of them, matched as in `PerLayer`; or a predicate of a tensor.

    Returns:
        Dict from path to float in [0, 1), in the order of `tensors`; 0.0 if kept dense, 1.0 only by a budget.

    Raises:
        ValueError: For any other argument; if all tensors are kept dense and `sparsity` is not zero.
    """
    check_tensors(tensors)
    paths = [tensor.path for tensor in tensors]
    twice = sorted({path for path in paths if paths.count(path) > 1})
    if twice:
        raise ValueError(f"`tensors` must have distinct paths: give their layers names. Received several of: {twice}")
    distribution = get(distribution)
    explicit = getattr(distribution, "explicit", False)
    if sparsity is not None or not explicit:
        check_fraction("sparsity", sparsity)
    kept = select_dense(tensors, dense)
    if len(kept) == len(tensors) and sparsity:
        raise ValueError(
            "`dense` must leave a tensor that can be sparse where `sparsity` is not zero. "
            f"Received: dense={dense!r}, sparsity={sparsity!r}, tensors={shorten(paths)}"
        )
    shared = [tensor for tensor in tensors if explicit or tensor.path not in kept]
    targets = distribution(shared, sparsity) if shared else []
    targets = list(targets) if isinstance(targets, collections.abc.Iterable) else targets
    right = isinstance(targets, list) and len(targets) == len(shared)
    if not right or not all(is_number(target) and 0 <= target <= 1 for target in targets):
        raise ValueError(
            f"`distribution` must return {len(shared)} numbers in [0, 1], one for each tensor. "
            f"Received: {targets} from distribution={distribution!r}"
        )
    by_path = {tensor.path: _as_written(target) for tensor, target in zip(shared, targets, strict=True)}
    return {path: 0.0 if path in kept else by_path[path] for path in paths}


def _as_written(number):
    """The float of a number's decimal notation, which decides how counts are rounded: the float32 0.9 is 0.9."""
    return float(str(number))


def exact_sparsity(sparsity, size):
    """The float next to an exact sparsity (a `Fraction` in [0, 1]) that gives floor(sparsity * size) zeros.

    The nearest float may lie on the other side of an integer number of zeros. The result is below 1 if `sparsity` is.
    """
    check_fraction("sparsity", sparsity, closed=True)
    check_integer("size", size, 1)
    number, zeros = min(float(sparsity), math.nextafter(1.0, 0.0)), math.floor(sparsity * size)
    while number_of_zeros(number, size) < zeros:
        number = math.nextafter(number, 1.0)
    while number_of_zeros(number, size) > zeros:
        number = math.nextafter(number, 0.0)
    return number


def names_of(tensor):
    """What a tensor may be called by: its path, its layer's path and its layer's name."""
    layer = tensor.path.rpartition("/")[0]
    return tuple(name for name in (tensor.path, layer, layer.rpartition("/")[2]) if name)


def check_tensors(tensors):
    """Raises a ValueError unless `tensors` is a list of tensors with shapes that a weight can have."""
    if not isinstance(tensors, list | tuple) or not tensors:
        raise ValueError(
            "`tensors` must be a list of at least one tensor, such as `get_sparse_weights(model)` of a model that is "
            f"sparse and built. Received: tensors={tensors!r}"
        )
    for tensor in tensors:
        if not hasattr(tensor, "shape") or not isinstance(getattr(tensor, "path", None), str):
            raise ValueError(f"`tensors` must hold tensors, which have a path and a shape. Received: {tensor!r}")
        shape = tuple(tensor.shape)
        if not shape or not all(is_integer(size) and size > 0 for size in shape):
            raise ValueError(f"`shape` must be positive integers. Received: shape={shape!r} of tensor {tensor.path!r}")


def select_dense(tensors, dense):
    """Paths of the tensors to keep dense, a set; `dense` as for `allocate`."""
    if dense is None:
        return set()
    first, last = tensors[0].path, tensors[-1].path
    ends = {"first": [first], "last": [last], "first_and_last": [first, last]}
    if callable(dense):
        check_callable("dense", dense, "tensor")
        return {tensor.path for tensor in tensors if dense(tensor)}
    entries = [dense] if isinstance(dense, str | re.Pattern) else dense
    if isinstance(dense, str):
        entries = ends.get(dense, entries)
    if not isinstance(entries, list | tuple | set | frozenset) or not all(
        isinstance(entry, str | re.Pattern) for entry in entries
    ):
        raise ValueError(
            f"`dense` must be one of {list(ends)}, names or regular expressions, or a predicate of a tensor. "
            f"Received: dense={dense!r}"
        )
    return {tensor.path for tensor, hits in zip(tensors, _match("dense", entries, tensors), strict=True) if hits}


def _match(argument, entries, tensors):
    """For each tensor the list of entries that match it; every entry must match something."""
    names = [names_of(tensor) for tensor in tensors]
    known = {name for own in names for name in own}
    matches = [[] for _ in tensors]
    for entry in entries:
        try:
            test = entry.__eq__ if entry in known else re.compile(entry).fullmatch
        except re.error as error:
            raise ValueError(
                f"`{argument}` must hold names or regular expressions. Received: {entry!r} ({error})"
            ) from None
        hits = [found for own, found in zip(names, matches, strict=True) if any(test(name) for name in own)]
        if not hits:
            raise ValueError(
                f"`{argument}` must hold entries that match a tensor. Received: {entry!r}, which matches none of "
                f"{shorten([tensor.path for tensor in tensors])}"
            )
        for found in hits:
            found.append(entry)
    return matches


def shorten(names, limit=20):
    """A list for an error message."""
    return f"{names[:limit]}" + (f" and {len(names) - limit} more" if len(names) > limit else "")
