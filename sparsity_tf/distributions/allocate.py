"""`allocate` gives each weight tensor a target sparsity. Algorithms use distributions through it."""

import collections.abc
import os
import re
from collections.abc import Callable, Sequence
from typing import Any

from sparsity_tf.checks import check_callable, check_fraction, is_number, meant
from sparsity_tf.distributions.base import as_written, check_tensors, match, shorten
from sparsity_tf.distributions.budgets import read_csv
from sparsity_tf.distributions.families import BySize, ErdosRenyi, ErdosRenyiKernel, PerLayer, Uniform
from sparsity_tf.type_names import DenseWeights, DistributionLike

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


def get(identifier: DistributionLike) -> Callable[[Sequence[Any], float | None], Sequence[float]]:
    """Turns a user's notation for a distribution into a distribution.

    Args:
        identifier: A name: "uniform" (or "constant"), "er" ("erdos_renyi"), "erk" ("erdos_renyi_kernel"), "by_size"
            ("linear"); a dict (`PerLayer`); the path of a CSV file with one budget (`budgets.read_csv`); or a
            distribution or another callable of (tensors, sparsity), which is returned unchanged.

    Raises:
        ValueError: For an unknown name or anything else.

    Example:

    >>> get("erk")
    ErdosRenyiKernel(power=1.0)
    """
    if isinstance(identifier, str | os.PathLike) and os.fspath(identifier).lower().endswith(".csv"):
        return read_csv(identifier)
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
        f"callable of (tensors, sparsity). Received: distribution={identifier!r}{meant(identifier, _CLASSES)}"
    )


def allocate(
    tensors: Sequence[Any],
    sparsity: float | None,
    distribution: DistributionLike = "uniform",
    dense: DenseWeights = None,
) -> dict[str, float]:
    """Gives each tensor a target sparsity, by path.

    Tensors that are kept dense do not count, as in RigL: the other tensors meet the target among themselves, so the
    whole model is less sparse than `sparsity`. Where a distribution names each tensor's number (`PerLayer`, a budget),
    `dense` overrides it. A tensor gets `masks.number_of_zeros(s, size)` zeros: the product, rounded down.

    Args:
        tensors: Non-empty list of tensors with distinct paths: `get_sparse_weights(model)`, or `TensorSpec`s.
        sparsity: Global target in [0, 1); `None` where every tensor has a number of its own.
        distribution: Any argument of `get`.
        dense: The tensors to keep dense: "first", "last" or "first_and_last" in the order of `tensors`; a name or
            regular expression, or a list of names and regular expressions, matched as in `PerLayer`; or a predicate of
            a tensor.

    Returns:
        Dict from path to float in [0, 1), in the order of `tensors`. Dense tensors have 0.0. Only a budget gives 1.0.

    Raises:
        ValueError: For any other argument, or if all tensors are kept dense and `sparsity` is not zero.

    Example:

    >>> model = sparsity_tf.sparsify(model, "masked")
    >>> allocate(sparsity_tf.get_sparse_weights(model), 0.9, dense="first")
    {'conv/kernel': 0.0, 'hidden/kernel': 0.9, 'logits/kernel': 0.9}
    """
    check_tensors(tensors)
    paths = [tensor.path for tensor in tensors]
    twice = sorted({path for path in paths if paths.count(path) > 1})
    if twice:
        raise ValueError(
            f"`tensors` must have distinct paths: give their layers different names. Received more than once: {twice}"
        )
    given, distribution = distribution, get(distribution)
    explicit = getattr(distribution, "explicit", False)
    if sparsity is not None or not explicit:
        check_fraction("sparsity", sparsity)
    kept = select_dense(tensors, dense)
    if len(kept) == len(tensors) and sparsity:
        raise ValueError(
            "`dense` must leave at least one tensor that can be sparse, because `sparsity` is not zero. Received: "
            f"dense={dense!r}, sparsity={sparsity!r}, tensors={shorten(paths)}"
        )
    shared = [tensor for tensor in tensors if explicit or tensor.path not in kept]
    try:
        targets = distribution(shared, sparsity) if shared else []
    except ValueError as error:
        if given is distribution:
            raise
        # The object that `get` made knows only its own arguments. The user gave a name, a dict or a file.
        raise ValueError(f"`distribution`: {error}") from None
    targets = list(targets) if isinstance(targets, collections.abc.Iterable) else targets
    right = isinstance(targets, list) and len(targets) == len(shared)
    if not right or not all(is_number(target) and 0 <= target <= 1 for target in targets):
        raise ValueError(
            f"`distribution` must return {len(shared)} numbers in [0, 1], one for each tensor. "
            f"Received: {targets} from distribution={distribution!r}"
        )
    by_path = {tensor.path: as_written(target) for tensor, target in zip(shared, targets, strict=True)}
    return {path: 0.0 if path in kept else by_path[path] for path in paths}


def select_dense(tensors: Sequence[Any], dense: DenseWeights) -> set[str]:
    """The paths of the tensors to keep dense, a set. `dense` is the argument of `allocate`.

    Example:

    >>> tensors = [TensorSpec("fc1/kernel", (784, 300)), TensorSpec("fc2/kernel", (300, 100))]
    >>> select_dense(tensors, "last")
    {'fc2/kernel'}
    """
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
    return {tensor.path for tensor, hits in zip(tensors, match("dense", entries, tensors), strict=True) if hits}
