"""Discovering neural wirings, DNW (Wortsman et al., 2019, arXiv 1906.00586), as in STR's and RigL's comparisons.

Every forward pass keeps the weights of the largest magnitude and zeroes the rest; the gradient goes straight through
to all of them, so that a zeroed weight can grow back.
"""

from keras import ops

from sparsity_tf import masks
from sparsity_tf.checks import check_fraction
from sparsity_tf.layers import kinds
from sparsity_tf.layers.technique import Technique


class DiscoveringWirings(Technique):
    """Top-k by magnitude in every forward pass, with a straight-through gradient.

    Args:
        sparsity: Fraction of zeros, in [0, 1). floor(sparsity * n) of the n weights are zero: exactly that many, ties
            broken by position (the lower index is kept).
    """

    name = "discovering_wirings"
    aliases = ("dnw",)
    # LiteRT would run the search in every call, and drop the bias and the activation behind a kernel that is computed.
    export_refusal = "its wirings would be chosen anew in every call of the exported model"

    def __init__(self, sparsity=0.9):
        check_fraction("sparsity", sparsity)
        self.sparsity = sparsity

    def value(self, weight, select=None):
        # The mask depends on all weights, whichever a call needs.
        kernel = ops.where(self.mask(weight), weight.tensor(), 0)
        return kernel if select is None else select(kernel)

    def mask(self, weight):
        return masks.top_k_mask(weight.tensor(), weight.size - masks.number_of_zeros(self.sparsity, weight.size))

    def training_value(self, weight, select=None):
        kernel = weight.tensor(select)
        return kernel + ops.stop_gradient(self.value(weight, select) - kernel)


class DNWDense(kinds.SparseDense):
    """`keras.layers.Dense` with discovered wirings. Arguments: the stock layer's and those of `DiscoveringWirings`."""

    technique_class = DiscoveringWirings


class DNWEinsumDense(kinds.SparseEinsumDense):
    """`keras.layers.EinsumDense` with discovered wirings. Arguments: also those of `DiscoveringWirings`."""

    technique_class = DiscoveringWirings


class DNWConv1D(kinds.SparseConv1D):
    """`keras.layers.Conv1D` with discovered wirings. Arguments: also those of `DiscoveringWirings`."""

    technique_class = DiscoveringWirings


class DNWConv2D(kinds.SparseConv2D):
    """`keras.layers.Conv2D` with discovered wirings. Arguments: also those of `DiscoveringWirings`."""

    technique_class = DiscoveringWirings


class DNWConv3D(kinds.SparseConv3D):
    """`keras.layers.Conv3D` with discovered wirings. Arguments: also those of `DiscoveringWirings`."""

    technique_class = DiscoveringWirings


class DNWDepthwiseConv2D(kinds.SparseDepthwiseConv2D):
    """`keras.layers.DepthwiseConv2D` with discovered wirings. Arguments: also those of `DiscoveringWirings`."""

    technique_class = DiscoveringWirings
