"""Sparse momentum: sparse networks from scratch (Dettmers and Zettlemoyer, 2019, arXiv 1907.04840).

Once an epoch the algorithm prunes small weights, decides how many weights each layer may grow by the mean momentum of
the layer's live weights, and grows the weights with the largest momentum. As published, a correction term keeps the
count of live weights nearly constant, but not exactly. Three cases that the public program gets wrong are correct here:
empty layers, negative quotas and quotas that never settle.
"""

import math
from collections.abc import Callable

import numpy as np

from sparsity_tf import distributions, masks
from sparsity_tf.callbacks import criteria
from sparsity_tf.callbacks.base.weight_view import WeightView
from sparsity_tf.callbacks.dynamic import DropAndGrow
from sparsity_tf.type_names import DenseWeights, DistributionLike, Frequency, NumberOrSchedule, Where


class SparseMomentum(DropAndGrow):
    """Sparse momentum, with all modes of its public program.

    In an update, r is the drop fraction of the step. A weight has N entries, n live and z masked ones. There are L
    weights. The update has these steps:

    1. shares: v is the redistribution statistic of a weight, divided by the sum over all weights;
    2. rates: p = r, but p = min(z / N, r) for a weight that is less than 20 % sparse and has a share above 1 / L;
    3. each weight drops the ceil(p n) live entries with the lowest drop scores; K entries are dropped in total;
    4. quotas: g = ceil(v (K + a)), but at most 0.99 (z + ceil(p n)). The excess goes to the others in equal parts;
    5. each weight grows the floor(g) masked entries with the highest grow scores;
    6. correction: a <- a / 4 + 3 d / 4 + (mean of all d so far), where d = B - (live weights now), and B is the count
       of live weights at the start.

    Step 6 keeps the count near B, as published, but not exactly: the sparsity varies by a few weights in each layer. A
    model that starts dense (`sparsity=0.0`) stays dense.

    An entry that is dropped and grown in one update keeps its value; other grown entries start at zero. The optimizer's
    momentum is never reset. Masked weights get dense gradients, so a grown weight starts with the momentum that it has
    gathered.

    Args:
        sparsity: Fraction of zeros, in [0, 1), over all weights together.
        distribution: For the initial masks: "uniform" (the program's "constant"), "by_size" (its "linear"), or any
            other distribution of `sparsity_tf.distributions.allocate`. Counts are exact, not drawn.
        drop: "magnitude"; "signed_magnitude" or "SET" (canonical SET, unlike the program's modes, which are defective);
            "global_magnitude" (exactly the smallest ceil(r B) of all entries; the program searches for a threshold);
            "threshold" (entries with |w| up to a common threshold, which starts at 0.001, doubles if the number dropped
            was more than 2 % below ceil(r B), and halves if it was more than 2 % above); "magnitude_variance" (Adam);
            or a function.
        grow: "momentum", "random", "momentum_neuron", "global_momentum", or a function.
        redistribution: "momentum", "magnitude", "nonzeros", "none" (by size), "variance" (Adam), or a function.
        drop_fraction: The paper's prune rate, 0.5; or a schedule or other function of the step.
        decay: "cosine" (to 0.005 at the end of training), "linear" (to 0) or "constant".
        frequency: Steps between updates; default "epoch".
        dense, begin_step, end_step, where, structure, seed: See `DropAndGrow`. By default the last update comes before
            the last step.

    Raises:
        ValueError: For any other argument; before training begins, if the model has nothing to prune, or if the
            optimizer has no momentum.

    Example:

    ```python
    model = sparsity_tf.sparsify(model, "masked")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True), loss)
    model.fit(x, y, epochs=2, callbacks=[sparsity_tf.callbacks.SparseMomentum(sparsity=0.95)])
    ```
    """

    state_name = "sparse_momentum"
    # A threshold on magnitudes also drops the weights of the smallest magnitude.
    drop_scores = {**criteria.DROP, "threshold": criteria.magnitude}
    # Momentum is never reset.
    clears_grown = False
    state_fields = ("baseline", "adjustment", "sum_of_errors", "updates", "threshold")

    def __init__(
        self,
        sparsity: float = 0.95,
        distribution: DistributionLike = "uniform",
        drop: str | Callable[[WeightView], np.ndarray] = "magnitude",
        grow: str | Callable[[WeightView], np.ndarray] = "momentum",
        redistribution: str | Callable[[WeightView], float] | None = "momentum",
        drop_fraction: NumberOrSchedule = 0.5,
        decay: str = "cosine",
        frequency: Frequency = "epoch",
        dense: DenseWeights = None,
        begin_step: int = 0,
        end_step: int | None = None,
        where: Where = None,
        structure: str | None = None,
        seed: int = 0,
    ) -> None:
        self.by_threshold = isinstance(drop, str) and drop == "threshold"
        super().__init__(
            sparsity,
            distribution,
            drop,
            grow,
            redistribution,
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
        self.floor = 0.005 if decay == "cosine" else 0.0

    def default_end_step(self, total_steps: int) -> int:
        return total_steps - 1

    @property
    def decay_end(self) -> int:
        return self._total_steps or self.last_step

    def start(self) -> None:
        drawn = all(view.mask.all() for view in self.views(step=0))
        super().start()
        if not self.has_state():
            baseline = sum(self.active_counts())
            if drawn and not getattr(distributions.get(self.distribution), "explicit", False):
                # Some distributions leave a part of the budget unused. The correction regrows it over time.
                size = sum(self.weights[index].size for index in self.moving)
                kept = sum(weight.size for weight in self.weights) - size
                baseline = kept + size - masks.number_of_zeros(self.target_sparsity, size)
            self.remember(baseline=baseline, threshold=0.001)

    def change_masks(self, step: int) -> None:
        rate, state = self.drop_fraction_at(step), self.recall()
        if state["baseline"] >= sum(weight.size for weight in self.weights):
            return  # Nothing is masked: dropped weights could only come back, and perhaps later.
        views = [self.view(index, step, rate) for index in self.moving]
        shares = _normalise(criteria.statistics(self.redistribution, views))
        rates = [_rate(view, share, rate, len(views)) for view, share in zip(views, shares, strict=True)]
        counts = [math.ceil(p * view.active) for p, view in zip(rates, views, strict=True)]
        kept = self._drop(views, counts, rate, state)
        lost = sum(view.active - int(np.count_nonzero(mask)) for view, mask in zip(views, kept, strict=True))
        limits = [0.99 * (view.mask.size - view.active + count) for view, count in zip(views, counts, strict=True)]
        quotas = share_quotas(lost + state["adjustment"], shares, limits)
        free = [mask.size - int(np.count_nonzero(mask)) for mask in kept]
        self.grow_weights(views, kept, [min(math.floor(g), n) for g, n in zip(quotas, free, strict=True)])
        error = state["baseline"] - sum(self.active_counts())
        total, updates = state["sum_of_errors"] + error, state["updates"] + 1
        self.remember(
            adjustment=0.25 * state["adjustment"] + 0.75 * error + total / updates,
            sum_of_errors=total,
            updates=updates,
        )

    def _drop(self, views, counts, rate, state):
        if self.by_threshold:
            kept = [view.mask & (np.abs(view.value) > state["threshold"]) for view in views]
            lost = sum(view.active - int(np.count_nonzero(mask)) for view, mask in zip(views, kept, strict=True))
            expected = math.ceil(rate * state["baseline"])
            factor = 2.0 if lost < 0.98 * expected else 0.5 if lost > 1.02 * expected else 1.0
            self.remember(threshold=state["threshold"] * factor)
            return kept
        if criteria.mark_of(self.drop, "overall", False):
            counts = [min(math.ceil(rate * state["baseline"]), sum(view.active for view in views))]
        return criteria.lowest_live(self.drop, views, counts)


def share_quotas(total, shares, limits):
    """The number of weights that each layer may grow: ceil(share * total). Excess over a limit goes to all equally.

    Args:
        total: Number of weights to grow in total. It may be fractional. A negative number counts as zero.
        shares: Sequence of numbers >= 0 with the sum 1.
        limits: Sequence of numbers >= 0.

    Returns:
        List of floats, each at most its limit. Each layer grows the floor of its number. Spreading ends when less than
        one weight is left over, or when every layer is full.
    """
    # The factor keeps `ceil` from making a whole weight out of a rounding error of float32 statistics.
    quotas = np.ceil(np.asarray(shares) * max(total, 0.0) * (1 - 1e-6))
    limits = np.asarray(limits, np.float64)
    while True:
        excess = np.maximum(quotas - limits, 0).sum()
        quotas = np.minimum(quotas, limits)
        if excess < 1 or (quotas >= limits).all():
            return quotas.tolist()
        quotas = quotas + excess / len(quotas)


def _normalise(statistics):
    statistics = np.asarray(statistics, np.float64)
    total = statistics.sum()
    return statistics / total if total > 0 else np.full(len(statistics), 1 / len(statistics))


def _rate(view, share, rate, count):
    """The drop rate of a weight. A nearly dense weight with a large share loses no more than it has room to regrow."""
    sparsity = 1 - view.active / view.mask.size
    return min(sparsity, rate) if sparsity < 0.2 and share > 1 / count else rate
