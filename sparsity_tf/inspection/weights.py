"""The weights of a model as inspection counts them: one record for each kernel, read once.

Everything in `sparsity_tf.inspection` (tables, operation counts, plots) starts from these records. A sparse layer says
through its `sparse_weights` which of its weights are sparse, and gives their values at inference. A plain Keras layer
does not, so its kernels are found by rank and name, and their exact zeros are counted. This module knows no technique:
masked layers, variational dropout, L0 and soft thresholds all use the same protocol.
"""

from collections import namedtuple

import keras
import numpy as np

from sparsity_tf.backend import own_trainable_variables, own_variables
from sparsity_tf.checks import check_layer
from sparsity_tf.masks import structures

# These weights are never kernels, even at rank 2: the bias of a multi-head projection has rank 2.
_NOT_KERNELS = ("bias", "gamma", "beta", "alpha")

# Attributes under which Keras layers hold a kernel. For LoRA and quantised layers the attribute gives the kernel that
# the layer really applies.
_KERNEL_NAMES = (
    "kernel",
    "recurrent_kernel",
    "depthwise_kernel",
    "pointwise_kernel",
    "embeddings",
    "reverse_embeddings",
)

WeightRecord = namedtuple(
    "WeightRecord",
    [
        "layer",
        "name",
        "path",
        "variable",
        "shape",
        "nonzeros",
        "finite",
        "threshold",
        "sparse",
        "live",
        "note",
        "stored",
    ],
    defaults=[None, "", None],
)
WeightRecord.__doc__ = """One kernel or embedding matrix of a layer, counted.

Args:
    layer: the Keras layer that owns the weight.
    name: name of the weight in its layer, e.g. `"kernel"`.
    path: name of the weight in the model, e.g. `"encoder/dense_1/kernel"`.
    variable: the Keras variable that holds it.
    shape: tuple of ints.
    nonzeros: int, entries of the inference value that are not exactly 0 (NaN is not 0).
    finite: bool, `False` if the value, the variable behind it, or any other variable of the layer
        is NaN, or if the value or the variable is infinite. A gate computed from NaN is often 0:
        without this flag a diverged model would look 100 % sparse.
    threshold: `None`, a float, or `(lowest, highest)` when the weight has several thresholds.
    sparse: bool, whether a sparse layer listed the weight (`False`: a kernel of a plain layer).
    live: int, entries that the mask lets live, or `None` for a plain kernel. More than `nonzeros` where live entries
        are exactly 0, as weights that were just grown are.
    note: string, what else is to be said of the weight, mostly empty.
    stored: int, the numbers that hold the weight at inference, or `None` if these are its `nonzeros`. A hashed layer
        stores fewer numbers than it has weights.
"""


def as_numpy(tensor):
    """Converts a tensor or variable to a NumPy array, half-precision floats to float32."""
    array = keras.ops.convert_to_numpy(tensor)
    return array if array.dtype.kind in "iub" else array.astype("float32", copy=False)


def own_matrices(layer):
    """Trainable variables of `layer` itself that have at least two dimensions and are not a bias."""
    return [
        v
        for v in own_trainable_variables(layer)
        if len(v.shape) >= 2 and "bias" not in v.name and not v.name.startswith("lora_")
    ]


def sparse_weights(layer):
    """`layer.sparse_weights`, or an empty list for a plain Keras layer."""
    return list(getattr(layer, "sparse_weights", None) or [])


def weight_records(layer):
    """Counts the kernels of one layer, but not of the layers inside it.

    Args:
        layer: a Keras layer, sparse or plain.

    Returns:
        List of `WeightRecord`, sparse weights first.
    """
    listed = sparse_weights(layer)
    records = []
    if listed:
        any_nan = any(np.isnan(as_numpy(v)).any() for v in own_variables(layer) if "float" in v.dtype)
        for weight in listed:
            value = as_numpy(weight.value())
            finite = not any_nan and np.isfinite(value).all() and np.isfinite(as_numpy(weight.variable)).all()
            records.append(
                WeightRecord(
                    layer,
                    weight.name,
                    weight.path,
                    weight.variable,
                    tuple(weight.shape),
                    int(np.count_nonzero(value)),
                    bool(finite),
                    _threshold(weight.threshold()),
                    True,
                    int(np.count_nonzero(keras.ops.convert_to_numpy(weight.mask()))),
                    structures.problem(weight) or "",
                    weight.technique.stored_of(weight),
                )
            )
    for variable, value in _plain_kernels(layer, {id(weight.variable) for weight in listed}, bool(listed)):
        records.append(
            WeightRecord(
                layer,
                variable.name,
                f"{layer.path or layer.name}/{variable.name}",
                variable,
                tuple(value.shape),
                int(np.count_nonzero(value)),
                bool(np.isfinite(value).all()),
                None,
                False,
            )
        )
    return records


def _plain_kernels(layer, listed_ids, is_sparse_layer):
    """Variables and values of the kernels that are not sparse weights.

    In a sparse layer only Keras's own names are kernels: its other matrices belong to the technique
    (variances, gate parameters, thresholds).
    """
    unnamed = [] if is_sparse_layer else [v for v in own_matrices(layer) if v.name not in _NOT_KERNELS]
    for variable in own_variables(layer):
        if id(variable) in listed_ids:
            continue
        if variable.name in _KERNEL_NAMES:
            yield variable, as_numpy(getattr(layer, variable.name, variable))
        elif any(variable is v for v in unnamed):
            yield variable, as_numpy(variable)


def _threshold(threshold):
    if threshold is None:
        return None
    values = as_numpy(threshold).astype("float64")
    if values.size == 1:
        return float(values.reshape(()))
    return float(values.min()), float(values.max())


def kernel_value(layer):
    """The kernel that a layer uses at inference, zeros included.

    Args:
        layer: a built sparse or plain layer. If it has several kernels, the first one counts.

    Returns:
        NumPy array.

    Raises:
        ValueError: if the layer has no kernel.
    """
    check_layer("layer", layer)
    weights = sparse_weights(layer)
    if weights:
        return as_numpy(weights[0].value())
    for _, value in _plain_kernels(layer, set(), False):
        return value
    raise ValueError(f"`layer` must be a built layer with a kernel. Received: layer={layer!r}")
