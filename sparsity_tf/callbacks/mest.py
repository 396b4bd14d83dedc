"""MEST: memory-economic sparse training on the edge (Yuan et al., NeurIPS 2021, arXiv 2110.14032).

A mutation drops weights of small magnitude and small gradient, and grows random ones. ("Elastic mutation", EM. The
variant with a soft bound on the memory, EM&S, drops after it has trained the surplus.) The sparsities and their steps
are taken from the authors' scripts. Their scoring function was not at hand: the score follows the paper.
"""

import functools

import numpy as np

from sparsity_tf import masks
from sparsity_tf.callbacks import criteria
from sparsity_tf.callbacks.base.weight_view import WeightView
from sparsity_tf.callbacks.dynamic import DropAndGrow
from sparsity_tf.checks import check_bool, check_number
from sparsity_tf.type_names import DenseWeights, DistributionLike, Frequency, NumberOrSchedule, Where

# The shares of training after which the paper's drop fraction becomes a half of its first value, and 0: epochs 90 and
# 120 of 160.
_HALF, _NONE = (9, 16), (3, 4)


class MEST(DropAndGrow):
    """Drops the weights with the lowest |w| + lambda |dL/dw|, and grows random ones; perhaps with a surplus between.

    A weight of n entries with its sparsity s under `distribution` has the bound k = n - floor(s n). With the drop
    fraction r of the step, an update leaves

    * with a hard bound: k entries. floor(r k) are dropped and as many grown. This is `DropAndGrow` with
      `grow="random"`: between updates k entries live;
    * with a **soft bound**: k + floor(r k) entries, as far as there is room. The lowest are dropped until k live, and
      then floor(r k) are grown. So the surplus is trained, too, before the choice is made. Training also starts with
      the surplus. Masks that the model had before are brought to these counts.

    A number r falls in the paper's steps: r up to 9/16 of training, r / 2 up to 3/4, then 0. So a soft bound ends at
    exactly k entries. With s = 0.9 the paper's hard bound prunes to 0.92, 0.91 and 0.90 (r = 0.2), its soft bound grows
    to 0.85, 0.875 and 0.90 (r = 0.5).

    Args:
        sparsity, distribution: See `DropAndGrow`.
        gradient_weight: lambda >= 0. The authors' program has 0 by default, and then reads no gradient.
        drop_fraction: r at the start of training, in [0, 1]; or a schedule or other function of the step, which is used
            as it is.
        soft: Bool; whether the bound is soft.
        dense, begin_step, end_step, frequency, where, seed: See `DropAndGrow`. By default the last update comes before
            the last step. The paper's mutations come every five epochs.
        structure: Must be `None`: the algorithm moves single weights.

    Raises:
        ValueError: For any other argument; before training begins, if the model has nothing to prune.

    Example:

    ```python
    model = sparsity_tf.sparsify(model, "masked")
    mest = sparsity_tf.callbacks.MEST(sparsity=0.9, drop_fraction=0.5, soft=True, frequency=2)
    model.fit(x, y, epochs=2, callbacks=[mest])
    ```
    """

    def __init__(
        self,
        sparsity: float = 0.9,
        distribution: DistributionLike = "uniform",
        gradient_weight: float = 0.0,
        drop_fraction: NumberOrSchedule = 0.2,
        soft: bool = False,
        dense: DenseWeights = None,
        begin_step: int = 0,
        end_step: int | None = None,
        frequency: Frequency = 1000,
        where: Where = None,
        structure: str | None = None,
        seed: int = 0,
    ) -> None:
        check_number("gradient_weight", gradient_weight, least=0)
        check_bool("soft", soft)
        super().__init__(
            sparsity,
            distribution,
            functools.partial(_magnitude_and_gradient, gradient_weight=gradient_weight)
            if gradient_weight
            else "magnitude",
            "random",
            None,
            drop_fraction,
            "constant",
            dense,
            begin_step,
            end_step,
            frequency,
            where,
            structure,
            seed,
        )
        self.gradient_weight, self.soft = gradient_weight, soft

    def default_end_step(self, total_steps: int) -> int:
        return total_steps - 1

    def drop_fraction_at(self, step: int) -> float:
        if callable(self.drop_fraction):
            return super().drop_fraction_at(step)
        length = self._total_steps or self.last_step
        factors = [0.0 if share == _NONE else 0.5 for share in (_HALF, _NONE) if step >= share[0] * length // share[1]]
        return self.drop_fraction * min(factors, default=1.0)

    def settled_step(self, total_steps: int) -> int:
        """A step from which the sparsity is final in a training of `total_steps` steps."""
        if not self.soft:
            return 0
        if callable(self.drop_fraction) or callable(self.frequency):
            return total_steps
        # One update later. (With "epoch" it comes one step into an epoch.)
        more = 1 if self.frequency == "epoch" else self.frequency
        return min(_NONE[0] * total_steps // _NONE[1] + more, total_steps)

    def _compare_masks(self, views, targets):
        if not self.soft:
            super()._compare_masks(views, targets)

    def goal(self) -> float | None:
        if not self.soft:
            return None
        return 1 - sum(map(self._bound, self.weights)) / sum(weight.size for weight in self.weights)

    def _bound(self, weight):
        return weight.size - masks.number_of_zeros(self.targets[weight.path], weight.size)

    def initial_mask(self, view: WeightView, sparsity: float, structure: str | None) -> np.ndarray:
        bound = view.mask.size - masks.number_of_zeros(sparsity, view.mask.size)
        surplus = masks.number_of_zeros(self.drop_fraction_at(0), bound) if self.soft else 0
        return masks.random_mask(view.mask.shape, min(bound + surplus, view.mask.size), view.rng)

    def _drop_and_grow(self, chosen, step):
        if not self.soft:
            super()._drop_and_grow(chosen, step)
            return
        rate = self.drop_fraction_at(step)
        views = [self.view(index, step, rate) for index in chosen]
        bounds = [self._bound(self.weights[index]) for index in chosen]
        drops = [max(view.active - bound, 0) for view, bound in zip(views, bounds, strict=True)]
        kept = criteria.lowest_live(self.drop, views, drops)
        wanted = [bound + masks.number_of_zeros(rate, bound) for bound in bounds]
        pairs = zip(kept, wanted, strict=True)
        self.grow_weights(views, kept, [min(count, mask.size) - int(np.count_nonzero(mask)) for mask, count in pairs])


@criteria.uses("gradient")
def _magnitude_and_gradient(weight, gradient_weight=0.0):
    # At the level of the module, so that a callback can be copied and pickled.
    return np.abs(weight.value) + gradient_weight * np.abs(weight.gradient)
