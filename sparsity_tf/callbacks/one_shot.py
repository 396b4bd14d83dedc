"""Pruning at initialisation: SNIP and GraSP, which look at the loss on some data once, before training.

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
    """Base class: a subclass gives the scores, the lowest of which are pruned before the first step.

    One other algorithm may follow on the same weights, in the same `fit` if it comes later among the callbacks, and
    goes on with these masks: `StaticSparsity` leaves them as they are, `RigL` and the like move them at their count,
    `MagnitudePruning` prunes further.
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
                "`distribution` has no meaning with scope='global', which lets scores decide. "
                f"Received: distribution={distribution!r}"
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
            return  # Pruned before: a run that goes on.
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
        """Scores of the entries of each variable, a list of arrays; the highest are kept."""
        raise TypeError(f"{type(self).__name__} must define `scores(variables)`.")


class SNIP(OneShotPruning):
    """SNIP: keeps the weights to which the loss is most sensitive, |w dL/dw|, measured on one batch before training.

    Args:
        sparsity: Fraction of zeros, in [0, 1).
        data: The batch to measure on: (x, y) or (x, y, sample_weight) arrays. Some hundreds of examples that hold every
            class.
        scope: "global" (the paper's: scores of all weights are compared) or "layer": each weight gets its own target,
            as in RigL's code.
        distribution, dense: Targets of the weights for scope "layer", and what stays dense: see `DropAndGrow`.
        where, seed: See `MaskAlgorithm`.
        structure: Must be `None`: single weights are pruned.

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

    The score of a weight is w (H g), g the gradient of the loss and H its Hessian (the paper's -w (H g) removes the
    highest): the weights with the lowest w (H g) are removed. It is signed, as in the paper; RigL's deleted version
    took the absolute value.

    Args:
        sparsity, data, scope, distribution, dense, where, structure, seed: See `SNIP`. The paper measures on ten
            examples a class.
        temperature: Number > 0 by which the logits are divided, 200 in the paper. It needs a model whose outputs are
            logits; 1 leaves the loss as it is compiled.

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
