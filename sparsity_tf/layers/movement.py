"""Movement pruning: keeps the weights that move away from zero while a model is fine-tuned (Sanh et al., NeurIPS 2020).

Source: arXiv 2005.07683, and the authors' programs `binarizer.py` and `masked_nn.py`.
"""

from collections.abc import Callable

from keras import ops

from sparsity_tf import masks
from sparsity_tf.checks import check_fraction
from sparsity_tf.layers import kinds
from sparsity_tf.layers.sparse_weight import SparseWeight
from sparsity_tf.layers.technique import Technique, initializer_or_number
from sparsity_tf.ops.top_k import highest_mask
from sparsity_tf.type_names import Initializer, Tensor


class MovementPruning(Technique):
    """Top-k of trained scores: "hard" movement pruning.

    A weight w has scores S of its shape, a second trainable variable. The mask M marks the entries with the floor((1 -
    s) n) highest scores, with their signs. The value is w M, and

        d loss / d w = M d loss / d value,   d loss / d S = w d loss / d value    (straight through, to all entries)

    With SGD a score gathers -eta sum(w dL/dw): it rises for a weight that moves away from zero. A pruned weight keeps
    its number and may come back with it. Of equal scores the lower index lives.

    The sparsity s begins at `initial_sparsity`. `callbacks.SparsityRamp` raises it during training. All scores begin at
    zero, so begin dense: of equal scores the choice would be by index.

    The paper gives the scores a learning rate of their own, 1e-2. Here they have the optimizer's. That changes nothing:
    scores that begin at zero are only ranked, so a common factor of their updates (of SGD's and of Adam's) changes no
    mask. (The paper's soft variant, which cuts at a threshold of the scores and punishes high ones, depends on that
    rate: technique "soft_movement".)

    Args:
        initial_sparsity: Fraction of zeros, in [0, 1), until `SparsityRamp` changes it.
        scores_initializer: Initial scores: a Keras initializer or a number. Default 0.

    Example:

    ```python
    model = sparsity_tf.sparsify(model, "movement")
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, y, epochs=2, callbacks=[sparsity_tf.callbacks.SparsityRamp(0.9, begin_step=2, end_step=10)])
    ```
    """

    name = "movement"
    aliases = ("movement_pruning",)
    export_refusal = "the exported model would choose its live weights anew in every call"

    def __init__(self, initial_sparsity: float = 0.0, scores_initializer: Initializer | float = 0.0) -> None:
        check_fraction("initial_sparsity", initial_sparsity)
        self.initial_sparsity = initial_sparsity
        self.scores_initializer = initializer_or_number("scores_initializer", scores_initializer, 0.0)

    def build(self, weight: SparseWeight) -> None:
        weight.add_variable("scores", shape=weight.shape, initializer=self.scores_initializer)
        live = masks.number_to_keep(self.initial_sparsity, weight.size)
        weight.add_variable(
            "live",
            shape=(),
            dtype="int32",
            trainable=False,
            initializer=lambda shape, dtype=None: ops.full(shape, live, dtype),
        )

    def assign_sparsity(self, weight: SparseWeight, sparsity: float) -> None:
        """Sets the sparsity of a weight: floor((1 - sparsity) n) of its n entries live from now on."""
        weight.extra_variable("live").assign(masks.number_to_keep(sparsity, weight.size))

    def mask(self, weight: SparseWeight) -> Tensor:
        return highest_mask(weight.extra("scores"), weight.extra("live"))

    def value(self, weight: SparseWeight, select: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        # The mask depends on all scores, even if the call needs only some of them.
        kernel = ops.where(self.mask(weight), weight.tensor(), 0)
        return kernel if select is None else select(kernel)

    def training_value(self, weight: SparseWeight, select: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        kernel = self.value(weight, select)
        scores = ops.cast(weight.extra("scores", select), kernel.dtype)
        # The second term is zero. Its gradient is the gradient of the scores.
        return kernel + ops.stop_gradient(weight.tensor(select)) * (scores - ops.stop_gradient(scores))


class MovementDense(kinds.SparseDense):
    """`keras.layers.Dense` with movement pruning. Also takes the arguments of `MovementPruning`."""

    technique_class = MovementPruning


class MovementEinsumDense(kinds.SparseEinsumDense):
    """`keras.layers.EinsumDense` with movement pruning. Also takes the arguments of `MovementPruning`."""

    technique_class = MovementPruning


class MovementConv1D(kinds.SparseConv1D):
    """`keras.layers.Conv1D` with movement pruning. Also takes the arguments of `MovementPruning`."""

    technique_class = MovementPruning


class MovementConv2D(kinds.SparseConv2D):
    """`keras.layers.Conv2D` with movement pruning. Also takes the arguments of `MovementPruning`."""

    technique_class = MovementPruning


class MovementConv3D(kinds.SparseConv3D):
    """`keras.layers.Conv3D` with movement pruning. Also takes the arguments of `MovementPruning`."""

    technique_class = MovementPruning
