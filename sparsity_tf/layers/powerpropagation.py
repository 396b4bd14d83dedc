"""Powerpropagation: a reparametrisation that makes weights prune better (Schwarz et al., NeurIPS 2021).

Source: arXiv 2110.00296, and the authors' notebook. A weight is a power of its variable, so large weights learn fast
and small ones hardly move. Training then gathers many weights near zero, and magnitude pruning loses less.
"""

import functools
from collections.abc import Callable

from keras import ops

from sparsity_tf.backend import change_initial_value
from sparsity_tf.checks import check_number
from sparsity_tf.layers import kinds
from sparsity_tf.layers.masked import Masked, MaskedLayer
from sparsity_tf.layers.sparse_weight import SparseWeight
from sparsity_tf.masks import structures
from sparsity_tf.ops.fused import fused
from sparsity_tf.type_names import Initializer, Tensor


@functools.cache
def _fused_power(alpha):
    def forward(theta):
        return theta * ops.abs(theta) ** (alpha - 1), (theta,)

    def backward(upstream, theta):
        return (upstream * alpha * ops.abs(theta) ** (alpha - 1),)

    return fused(forward, backward)


def power(theta, alpha):
    """theta |theta|^(alpha - 1), with the derivative alpha |theta|^(alpha - 1), also at zero.

    Args:
        theta: Float tensor.
        alpha: Number >= 1.

    Returns:
        Tensor of the shape of `theta`.
    """
    return theta if alpha == 1 else _fused_power(float(alpha))(theta)


class PowerPropagation(Masked):
    """Masked weights that are a power of their variable.

    With the variable theta, the mask m and the exponent alpha the weight is

        w = m theta |theta|^(alpha - 1),   d loss / d theta = alpha |theta|^(alpha - 1) d loss / d w

    The layer's initial weight u becomes theta = sign(u) |u|^(1 / alpha), so the
    effective weights start as in the plain layer, and `sparsify` changes no prediction of a trained model, up to
    rounding.

    The mask works as in technique "masked". `MagnitudePruning`, `RandomPruning`, `StaticSparsity`, `NarangPruning` and
    `IterativePruning` set it. They see w, not theta. A theta of zero has a gradient of zero, so it never leaves zero:
    algorithms that bring weights back (`RigL`, `SET`, `ACDC`, ...) are refused, and so are scores that read gradients.
    For one-shot pruning after training, as in the paper, call `sparsity_tf.prune(sparsity_tf.to_dense(model), 0.9)`.

    A regularizer or constraint of the layer, and the optimizer's weight decay, act on theta.

    Args:
        alpha: Exponent >= 1. 1 is the plain masked layer. The paper has 2 to 5.
        mask_initializer: See `Masked`.
        structure: See `Masked`. Structures that tie layers ("channel", "head", "unit") are not allowed.

    Example:

    ```python
    model = sparsity_tf.sparsify(model, "powerpropagation", alpha=2.0)
    pruning = sparsity_tf.callbacks.MagnitudePruning(0.9, begin_step=4, end_step=12, frequency=4)
    model.fit(x, y, epochs=2, callbacks=[pruning])
    ```
    """

    name = "powerpropagation"
    aliases = ("powerprop",)
    reparametrized = True

    def __init__(
        self, alpha: float = 2.0, mask_initializer: Initializer = "ones", structure: str | None = None
    ) -> None:
        check_number("alpha", alpha, least=1)
        super().__init__(mask_initializer, structure=structure)
        if structures.get(structure).ties_layers:
            raise ValueError(f"`structure` must not tie layers. Received: structure={structure!r}")
        self.alpha = alpha

    def build(self, weight: SparseWeight) -> None:
        super().build(weight)
        change_initial_value(weight.variable, lambda u: ops.sign(u) * ops.abs(u) ** (1 / self.alpha))

    def release(self, weight: SparseWeight) -> None:
        super().release(weight)
        weight.variable.assign(power(weight.tensor(), self.alpha))

    def value(self, weight: SparseWeight, select: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        return power(super().value(weight, select), self.alpha)

    def training_value(self, weight: SparseWeight, select: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        return power(super().training_value(weight, select), self.alpha)


class _PowerLayer(MaskedLayer):
    technique_class = PowerPropagation
    takes_lora = False


class PowerDense(_PowerLayer, kinds.SparseDense):
    """`keras.layers.Dense` with powerpropagation. Also takes the arguments of `PowerPropagation`."""


class PowerEinsumDense(_PowerLayer, kinds.SparseEinsumDense):
    """`keras.layers.EinsumDense` with powerpropagation. Also takes the arguments of `PowerPropagation`."""


class PowerConv1D(_PowerLayer, kinds.SparseConv1D):
    """`keras.layers.Conv1D` with powerpropagation. Also takes the arguments of `PowerPropagation`."""


class PowerConv2D(_PowerLayer, kinds.SparseConv2D):
    """`keras.layers.Conv2D` with powerpropagation. Also takes the arguments of `PowerPropagation`."""


class PowerConv3D(_PowerLayer, kinds.SparseConv3D):
    """`keras.layers.Conv3D` with powerpropagation. Also takes the arguments of `PowerPropagation`."""
