"""Soft movement pruning: a threshold on trained scores, and a penalty on high ones (Sanh et al., NeurIPS 2020).

Source: arXiv 2005.07683, and the authors' programs `binarizer.py` and `masked_run_squad.py`. The variant that keeps a
fixed number of the highest scores is `movement.py`.
"""

import math
from collections.abc import Callable

from keras import ops

from sparsity_tf import masks
from sparsity_tf.checks import check_fraction, check_number
from sparsity_tf.layers import kinds
from sparsity_tf.layers.sparse_weight import SparseWeight
from sparsity_tf.layers.technique import Technique, initializer_or_number
from sparsity_tf.ops.top_k import highest_mask
from sparsity_tf.type_names import Initializer, Tensor


class SoftMovementPruning(Technique):
    """A threshold on trained scores: "soft" movement pruning, which finds its own sparsity.

    A weight w of n entries has scores S of its shape, a second trainable variable. The mask is M = [sigmoid(S) > tau],
    with tau = `score_threshold`. If fewer than floor(`least_live` n) + 1 entries pass, that many entries of the highest
    scores live. The value is w M, and

        d loss / d w = M d loss / d value,   d loss / d S = w d loss / d value    (straight through, to all entries)

    The penalty of a weight is mean(sigmoid(S)). It pulls all scores down, so a weight lives only if it moves away from
    zero. A pruned weight keeps its number and may come back with it.

    In the paper the loss has lambda times the mean of the penalties of all weights. For lambda and L sparse weights,
    give `callbacks.PenaltyRamp(weight=lambda / L, num_examples=1)`. (The training programs divide `--penalty_weight` by
    the number N of training examples: give lambda N / L.) The paper has tau = 0.1 and lambda = 400 on SQuAD,
    and a learning rate of 1e-2 for the scores beside 3e-5 for the weights. Unlike in "movement" that rate matters,
    because scores are compared with a threshold: here they have the optimizer's. A lower rate needs a higher `weight`,
    or a `scores_initializer` near logit(tau), which is -2.2 for tau = 0.1.

    Args:
        score_threshold: tau in (0, 1).
        least_live: Fraction in [0, 1): a floor for the number of live entries of each weight.
        scores_initializer: Initial scores: a Keras initializer or a number. At 0 all entries live, for tau below 0.5.
        penalty_weight: Initial value of the layer's `penalty_weight` variable, which multiplies the penalty in the
            training loss. `callbacks.PenaltyRamp` changes it. The default 0 adds no penalty.

    Example:

    ```python
    model = sparsity_tf.sparsify(model, "soft_movement", scores_initializer=-2.0)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, y, epochs=2, callbacks=[sparsity_tf.callbacks.PenaltyRamp(weight=0.1, num_examples=1)])
    ```
    """

    name = "soft_movement"
    aliases = ("soft_movement_pruning",)
    penalized = True
    export_refusal = "the exported model would choose its live weights anew in every call"

    def __init__(
        self,
        score_threshold: float = 0.1,
        least_live: float = 0.005,
        scores_initializer: Initializer | float = 0.0,
        penalty_weight: float = 0.0,
    ) -> None:
        check_number("score_threshold", score_threshold, above=0, below=1)
        check_fraction("least_live", least_live)
        check_number("penalty_weight", penalty_weight, least=0)
        self.score_threshold, self.least_live, self.penalty_weight = score_threshold, least_live, penalty_weight
        self.scores_initializer = initializer_or_number("scores_initializer", scores_initializer, 0.0)

    def build(self, weight: SparseWeight) -> None:
        weight.add_variable("soft_scores", shape=weight.shape, initializer=self.scores_initializer)

    def mask(self, weight: SparseWeight) -> Tensor:
        scores = weight.extra("soft_scores")
        least = min(masks.number_of_zeros(self.least_live, weight.size) + 1, weight.size)
        passing = scores > math.log(self.score_threshold / (1 - self.score_threshold))
        return ops.logical_or(passing, highest_mask(scores, least))

    def value(self, weight: SparseWeight, select: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        # The mask depends on all scores, even if the call needs only some of them.
        kernel = ops.where(self.mask(weight), weight.tensor(), 0)
        return kernel if select is None else select(kernel)

    def training_value(self, weight: SparseWeight, select: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        kernel = self.value(weight, select)
        scores = ops.cast(weight.extra("soft_scores", select), kernel.dtype)
        # The second term is zero. Its gradient is the gradient of the scores.
        return kernel + ops.stop_gradient(weight.tensor(select)) * (scores - ops.stop_gradient(scores))

    def penalty(self, weight: SparseWeight) -> Tensor:
        return ops.mean(ops.sigmoid(weight.extra("soft_scores")))


class SoftMovementDense(kinds.SparseDense):
    """`keras.layers.Dense` with soft movement pruning. Also takes the arguments of `SoftMovementPruning`."""

    technique_class = SoftMovementPruning


class SoftMovementEinsumDense(kinds.SparseEinsumDense):
    """`keras.layers.EinsumDense` with soft movement pruning. Also takes the arguments of `SoftMovementPruning`."""

    technique_class = SoftMovementPruning


class SoftMovementConv1D(kinds.SparseConv1D):
    """`keras.layers.Conv1D` with soft movement pruning. Also takes the arguments of `SoftMovementPruning`."""

    technique_class = SoftMovementPruning


class SoftMovementConv2D(kinds.SparseConv2D):
    """`keras.layers.Conv2D` with soft movement pruning. Also takes the arguments of `SoftMovementPruning`."""

    technique_class = SoftMovementPruning


class SoftMovementConv3D(kinds.SparseConv3D):
    """`keras.layers.Conv3D` with soft movement pruning. Also takes the arguments of `SoftMovementPruning`."""

    technique_class = SoftMovementPruning
