"""SR-STE: N:M sparsity from scratch with a sparse-refined straight-through estimator.

Source: Zhou et al., "Learning N:M fine-grained structured sparse neural networks from scratch" (ICLR 2021, arXiv
2102.04010). Every forward pass keeps, of each M consecutive weights along the input axis, the N of the largest
magnitude. The variable stays dense, so a pruned weight can come back.
"""

from collections.abc import Callable

import keras
from keras import ops

from sparsity_tf.backend import as_loss
from sparsity_tf.checks import check_number
from sparsity_tf.layers import kinds
from sparsity_tf.layers.sparse_weight import SparseWeight
from sparsity_tf.layers.technique import Technique
from sparsity_tf.masks import structures
from sparsity_tf.ops.top_k import n_of_m_mask
from sparsity_tf.type_names import Tensor


class SRSTE(Technique):
    """N of M weights by magnitude in every forward pass, with a straight-through gradient and a decay of the others.

    With the mask m of a weight w, the value is w * m. The gradient that the optimizer gets is (the paper's SR-STE rule)

        dL/dw + decay * (1 - m) * w, where dL/dw is the gradient with respect to the value, passed on to all entries.

    The second term is the gradient of a loss of the layer, decay / 2 * sum(((1 - m) w)^2). So it is right with
    several devices, gradient accumulation and loss scaling, and an adaptive optimizer such as Adam rescales it with the
    rest. `decay=0` is the plain straight-through estimator.

    Groups lie along the input axis, the last axis that does not index output units: input channels of a convolution.
    Where M does not divide the axis, the last group is shorter and keeps N weights, too. (In the authors' program such
    groups straddle the positions of the kernel.) `sparsify` reports these weights. A regularizer of the layer acts on
    all weights, also on pruned ones.

    Args:
        structure: "N:M", such as "2:4". Of equal magnitudes in a group the lower index lives.
        decay: Factor lambda >= 0 of the decay of pruned weights. The paper has 2e-4.

    Example:

    ```python
    model = sparsity_tf.sparsify(model, "sr_ste", structure="2:4", where=["hidden", "logits"])
    ```
    """

    name = "sr_ste"
    aliases = ("srste",)
    export_refusal = "the exported model would choose its live weights anew in every call"

    def __init__(self, structure: str = "2:4", decay: float = 2e-4) -> None:
        if not isinstance(structures.get(structure), structures.NM):
            raise ValueError(f"`structure` must be 'N:M' such as '2:4'. Received: structure={structure!r}")
        check_number("decay", decay, least=0)
        self.structure = structures.get(structure).spec
        self.decay = decay

    def build(self, weight: SparseWeight) -> None:
        if self.decay:
            variable = weight.variable
            variable.regularizer = _DecayOfPruned(self.decay, self._chooser(weight), variable.regularizer)

    def release(self, weight: SparseWeight) -> None:
        if isinstance(weight.variable.regularizer, _DecayOfPruned):
            weight.variable.regularizer = weight.variable.regularizer.inner

    def _chooser(self, weight):
        """The function from the tensor of a weight to its mask."""
        structure = structures.get(self.structure)
        axis = structure.axis(len(weight.shape), weight.filter_axes)
        return lambda tensor: n_of_m_mask(tensor, structure.n, structure.m, axis)

    def mask(self, weight: SparseWeight) -> Tensor:
        return self._chooser(weight)(weight.tensor())

    def value(self, weight: SparseWeight, select: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        kernel = ops.where(self.mask(weight), weight.tensor(), 0)
        return kernel if select is None else select(kernel)

    def training_value(self, weight: SparseWeight, select: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        kernel = weight.tensor(select)
        return kernel + ops.stop_gradient(self.value(weight, select) - kernel)


class _DecayOfPruned(keras.regularizers.Regularizer):
    """decay / 2 times the sum of the squares of pruned weights, and the loss of the weight's own regularizer."""

    def __init__(self, decay, choose, inner):
        self.decay, self.choose, self.inner = decay, choose, inner

    def __call__(self, x):
        x = ops.convert_to_tensor(x)
        pruned = ops.where(self.choose(x), ops.zeros_like(x), x)
        loss = as_loss(0.5 * self.decay * ops.sum(ops.square(pruned)))
        return loss if self.inner is None else loss + as_loss(self.inner(x))


class SRSTEDense(kinds.SparseDense):
    """`keras.layers.Dense` with N:M sparsity by SR-STE. Also takes the arguments of `SRSTE`."""

    technique_class = SRSTE


class SRSTEEinsumDense(kinds.SparseEinsumDense):
    """`keras.layers.EinsumDense` with N:M sparsity by SR-STE. Also takes the arguments of `SRSTE`."""

    technique_class = SRSTE


class SRSTEConv1D(kinds.SparseConv1D):
    """`keras.layers.Conv1D` with N:M sparsity by SR-STE. Also takes the arguments of `SRSTE`."""

    technique_class = SRSTE


class SRSTEConv2D(kinds.SparseConv2D):
    """`keras.layers.Conv2D` with N:M sparsity by SR-STE. Also takes the arguments of `SRSTE`."""

    technique_class = SRSTE


class SRSTEConv3D(kinds.SparseConv3D):
    """`keras.layers.Conv3D` with N:M sparsity by SR-STE. Also takes the arguments of `SRSTE`."""

    technique_class = SRSTE
