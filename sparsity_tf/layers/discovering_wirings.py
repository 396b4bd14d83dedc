"""Discovering neural wirings, DNW (Wortsman et al., 2019, arXiv 1906.00586), as the STR and RigL papers compare it.

Every forward pass keeps the weights of the largest magnitude and sets the rest to zero. The gradient goes straight
through to all weights, so a zeroed weight can grow back.
"""

from collections.abc import Callable

import keras
from keras import ops

from sparsity_tf import masks
from sparsity_tf.backend import drop_functions
from sparsity_tf.checks import check_fraction
from sparsity_tf.distributions import allocate, shorten
from sparsity_tf.layers import kinds
from sparsity_tf.layers.sparse_layer import flatten_layers, get_sparse_weights
from sparsity_tf.layers.sparse_weight import SparseWeight
from sparsity_tf.layers.technique import Technique
from sparsity_tf.type_names import DistributionLike, Tensor


class DiscoveringWirings(Technique):
    """Top-k by magnitude in every forward pass, with a straight-through gradient.

    Args:
        sparsity: Fraction of zeros, in [0, 1). Exactly floor(sparsity * n) of the n weights are zero. Of equal
            magnitudes the one with the lower index is kept.

    Example:

    ```python
    model = sparsity_tf.sparsify(model, DiscoveringWirings(sparsity=0.95))
    ```
    """

    name = "discovering_wirings"
    aliases = ("dnw",)
    # LiteRT would search for the top k in every call. It also drops the bias and the activation of a layer whose kernel
    # is computed.
    export_refusal = "the exported model would choose its wirings anew in every call"

    def __init__(self, sparsity: float = 0.9) -> None:
        check_fraction("sparsity", sparsity)
        self.sparsity = sparsity

    def value(self, weight: SparseWeight, select: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        # The mask depends on all weights, even if the call needs only some of them.
        kernel = ops.where(self.mask(weight), weight.tensor(), 0)
        return kernel if select is None else select(kernel)

    def mask(self, weight: SparseWeight) -> Tensor:
        return masks.top_k_mask(weight.tensor(), weight.size - masks.number_of_zeros(self.sparsity, weight.size))

    def training_value(self, weight: SparseWeight, select: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        kernel = weight.tensor(select)
        return kernel + ops.stop_gradient(self.value(weight, select) - kernel)


class DNWDense(kinds.SparseDense):
    """`keras.layers.Dense` with discovered wirings. Also takes the arguments of `DiscoveringWirings`."""

    technique_class = DiscoveringWirings


class DNWEinsumDense(kinds.SparseEinsumDense):
    """`keras.layers.EinsumDense` with discovered wirings. Also takes the arguments of `DiscoveringWirings`."""

    technique_class = DiscoveringWirings


class DNWConv1D(kinds.SparseConv1D):
    """`keras.layers.Conv1D` with discovered wirings. Also takes the arguments of `DiscoveringWirings`."""

    technique_class = DiscoveringWirings


class DNWConv2D(kinds.SparseConv2D):
    """`keras.layers.Conv2D` with discovered wirings. Also takes the arguments of `DiscoveringWirings`."""

    technique_class = DiscoveringWirings


class DNWConv3D(kinds.SparseConv3D):
    """`keras.layers.Conv3D` with discovered wirings. Also takes the arguments of `DiscoveringWirings`."""

    technique_class = DiscoveringWirings


class DNWConv1DTranspose(kinds.SparseConv1DTranspose):
    """`keras.layers.Conv1DTranspose` with discovered wirings. Also takes the arguments of `DiscoveringWirings`."""

    technique_class = DiscoveringWirings


class DNWConv2DTranspose(kinds.SparseConv2DTranspose):
    """`keras.layers.Conv2DTranspose` with discovered wirings. Also takes the arguments of `DiscoveringWirings`."""

    technique_class = DiscoveringWirings


class DNWConv3DTranspose(kinds.SparseConv3DTranspose):
    """`keras.layers.Conv3DTranspose` with discovered wirings. Also takes the arguments of `DiscoveringWirings`."""

    technique_class = DiscoveringWirings


class DNWDepthwiseConv1D(kinds.SparseDepthwiseConv1D):
    """`keras.layers.DepthwiseConv1D` with discovered wirings. Also takes the arguments of `DiscoveringWirings`."""

    technique_class = DiscoveringWirings


class DNWDepthwiseConv2D(kinds.SparseDepthwiseConv2D):
    """`keras.layers.DepthwiseConv2D` with discovered wirings. Also takes the arguments of `DiscoveringWirings`."""

    technique_class = DiscoveringWirings


class DNWSeparableConv1D(kinds.SparseSeparableConv1D):
    """`keras.layers.SeparableConv1D` with discovered wirings. Also takes the arguments of `DiscoveringWirings`."""

    technique_class = DiscoveringWirings


class DNWSeparableConv2D(kinds.SparseSeparableConv2D):
    """`keras.layers.SeparableConv2D` with discovered wirings. Also takes the arguments of `DiscoveringWirings`."""

    technique_class = DiscoveringWirings


def set_sparsities(
    model: keras.layers.Layer, distribution: DistributionLike, sparsity: float | None = None
) -> dict[str, float]:
    """Gives every layer whose technique has the option `sparsity` its own sparsity, e.g. from a budget.

    These techniques are "discovering_wirings" and "top_kast".

    Call this function before training: it drops the model's compiled functions. The sparsities are saved with the
    layers.

    Args:
        model: Built Keras model with layers of such a technique (`sparsify(model, "dnw")`).
        distribution: As in `allocate`: a `Budget`, the path of a CSV file, a name, ...
        sparsity: As in `allocate`.

    Returns:
        Dict from path to sparsity.

    Raises:
        ValueError: The model has no such layer, the distribution does not fit the model, or it prunes all weights of a
            layer.

    Example:

    >>> model = sparsity_tf.sparsify(model, "dnw")
    >>> set_sparsities(model, "uniform", 0.8)
    {'conv/kernel': 0.8, 'hidden/kernel': 0.8, 'logits/kernel': 0.8}
    """
    weights = [w for w in get_sparse_weights(model) if "sparsity" in w.technique.option_names()]
    if not weights:
        raise ValueError(
            "`model` must have layers of the technique 'discovering_wirings' or 'top_kast'. "
            f"Received: model={getattr(model, 'name', model)!r}"
        )
    targets = allocate(weights, sparsity, distribution)
    empty = [path for path, target in targets.items() if target >= 1]
    if empty:
        raise ValueError(
            "`distribution` must leave at least one weight in every layer. Received: a sparsity of 1 for "
            f"{shorten(empty)}"
        )
    for weight in weights:
        weight.technique.sparsity = targets[weight.path]
    for layer in flatten_layers(model):
        if isinstance(layer, keras.Model):
            drop_functions(layer)
    return targets
