"""Group lasso: drives whole units or filters to zero, which `sparsity_tf.shrink` then removes.

Source: Wen et al., "Learning structured sparsity in deep neural networks" (NeurIPS 2016, arXiv 1608.03665), with the
groups of its filter-wise form. The penalty alone makes groups small, but never exactly zero: prune them by magnitude
afterwards (`structure="filter"` or "channel"). The proximal form, a constraint, makes exact zeros.
"""

import keras
from keras import ops

from sparsity_tf.backend import as_loss
from sparsity_tf.checks import check_integer, check_number
from sparsity_tf.type_names import Tensor


def _norms(x, axis):
    """The Euclidean norms of the groups, with the gradient 0 at 0, in a shape that broadcasts against `x`."""
    rank = len(x.shape)
    if not -rank <= axis < rank:
        raise ValueError(f"`axis` must be from {-rank} to {rank - 1} for this weight. Received: axis={axis}")
    axes = [other for other in range(rank) if other != axis % rank]
    squares = ops.sum(ops.square(x), axes, keepdims=True)
    positive = squares > 0
    return ops.where(positive, ops.sqrt(ops.where(positive, squares, 1)), 0)


@keras.saving.register_keras_serializable("sparsity_tf")
class GroupLasso(keras.regularizers.Regularizer):
    """factor * sum over groups of ||w_g||_2, where a group is a unit of a dense layer or a filter of a convolution.

    The gradient of a group is factor * w_g / ||w_g||: every group is pulled to zero with the same force. The gradient
    of a group of zeros is 0.

    Args:
        factor: Number >= 0.
        axis: The axis that indexes the groups. Default: the last, output units of dense layers and convolutions.
            Transposed convolutions have them on axis -2.

    Example:

    >>> float(GroupLasso(0.5)(np.array([[3.0, 0.0], [4.0, 2.0]], "float32")))
    3.5
    """

    def __init__(self, factor: float = 1e-4, axis: int = -1) -> None:
        check_number("factor", factor, least=0)
        check_integer("axis", axis)
        self.factor, self.axis = factor, axis

    def __call__(self, x: Tensor) -> Tensor:
        return as_loss(self.factor * ops.sum(_norms(ops.convert_to_tensor(x), self.axis)))

    def get_config(self) -> dict:
        """The arguments as a dict."""
        return {"factor": self.factor, "axis": self.axis}


@keras.saving.register_keras_serializable("sparsity_tf")
class ProximalGroupLasso(keras.constraints.Constraint):
    """Shrinks every group after each optimizer step: w_g max(0, 1 - amount / ||w_g||_2).

    This is the proximal operator of group lasso. A group with ||w_g|| <= `amount` becomes exactly zero. For a learning
    rate eta and the factor lambda of `GroupLasso` the amount is eta * lambda. (A constraint does not know the learning
    rate, so the amount stays the same when the rate falls.) A group can leave zero again by its gradient.

    Args:
        amount: Number >= 0 that is taken from the norm of each group in each step.
        axis: See `GroupLasso`.

    Example:

    >>> kernel = ProximalGroupLasso(1.0)(np.array([[3.0, 0.0], [4.0, 0.5]], "float32"))
    >>> keras.ops.convert_to_numpy(kernel).round(3).tolist()
    [[2.4000000953674316, 0.0], [3.200000047683716, 0.0]]
    """

    def __init__(self, amount: float = 1e-5, axis: int = -1) -> None:
        check_number("amount", amount, least=0)
        check_integer("axis", axis)
        self.amount, self.axis = amount, axis

    def __call__(self, w: Tensor) -> Tensor:
        w = ops.convert_to_tensor(w)
        norms = _norms(w, self.axis)
        live = norms > self.amount
        return ops.where(live, w * (1 - self.amount / ops.where(live, norms, 1)), ops.zeros((), w.dtype))

    def get_config(self) -> dict:
        """The arguments as a dict."""
        return {"amount": self.amount, "axis": self.axis}
