"""Top-KAST: always sparse training with a forward and a larger backward set (Jayakumar et al., NeurIPS 2020).

Source: arXiv 2106.03517. No program of the authors is public. The exploration loss is the L2 form. Its coefficients
could not be compared with the text of the paper.
"""

from collections.abc import Callable

import keras
from keras import ops

from sparsity_tf import masks
from sparsity_tf.backend import as_loss
from sparsity_tf.checks import check_fraction, check_number
from sparsity_tf.layers import kinds
from sparsity_tf.layers.sparse_weight import SparseWeight
from sparsity_tf.layers.technique import Technique
from sparsity_tf.type_names import Tensor


class TopKAST(Technique):
    """Uses the largest weights forwards, and trains these and some more.

    Of a weight of n entries with the sparsity s and the exploration M:

    * the **forward set** A holds the n - floor(s n) entries of the largest magnitude. The value is w in A and 0
      elsewhere;
    * the **backward set** B holds the floor(M n) next entries, too, as far as there are any. The gradient with respect
      to the value is passed on to the entries in B. All other entries get the gradient 0 and keep their number, until
      they are among the largest;
    * the **exploration loss** l2 (sum over A of w^2 + (1 / D) sum over B without A of w^2), with the density D = |A| /
      n, is a loss of the layer. It pulls the entries outside A harder, so a new entry enters A only if the task wants
      it.

    Both sets are chosen anew in every forward pass. (The paper does it every 100 steps or so, which saves time on its
    hardware. Here it costs a few counting passes over the weight.) Of equal magnitudes the lower index counts as
    larger.

    An entry outside B does not move under SGD without momentum. A momentum (or Adam) still moves an entry that has just
    left B, and so does a decoupled `weight_decay` of the optimizer: use `l2`, or a `kernel_regularizer`, which here
    acts on B only.

    Args:
        sparsity: Fraction of zeros in the forward pass, s in [0, 1).
        exploration: Fraction M in [0, 1] of all entries that are trained but not used.
        l2: Factor >= 0 of the exploration loss. A weight decay d of PyTorch is l2 = d / 2.

    Example:

    ```python
    model = sparsity_tf.sparsify(model, "top_kast", sparsity=0.9, exploration=0.1)
    ```
    """

    name = "top_kast"
    aliases = ("topkast",)
    export_refusal = "the exported model would choose its live weights anew in every call"

    def __init__(self, sparsity: float = 0.9, exploration: float = 0.1, l2: float = 5e-5) -> None:
        check_fraction("sparsity", sparsity)
        check_fraction("exploration", exploration, closed=True)
        check_number("l2", l2, least=0)
        self.sparsity = sparsity
        self.exploration = exploration
        self.l2 = l2

    def build(self, weight: SparseWeight) -> None:
        variable = weight.variable
        if self.l2 or variable.regularizer is not None:
            variable.regularizer = _ExplorationLoss(self, weight.size, variable.regularizer)

    def release(self, weight: SparseWeight) -> None:
        if isinstance(weight.variable.regularizer, _ExplorationLoss):
            weight.variable.regularizer = weight.variable.regularizer.inner

    def used(self, size: int) -> int:
        """The size of the forward set of a weight of `size` entries."""
        return size - masks.number_of_zeros(self.sparsity, size)

    def trained(self, size: int) -> int:
        """The size of the backward set of a weight of `size` entries."""
        return min(self.used(size) + masks.number_of_zeros(self.exploration, size), size)

    def mask(self, weight: SparseWeight) -> Tensor:
        return masks.top_k_mask(weight.tensor(), self.used(weight.size))

    def value(self, weight: SparseWeight, select: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        # The mask depends on all weights, even if the call needs only some of them.
        kernel = ops.where(self.mask(weight), weight.tensor(), 0)
        return kernel if select is None else select(kernel)

    def training_value(self, weight: SparseWeight, select: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        kernel = weight.tensor()
        trained = ops.where(masks.top_k_mask(kernel, self.trained(weight.size)), kernel, 0)
        kernel = trained + ops.stop_gradient(self.value(weight) - trained)
        return kernel if select is None else select(kernel)


class _ExplorationLoss(keras.regularizers.Regularizer):
    """The exploration loss of a weight of `size` entries, and the loss of the weight's own regularizer on the set B."""

    def __init__(self, technique, size, inner):
        self.technique, self.size, self.inner = technique, size, inner

    def __call__(self, x):
        x = ops.convert_to_tensor(x)
        used, trained = self.technique.used(self.size), self.technique.trained(self.size)
        backward = masks.top_k_mask(x, trained)
        # The number of an entry outside B counts in the loss, but gets no gradient.
        loss = 0.0 if self.inner is None else as_loss(self.inner(ops.where(backward, x, ops.stop_gradient(x))))
        if self.technique.l2:
            factor = ops.where(masks.top_k_mask(x, used), 1.0, ops.where(backward, self.size / max(used, 1), 0.0))
            loss = loss + as_loss(self.technique.l2 * ops.sum(ops.cast(factor, x.dtype) * ops.square(x)))
        return loss


class TopKASTDense(kinds.SparseDense):
    """`keras.layers.Dense` trained by Top-KAST. Also takes the arguments of `TopKAST`."""

    technique_class = TopKAST


class TopKASTEinsumDense(kinds.SparseEinsumDense):
    """`keras.layers.EinsumDense` trained by Top-KAST. Also takes the arguments of `TopKAST`."""

    technique_class = TopKAST


class TopKASTConv1D(kinds.SparseConv1D):
    """`keras.layers.Conv1D` trained by Top-KAST. Also takes the arguments of `TopKAST`."""

    technique_class = TopKAST


class TopKASTConv2D(kinds.SparseConv2D):
    """`keras.layers.Conv2D` trained by Top-KAST. Also takes the arguments of `TopKAST`."""

    technique_class = TopKAST


class TopKASTConv3D(kinds.SparseConv3D):
    """`keras.layers.Conv3D` trained by Top-KAST. Also takes the arguments of `TopKAST`."""

    technique_class = TopKAST
