"""SRigL: structured RigL, with the same number of inputs for every unit (Lasby et al., ICLR 2024, arXiv 2305.02299).

A constant fan-in stores as two dense arrays, values and input indices. Units with few salient weights are ablated, and
their inputs go to the others.
"""

import numpy as np

from sparsity_tf import masks
from sparsity_tf.callbacks.base.output_layers import output_layers
from sparsity_tf.callbacks.base.weight_view import WeightView
from sparsity_tf.callbacks.dynamic import DropAndGrow
from sparsity_tf.checks import check_number, is_integer
from sparsity_tf.masks.matrices import as_matrix, from_matrix
from sparsity_tf.type_names import DenseWeights, DistributionLike, Frequency, NumberOrSchedule, Where


def fan_in_of(budget, units, inputs):
    """The number of live inputs of every live unit: floor(budget / units), at most `inputs`."""
    return min(budget // max(units, 1), inputs)


def next_mask(weights, gradients, live, budget, drops, least_salient, least_units):
    """The mask of one weight after an update of SRigL.

    Args:
        weights, gradients: Float arrays, units x inputs.
        live: Bool array of this shape, the present mask.
        budget: Integer: the most entries that may live.
        drops: Integer: the number of live entries to drop.
        least_salient: Integer: a unit with fewer salient entries is ablated. An entry is salient if it is among the
            live entries of the largest |weight| that are not dropped, or among the `drops` entries of the largest
            |gradient|.
        least_units: Integer >= 1: this many units live at least, those with the most salient entries.

    Returns:
        Bool array: the live units have `fan_in_of(budget, live units, inputs)` entries each, the others none. At most
        `budget` units live, those with the most salient entries.
    """
    size, growth = np.abs(weights), np.abs(gradients)
    stay = int(np.count_nonzero(live)) - drops
    salient = masks.highest(size, stay, live) | masks.highest(growth, drops)
    counts = salient.sum(axis=1)
    least_salient = min(least_salient, np.sort(counts)[::-1][min(least_units, len(counts)) - 1])
    units = counts >= least_salient
    # With fewer entries than units, only as many units as there are entries can have an input.
    units = masks.highest(counts, min(budget, int(np.count_nonzero(units))), units)
    k = fan_in_of(budget, int(np.count_nonzero(units)), live.shape[1])
    among = live & units[:, None]
    kept = masks.highest(size, min(stay, int(np.count_nonzero(among))), among)
    kept = _highest_of_rows(np.where(kept, size, -1.0), k) & kept
    # Kept entries come first, then the others by gradient.
    _, ranks = np.unique(growth, return_inverse=True)
    return _highest_of_rows(np.where(kept, growth.size, ranks.reshape(growth.shape)), k) & units[:, None]


def _highest_of_rows(scores, k):
    """Marks the `k` highest scores of each row; among equal scores the lower indices."""
    chosen = np.zeros(scores.shape, bool)
    np.put_along_axis(chosen, np.argsort(-scores, axis=1, kind="stable")[:, :k], True, axis=1)
    return chosen


class SRigL(DropAndGrow):
    """RigL with a constant fan-in: every live unit of a layer has the same number of live inputs.

    A weight with n units of d inputs and its sparsity s under `distribution` has the budget B = floor((1 - s) n d).
    With a live units, every live unit has k = min(floor(B / a), d) inputs. So a k may be less than B, and the sparsity
    is at least the target. Training begins with random inputs. (If B < n, B random units have one input each. An update
    then leaves at most B live units, the ones with the most salient entries, in output layers, too.) With c live
    entries and the drop fraction f of the step, an update does this in each weight:

    1. **Salient** are the c - floor(f c) live entries of the largest |w|, and the floor(f c) entries of the largest
       |dL/dw|.
    2. **Ablate** units with fewer than max(1, floor(`ablation` k_0)) salient entries, where k_0 = floor(B / n). At
       least floor(B / d) units, and at least one, stay: the ones with the most. Output layers lose no unit. An ablated
       unit is judged anew in every update, so it can come back by its gradients.
    3. **Drop.** The c - floor(f c) entries of the largest |w| of the remaining units stay, at most the new k of a unit,
       the largest ones.
    4. **Grow** each unit to k inputs, where |dL/dw| is largest. Grown entries start at zero, and so do their slots.

    (The authors' program cuts the surplus in step 3 by position, not by magnitude, because it sorts a mask. It masks
    the momentum of SGD only. Its budget is computed in floating point, so that 160 weights at 90 % get 15 entries.)

    An ablated unit has no input left, but its bias: its output is constant.

    Args:
        sparsity, distribution, drop_fraction, decay, dense, begin_step, end_step, frequency, where, seed: See
            `DropAndGrow`. The paper has `frequency=100`, and 800 on ImageNet.
        ablation: The share of the fan-in k_0 that must be salient, in [0, 1]: the paper's gamma, 0.3 (0.95 for vision
            transformers). 0 ablates no unit. An integer above 1 is a number of entries.
        structure: Must be `None`: the structure is the algorithm's own.

    Raises:
        ValueError: For any other argument; before training begins, if the model has nothing to prune.

    Example:

    ```python
    model = sparsity_tf.sparsify(model, "masked")
    model.fit(x, y, epochs=2, callbacks=[sparsity_tf.callbacks.SRigL(sparsity=0.9, frequency=4)])
    ```
    """

    def __init__(
        self,
        sparsity: float = 0.9,
        distribution: DistributionLike = "erk",
        ablation: float = 0.3,
        drop_fraction: NumberOrSchedule = 0.3,
        decay: str = "cosine",
        dense: DenseWeights = None,
        begin_step: int = 0,
        end_step: int | None = None,
        frequency: Frequency = 100,
        where: Where = None,
        structure: str | None = None,
        seed: int = 0,
    ) -> None:
        check_number("ablation", ablation, least=0)
        if ablation > 1 and not is_integer(ablation):
            raise ValueError(
                f"`ablation` must be a share from 0 to 1, or an integer above 1. Received: ablation={ablation}"
            )
        super().__init__(
            sparsity,
            distribution,
            "magnitude",
            "gradient",
            None,
            drop_fraction,
            decay,
            dense,
            begin_step,
            end_step,
            frequency,
            where,
            structure,
            seed,
        )
        self.ablation = ablation

    def _forget_model(self):
        return {**super()._forget_model(), "_outputs": set()}

    def start(self) -> None:
        self._outputs = {id(layer) for layer in output_layers(self.model)}
        super().start()

    def least_salient(self, fan_in: int) -> int:
        """The number of salient entries that a unit needs, where `fan_in` is its number of inputs without ablation."""
        if not self.ablation:
            return 0
        return self.ablation if self.ablation > 1 else max(masks.number_of_zeros(self.ablation, fan_in), 1)

    def initial_mask(self, view: WeightView, sparsity: float, structure: str | None) -> np.ndarray:
        rows = _rows(view.mask, view.filter_axes)
        budget = max(masks.number_to_keep(sparsity, rows.size), 1)
        live = min(len(rows), budget)
        units = masks.random_mask((len(rows),), live, view.rng)
        drawn = _highest_of_rows(view.rng.random(rows.shape), fan_in_of(budget, live, rows.shape[1]))
        return _array(drawn & units[:, None], view)

    def _drop_and_grow(self, chosen, step):
        rate = self.drop_fraction_at(step)
        views = [self.view(index, step, rate) for index in chosen]
        found = [_array(self._next(view), view) for view in views]
        self.assign(views, found, cleared=[new & ~view.mask for new, view in zip(found, views, strict=True)])

    def _next(self, view):
        weights, gradients, live = (_rows(a, view.filter_axes) for a in (view.value, view.gradient, view.mask))
        units, inputs = live.shape
        budget = max(masks.number_to_keep(self.targets[view.path], live.size), 1)
        ablates = id(view._weight.layer) not in self._outputs
        least = self.least_salient(fan_in_of(budget, units, inputs)) if ablates else 0
        drops = masks.number_of_zeros(view.drop_fraction, view.active)
        return next_mask(weights, gradients, live, budget, drops, least, max(budget // inputs, 1))


def _rows(array, filter_axes):
    """An array as units x inputs."""
    return as_matrix(array, filter_axes).T


def _array(rows, view):
    """The inverse of `_rows` for a weight."""
    return from_matrix(rows.T, view.mask.shape, view.filter_axes)
