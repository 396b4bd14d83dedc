"""Pruning at initialisation: SNIP and GraSP. They measure the loss on some data once, before training.

Sources: Lee, Ajanthan and Torr, "SNIP: Single-shot network pruning based on connection sensitivity" (ICLR 2019,
arXiv 1810.02340); Wang, Zhang and Grosse, "Picking winning tickets before training by preserving gradient flow" (ICLR
2020, arXiv 2002.07376).
"""

import keras
import numpy as np

from sparsity_tf import distributions, masks
from sparsity_tf.callbacks.base import loss_gradients
from sparsity_tf.callbacks.dynamic import SparseFromTheStart
from sparsity_tf.callbacks.pruning import SCOPES
from sparsity_tf.checks import check_choice, check_number
from sparsity_tf.type_names import DenseWeights, DistributionLike, Where


class OneShotPruning(SparseFromTheStart):
    """Base class: a subclass computes scores. The entries with the lowest scores are pruned before the first step.

    One other algorithm may follow on the same weights and go on with these masks. In the same `fit`, place it later in
    the list of callbacks. `StaticSparsity` leaves the masks as they are, `RigL` and similar algorithms change them and
    keep their counts, and `MagnitudePruning` prunes further.
    """

    scheduled = False
    acts_once = True

    def __init__(
        self,
        sparsity: float = 0.9,
        data: tuple | None = None,
        scope: str = "global",
        distribution: DistributionLike = "uniform",
        dense: DenseWeights = None,
        where: Where = None,
        structure: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(sparsity, distribution, dense, where=where, structure=structure, seed=seed)
        check_choice("scope", scope, SCOPES)
        if scope == "global" and not (isinstance(distribution, str) and distribution == "uniform"):
            raise ValueError(
                "`distribution` must be 'uniform' (the default) with scope='global': there the scores decide how "
                f"sparse each weight becomes. Received: distribution={distribution!r}"
            )
        if not isinstance(data, (tuple, list)) or len(data) not in (2, 3):
            raise ValueError(
                "`data` must be a batch (x, y) or (x, y, sample_weight) to measure the loss on. "
                f"Received: data of type {type(data).__name__}"
            )
        self.data, self.scope = tuple(data), scope

    def start(self) -> None:
        views = self.views(step=0)
        if not all(view.mask.all() for view in views):
            self._compare_masks(views, self._targets())
            return  # The masks were pruned before: this run continues another one.
        sizes = [view.value.size for view in views]
        scores = self.scores([weight.variable for weight in self.weights])
        targets = self._targets()
        targets = [targets[weight.path] for weight in self.weights]
        chosen = [index for index, target in enumerate(targets) if target]
        if self.scope == "global" and chosen:
            total = sum(sizes[index] for index in chosen)
            kept = masks.highest_overall(
                [scores[index] for index in chosen], total - masks.number_of_zeros(self.target_sparsity, total)
            )
        else:
            kept = [
                masks.highest(scores[index], sizes[index] - masks.number_of_zeros(targets[index], sizes[index]))
                for index in chosen
            ]
        self.assign([views[index] for index in chosen], kept, cleared=[~mask for mask in kept])

    def _targets(self):
        return distributions.allocate(self.weights, self.target_sparsity, self.distribution, dense=self.dense)

    def scores(self, variables: list[keras.Variable]) -> list[np.ndarray]:
        """The scores of the entries of each variable, a list of arrays. The entries with the highest ones are kept."""
        raise TypeError(f"{type(self).__name__} must define `scores(variables)`.")


class SNIP(OneShotPruning):
    """SNIP: keeps the weights to which the loss is most sensitive, |w dL/dw|, measured on one batch before training.

    Args:
        sparsity: Fraction of zeros, in [0, 1).
        data: The batch on which sensitivity is measured: arrays (x, y) or (x, y, sample_weight), some hundred examples
            with all classes among them.
        scope: "global": the scores of all weights are compared, as in the paper; or "layer": each weight gets its own
            target, as in RigL's code.
        distribution, dense: The targets of the weights for scope "layer", and the weights that stay dense. See
            `DropAndGrow`.
        where, seed: See `MaskAlgorithm`.
        structure: Must be `None`: the algorithm prunes single weights.

    Raises:
        ValueError: For any other argument; before training begins, if the model has nothing to prune.

    Example:

    ```python
    model = sparsity_tf.sparsify(model, "masked")
    model.fit(x, y, callbacks=[sparsity_tf.callbacks.SNIP(sparsity=0.9, data=(x[:128], y[:128]))])
    ```
    """

    def scores(self, variables: list[keras.Variable]) -> list[np.ndarray]:
        gradients = loss_gradients.gradients(self.model, self.data, variables)
        values = [keras.ops.convert_to_numpy(variable) for variable in variables]
        return [np.abs(value * gradient) for value, gradient in zip(values, gradients, strict=True)]


class GraSP(OneShotPruning):
    """GraSP: keeps the weights whose removal would weaken the gradient flow most.

    The score of a weight is w (H g), where g is the gradient of the loss and H its Hessian. The weights with the lowest
    scores are removed. (The paper's score is -w (H g), and it removes the highest.) The score has a sign, as in the
    paper. (A version that was deleted from RigL's code uses the absolute value.)

    Args:
        sparsity, data, scope, distribution, dense, where, structure, seed: See `SNIP`. The paper measures on ten
            examples of each class.
        temperature: Number > 0 by which the logits are divided; 200 in the paper. The model's outputs must be logits.
            With 1 the loss stays as it was compiled.

    Raises:
        ValueError: For any other argument; before training begins, if the model has nothing to prune.

    Example:

    ```python
    model = sparsity_tf.sparsify(model, "masked")
    model.fit(x, y, callbacks=[sparsity_tf.callbacks.GraSP(sparsity=0.9, data=(x[:128], y[:128]))])
    ```
    """

    def __init__(
        self,
        sparsity: float = 0.9,
        data: tuple | None = None,
        scope: str = "global",
        temperature: float = 1.0,
        distribution: DistributionLike = "uniform",
        dense: DenseWeights = None,
        where: Where = None,
        structure: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(sparsity, data, scope, distribution, dense, where, structure, seed)
        check_number("temperature", temperature, above=0)
        self.temperature = temperature

    def scores(self, variables: list[keras.Variable]) -> list[np.ndarray]:
        products = loss_gradients.hessian_gradient_products(self.model, self.data, variables, self.temperature)
        values = [keras.ops.convert_to_numpy(variable) for variable in variables]
        return [value * product for value, product in zip(values, products, strict=True)]
