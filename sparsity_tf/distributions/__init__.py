"""Distributions turn one global target sparsity into one target for each weight tensor.

A distribution is a small immutable object. Called with tensors and a sparsity, it returns a list of floats:
`ErdosRenyiKernel()(tensors, 0.9)`. Algorithms use `allocate`: it takes distributions by name, keeps chosen tensors
dense and returns a dict. A tensor is anything with a `path` and a `shape`: a `SparseWeight`, or a `TensorSpec`.
"""

from sparsity_tf.distributions import budgets
from sparsity_tf.distributions.allocate import allocate, get, select_dense
from sparsity_tf.distributions.base import (
    Distribution,
    TensorSpec,
    check_tensors,
    exact_sparsity,
    names_of,
    shorten,
)
from sparsity_tf.distributions.families import BySize, ErdosRenyi, ErdosRenyiKernel, PerLayer, Uniform

__all__ = [
    "BySize",
    "Distribution",
    "ErdosRenyi",
    "ErdosRenyiKernel",
    "PerLayer",
    "TensorSpec",
    "Uniform",
    "allocate",
    "budgets",
    "check_tensors",
    "exact_sparsity",
    "get",
    "names_of",
    "select_dense",
    "shorten",
]


def __dir__():
    return __all__
