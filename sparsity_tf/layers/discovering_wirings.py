"""Discovering neural wirings, DNW (Wortsman et al., 2019, arXiv 1906.00586), as in STR's and RigL's comparisons.

Every forward pass keeps the weights of the largest magnitude and zeroes the rest; the gradient goes straight through
to all of them, so that a zeroed weight can grow back.
"""

import math

from keras import ops

from sparsity_tf import masks
from sparsity_tf.layers import kinds
from sparsity_tf.layers.base import Technique


class DiscoveringWirings(Technique):
    """Top-k by magnitude in every forward pass, with a straight-through gradient.

    Args:
        sparsity: Fraction of zeros, in [0, 1). floor(sparsity * n) of the n weights are zero: exactly that many, ties
            broken by position (the lower index is kept).
    """

    name = "discovering_wirings"
    aliases = ("dnw",)

    def __init__(self, sparsity=0.9):
        if not 0 <= sparsity < 1:
            raise ValueError(f"`sparsity` must lie in [0, 1). Received: sparsity={sparsity}")
        self.sparsity = sparsity

    def value(self, weight, select=None):
        return ops.where(self.mask(weight), weight.tensor(), 0)

    def mask(self, weight):
        # The product is nudged up by its own rounding error: 0.7 * 10 must be 7 zeros, not 6.
        zeros = math.floor(self.sparsity * weight.size * (1 + 1e-12))
        return masks.top_k_mask(weight.tensor(), weight.size - zeros)

    def training_value(self, weight, select=None):
        kernel = weight.tensor()
        return kernel + ops.stop_gradient(self.value(weight) - kernel)


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
