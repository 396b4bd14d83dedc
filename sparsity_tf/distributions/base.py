"""The base class of distributions, and the tensors that a distribution is called with: each has a path and a shape."""

import abc
import dataclasses
import fractions
import math
import re
from collections.abc import Sequence
from typing import Any

from sparsity_tf.call_repr import CallRepr
from sparsity_tf.checks import check_fraction, check_integer, check_integers, check_string, is_integer
from sparsity_tf.masks.ranking import number_of_zeros


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """A weight tensor without a model: the path and the shape that a distribution needs.

    Args:
        path: Path of the weight in the model, the layer first: "encoder/dense_1/kernel".
        shape: Tuple of at least one positive integer. The axes are as in Keras: the axes of inputs and outputs come
            last, inputs before outputs.

    Example:

    >>> tensor = TensorSpec("encoder/dense_1/kernel", (784, 300))
    >>> tensor.name, tensor.size
    ('kernel', 235200)
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
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def size(self) -> int:
        """The number of entries."""
        return math.prod(self.shape)


class Distribution(CallRepr, abc.ABC):
    """Base class of distributions, which turn a global sparsity into one for each tensor. A subclass defines `targets`.

    `explicit` is true if the sparsity of a tensor does not depend on the other tensors.

    Example:

    ```python
    class FirstDense(Distribution):
        def targets(self, tensors, sparsity):
            return [0.0, *[sparsity] * (len(tensors) - 1)]


    sparsity_tf.callbacks.RigL(sparsity=0.9, distribution=FirstDense())
    ```
    """

    explicit = False

    def __call__(self, tensors: Sequence[Any], sparsity: float | None) -> list[float]:
        """Returns one target for each tensor.

        Args:
            tensors: Non-empty list of `SparseWeight`, `TensorSpec` or similar objects.
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
    def targets(self, tensors: Sequence[Any], sparsity: float | None) -> list[float]:
        """Computes the result of `__call__`, which has checked the arguments."""


def as_written(number):
    """The float with the same decimal notation as a number: the float32 0.9 becomes 0.9. Counts are rounded by it."""
    return float(str(number))


def exact_sparsity(sparsity: fractions.Fraction, size: int) -> float:
    """The float near an exact sparsity (a `Fraction` in [0, 1]) that gives floor(sparsity * size) zeros.

    The nearest float of all may give one zero more or fewer. The result is below 1 if `sparsity` is below 1.

    Example:

    >>> import fractions
    >>> exact_sparsity(fractions.Fraction(1, 3), 3)
    0.3333333333333333
    """
    check_fraction("sparsity", sparsity, closed=True)
    check_integer("size", size, 1)
    number, zeros = min(float(sparsity), math.nextafter(1.0, 0.0)), math.floor(sparsity * size)
    while number_of_zeros(number, size) < zeros:
        number = math.nextafter(number, 1.0)
    while number_of_zeros(number, size) > zeros:
        number = math.nextafter(number, 0.0)
    return number


def names_of(tensor: Any) -> tuple[str, ...]:
    """The names by which a user may call a tensor: its path, its layer's path and its layer's name.

    Example:

    >>> names_of(TensorSpec("encoder/dense_1/kernel", (784, 300)))
    ('encoder/dense_1/kernel', 'encoder/dense_1', 'dense_1')
    """
    layer = tensor.path.rpartition("/")[0]
    return tuple(name for name in (tensor.path, layer, layer.rpartition("/")[2]) if name)


def check_tensors(tensors: Sequence[Any]) -> None:
    """Raises a ValueError unless `tensors` is a list of tensors with shapes that a weight can have.

    Example:

    >>> check_tensors([TensorSpec("dense/kernel", (784, 300))])
    """
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


def match(argument, entries, tensors):
    """For each tensor, the list of the entries that match it. Every entry must match at least one tensor."""
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


def shorten(names: list, limit: int = 20) -> str:
    """Formats a list for an error message: at most `limit` names.

    Example:

    >>> shorten(["a", "b", "c"], limit=2)
    "['a', 'b'] and 1 more"
    """
    return f"{names[:limit]}" + (f" and {len(names) - limit} more" if len(names) > limit else "")
