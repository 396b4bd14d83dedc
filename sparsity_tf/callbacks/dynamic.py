"""Dynamic sparse training: the number of live weights is fixed. Now and then some are dropped, and others are grown.

* `DropAndGrow` is the algorithm. Its arguments set the initial random mask, how many weights to drop, the drop score,
  the grow score, and how counts move between layers;
* `StaticSparsity`, `SET` and `RigL` are choices of these arguments.

Sources: Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse connectivity inspired by
network science" (arXiv 1707.04780: SET); Evci et al., "Rigging the Lottery" (arXiv 1911.11134: RigL). ITOP (Liu et al.,
arXiv 2102.02887) is a choice of settings: rare updates up to the end of training, `RigL(frequency=4000,
drop_fraction=0.5, end_step=...)` or `SET(frequency=1500, drop="magnitude", drop_fraction=0.5, decay="cosine")`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from sparsity_tf import distributions, masks, schedules
from sparsity_tf.callbacks import criteria
from sparsity_tf.callbacks.base import shortfall
from sparsity_tf.callbacks.base.cost_target import the_target
from sparsity_tf.callbacks.base.mask_algorithm import MaskAlgorithm
from sparsity_tf.callbacks.base.output_layers import dense_selection
from sparsity_tf.callbacks.base.weight_view import WeightView
from sparsity_tf.checks import check_callable, check_choice, check_fraction, check_selection
from sparsity_tf.masks import structures
from sparsity_tf.type_names import DenseWeights, DistributionLike, Frequency, NumberOrSchedule, Where

DECAYS = ("cosine", "linear", "constant")


class SparseFromTheStart(MaskAlgorithm):
    """Base class of the algorithms that train with a mask from the first step on. It makes the initial random masks.

    If all masks of the model are full, masks are drawn at random: of n entries floor(s n) are zero, where s is the
    weight's own sparsity under `distribution`. Earlier masks (from a resumed run, `load_masks` or one-shot pruning)
    stay as they are, and so do their counts.
    """

    def __init__(
        self,
        sparsity: float = 0.9,
        distribution: DistributionLike = "uniform",
        dense: DenseWeights = None,
        frequency: Frequency = 100,
        **kwargs: Any,
    ) -> None:
        super().__init__(frequency=frequency, **kwargs)
        check_fraction("sparsity", sparsity)
        distributions.get(distribution)
        check_selection("dense", dense, "tensor", empty=True)
        self.target_sparsity, self.distribution, self.dense = sparsity, distribution, dense

    def start(self) -> None:
        dense = dense_selection(self.model, self.weights, self.where, self.dense, self.distribution)
        # Path -> the sparsity of the weight under `distribution`.
        self.targets = targets = distributions.allocate(
            self.weights, self.target_sparsity, self.distribution, dense=dense
        )
        kept = distributions.select_dense(self.weights, dense)
        # The indices of the weights whose masks change.
        self.moving = [index for index, weight in enumerate(self.weights) if weight.path not in kept]
        views = self.views(step=0)
        if not all(view.mask.all() for view in views):
            self._compare_masks(views, targets)
            return
        self.check_not_over()
        pairs = [(w, view) for w, view in zip(self.weights, views, strict=True) if targets[w.path]]
        chosen = [self.initial_mask(view, targets[w.path], w.technique.structure) for w, view in pairs]
        # If the model was trained before, the optimizer's slots may hold values of entries that are zero now.
        self.assign([view for _, view in pairs], chosen, cleared=[~mask for mask in chosen])
        self.dropped = dict.fromkeys(self.dropped, 0)  # The initial masks are not an update.

    def _compare_masks(self, views, targets):
        size = sum(view.mask.size for view in views)
        wanted = sum(masks.number_of_zeros(targets[view.path], view.mask.size) for view in views) / size
        found = 1 - sum(view.active for view in views) / size
        # Other algorithms round their counts differently, and the counts of sparse momentum vary.
        if found < wanted - 0.01:
            shortfall.warn_of_other_masks(self, found, wanted)

    def initial_mask(self, view: WeightView, sparsity: float, structure: structures.Elements) -> np.ndarray:
        """Draws the random mask with which a weight starts."""
        if structure is not None:
            return structures.get(structure).keep_random(view.rng, view.mask.shape, sparsity, None, view.filter_axes)
        count = view.mask.size - masks.number_of_zeros(sparsity, view.mask.size)
        return masks.random_mask(view.mask.shape, count, view.rng)


class StaticSparsity(SparseFromTheStart):
    """A random mask that never changes: the control experiment of dynamic sparse training.

    Args:
        sparsity: Fraction of zeros, in [0, 1), over all weights together. Default: 0.9, unless a target is given.
        distribution: How the sparsity is distributed over the weights: "uniform", "erk", a dict, a CSV file, ...
            (`sparsity_tf.distributions.allocate`).
        dense: Weights that stay dense: "first", "last", names (`sparsity_tf.distributions.allocate`). With structure
            "filter" the default is the output layers, see `MagnitudePruning`.
        where, structure, seed: See `MaskAlgorithm`.
        target_flops, target_parameters: Instead of `sparsity`. See `MagnitudePruning`.

    Raises:
        ValueError: For any other argument; before training begins, if the model has nothing to prune.

    Example:

    ```python
    model = sparsity_tf.sparsify(model, "masked")
    model.fit(x, y, callbacks=[sparsity_tf.callbacks.StaticSparsity(sparsity=0.9, distribution="erk")])
    ```
    """

    structured = True
    prunes_tied = True
    scheduled = False
    takes_reparametrized = True

    def __init__(
        self,
        sparsity: float | None = None,
        distribution: DistributionLike = "uniform",
        dense: DenseWeights = None,
        where: Where = None,
        structure: str | None = None,
        seed: int = 0,
        target_flops: float | None = None,
        target_parameters: float | None = None,
    ) -> None:
        self.cost_target = the_target(target_flops, target_parameters, sparsity=sparsity)
        sparsity = 0.9 if sparsity is None else sparsity
        super().__init__(sparsity, distribution, dense, where=where, structure=structure, seed=seed)

    def start(self) -> None:
        if self.cost_target is not None:
            self.target_sparsity = self.cost_target.sparsity(self.model, self.weights, self.distribution, self.dense)
        structures.check("sparsity", self.target_sparsity, self.weights)
        super().start()


class DropAndGrow(SparseFromTheStart):
    """Drops some live weights and grows as many others, on a schedule. Any score decides which.

    At an update, each weight with n live entries loses the floor(n f) entries with the lowest drop scores, where f is
    the drop fraction of the step. Then as many masked entries, with the highest grow scores, are grown. (The entries
    that were just dropped take part.) So the count of each weight never changes. Grown entries start at zero, and so do
    their optimizer slots. An entry that is dropped and grown in the same update keeps its value and slots. Scores are
    functions of a `WeightView` (see `sparsity_tf.callbacks.criteria`; docs/guides/extending.md says how to write one).
    With a `redistribution`, the number of all dropped entries is shared out over the weights in proportion to the
    statistic, as far as there is room.

    Args:
        sparsity: Fraction of zeros, in [0, 1), over all weights together.
        distribution: How the sparsity is distributed over the weights: "uniform", "erk", a dict, a CSV file, ...
            (`sparsity_tf.distributions.allocate`).
        drop: Drop score: "magnitude", "signed_magnitude" (canonical SET), "global_magnitude", "magnitude_variance"
            (Adam), or a function.
        grow: Grow score: "random", "gradient", "inverted_gradient", "momentum", "momentum_neuron", "global_momentum",
            or a function.
        redistribution: `None` for no movement between weights, or "momentum", "magnitude", "variance" (Adam),
            "nonzeros", "size", or a function.
        drop_fraction: Share of live weights to drop. A number in [0, 1] is the value at which `decay` starts. A
            schedule or other function of the step is used as it is, without `decay`.
        decay: "cosine" (half a wave down to 0 at `end_step`), "linear" or "constant".
        dense: Weights that stay dense: "first", "last", names (`sparsity_tf.distributions.allocate`).
        begin_step, end_step, frequency, where, seed: See `MaskAlgorithm`. The default end is after three quarters of
            training. With `frequency="epoch"` masks change one step into the next epoch. So at the end of an epoch
            callbacks do not measure and save a network that has just lost weights. If one call of
            `steps_per_execution` steps is more than half an epoch, masks change before the first step of the next
            epoch. A score that reads gradients then gets the gradient of the last step of the epoch before.
        structure: Must be `None`: the algorithm moves single weights.

    Raises:
        ValueError: For any other argument; before training begins, if the model has nothing to prune, or if the
            optimizer lacks slots that a score reads.

    Example:

    ```python
    model = sparsity_tf.sparsify(model, "masked")
    churn = sparsity_tf.callbacks.DropAndGrow(sparsity=0.9, drop="magnitude", grow="random", frequency="epoch")
    model.fit(x, y, epochs=2, callbacks=[churn])
    ```
    """

    grows = True
    # The value to which the drop fraction decays.
    floor = 0.0
    # The drop scores by name.
    drop_scores = criteria.DROP
    # Whether the optimizer's slots of grown weights are set to zero.
    clears_grown = True
    # With a delay of one step, callbacks at the end of an epoch measure and save a network that has trained with its
    # weights, and not a network that has just lost up to half of them.
    steps_after_epoch = 1

    def __init__(
        self,
        sparsity: float = 0.9,
        distribution: DistributionLike = "uniform",
        drop: str | Callable[[WeightView], np.ndarray] = "magnitude",
        grow: str | Callable[[WeightView], np.ndarray] = "random",
        redistribution: str | Callable[[WeightView], float] | None = None,
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
        super().__init__(
            sparsity,
            distribution,
            dense,
            frequency,
            begin_step=begin_step,
            end_step=end_step,
            where=where,
            structure=structure,
            seed=seed,
        )
        if callable(drop_fraction):
            check_callable("drop_fraction", drop_fraction, "step")
        else:
            check_fraction("drop_fraction", drop_fraction, closed=True)
        check_choice("decay", decay, DECAYS)
        self.drop_fraction, self.decay = drop_fraction, decay
        self.drop = criteria.get("drop", drop, self.drop_scores)
        self.grow = criteria.get("grow", grow, criteria.GROW)
        self.redistribution = None
        if redistribution is not None:
            self.redistribution = criteria.get("redistribution", redistribution, criteria.REDISTRIBUTION)

    def default_end_step(self, total_steps: int) -> int:
        return 3 * total_steps // 4

    def uses(self) -> set[str]:
        return criteria.used_by(self.drop, self.grow, self.redistribution)

    def start(self) -> None:
        super().start()
        self.drop_fraction_at(self.begin_step)

    def drop_fraction_at(self, step: int) -> float:
        """The share of the live weights to drop after a step: a float in [0, 1]."""
        if callable(self.drop_fraction):
            value = float(self.drop_fraction(step))
            check_fraction("drop_fraction", value, closed=True)
            return value
        if self.decay == "constant":
            return float(self.drop_fraction)
        start, end = self._first, self.decay_end
        if self.decay == "linear":
            return schedules.Linear(self.drop_fraction, self.floor, start, end)(step)
        return schedules.Cosine(self.drop_fraction, start, end, self.floor)(step)

    @property
    def decay_end(self) -> int:
        """The step at which the drop fraction reaches its final value."""
        return self.last_step

    def change_masks(self, step: int) -> None:
        together = self.redistribution or any(criteria.mark_of(f, "overall", False) for f in (self.drop, self.grow))
        for portion in [self.moving] if together else self.portions(self.moving):
            self._drop_and_grow(portion, step)

    def _drop_and_grow(self, chosen, step):
        rate = self.drop_fraction_at(step)
        views = [self.view(index, step, rate) for index in chosen]
        drop_counts = [masks.number_of_zeros(view.drop_fraction, view.active) for view in views]
        if not any(drop_counts):
            return
        statistics = criteria.statistics(self.redistribution, views) if self.redistribution else None
        kept = criteria.lowest_live(self.drop, views, drop_counts)
        lost = [view.active - int(np.count_nonzero(mask)) for view, mask in zip(views, kept, strict=True)]
        free = [mask.size - int(np.count_nonzero(mask)) for mask in kept]
        grow_counts = lost if statistics is None else share_out(sum(lost), statistics, free)
        self.grow_weights(views, kept, grow_counts)

    def grow_weights(self, views: list[WeightView], kept: list[np.ndarray], counts: list[int]) -> None:
        """Grows `counts` entries in addition to the masks `kept`, and assigns the resulting masks."""
        grown = criteria.highest_free(self.grow, views, kept, counts)
        cleared = [new > view.mask for new, view in zip(grown, views, strict=True)] if self.clears_grown else None
        self.assign(views, [mask | new for mask, new in zip(kept, grown, strict=True)], cleared=cleared)


def share_out(total, statistics, room):
    """Divides an integer into whole shares in proportion to statistics. No share exceeds its room.

    The remainder that rounding down leaves goes to the shares with the largest fractions. A share that exceeds its room
    is cut, and the excess is divided among the others in proportion again.

    Args:
        total: Integer >= 0, at most the sum of `room`.
        statistics: Sequence of numbers >= 0; all zero means equal shares.
        room: Sequence of integers >= 0.

    Returns:
        List of integers with the sum `total`, each from 0 to its room.

    Raises:
        ValueError: A statistic is negative or not finite, or there is not enough room.
    """
    statistics, room = np.asarray(statistics, np.float64), np.asarray(room, np.int64)
    if not np.isfinite(statistics).all() or (statistics < 0).any():
        raise ValueError(f"`redistribution` must return finite numbers >= 0. Received: {statistics.tolist()}")
    if total > room.sum():
        raise ValueError(
            f"`total` must be at most {room.sum()}, the number of entries that there is room for. Received: "
            f"total={total}"
        )
    counts, statistics = np.zeros(len(room), np.int64), statistics / max(statistics.max(initial=0.0), 1e-300)
    while left := total - int(counts.sum()):
        open_ = counts < room
        share = np.where(open_, statistics, 0.0)
        share = share if share.sum() > 0 else open_.astype(np.float64)
        ideal = left * share / share.sum()
        extra = np.floor(ideal).astype(np.int64)
        remainders = np.argsort(-(ideal - extra), kind="stable")
        extra[[i for i in remainders if open_[i]][: left - int(extra.sum())]] += 1
        counts = np.minimum(counts + extra, room)
    return counts.tolist()


class SET(DropAndGrow):
    """Sparse evolutionary training (Mocanu et al. 2018): once an epoch, drop small weights and grow random ones.

    The share `drop_fraction` of the positive weights and of the negative weights is dropped, the weights closest to
    zero first (`drop="signed_magnitude"`). As many weights grow at random in the same layer. The densities of the
    layers follow the Erdos-Renyi distribution.

    Args:
        sparsity, distribution, drop, grow, decay, frequency, redistribution, drop_fraction, dense, begin_step,
            end_step, where, structure, seed: See `DropAndGrow`. The defaults are SET's. By default the last update
            comes before the last step.

    Example:

    ```python
    model = sparsity_tf.sparsify(model, "masked")
    model.fit(x, y, epochs=2, callbacks=[sparsity_tf.callbacks.SET(sparsity=0.9)])
    ```
    """

    def __init__(
        self,
        sparsity: float = 0.9,
        distribution: DistributionLike = "erdos_renyi",
        drop: str | Callable[[WeightView], np.ndarray] = "signed_magnitude",
        grow: str | Callable[[WeightView], np.ndarray] = "random",
        decay: str = "constant",
        frequency: Frequency = "epoch",
        redistribution: str | Callable[[WeightView], float] | None = None,
        drop_fraction: NumberOrSchedule = 0.3,
        dense: DenseWeights = None,
        begin_step: int = 0,
        end_step: int | None = None,
        where: Where = None,
        structure: str | None = None,
        seed: int = 0,
    ) -> None:
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

    def default_end_step(self, total_steps: int) -> int:
        return total_steps - 1


class RigL(DropAndGrow):
    """RigL (Evci et al. 2020): drop small weights, and grow weights where the gradient of the loss is largest.

    The gradient is the dense gradient of the very step after which masks change, as the optimizer received it: summed
    over replicas, accumulated, clipped. No batch is used twice and no step is left out. (In the published TensorFlow 1
    code an update replaces a step, and the cosine starts at step 0. This class does neither.)

    Args:
        sparsity, distribution, drop, grow, redistribution, drop_fraction, decay, dense, begin_step, end_step,
            frequency, where, structure, seed: See `DropAndGrow`. `grow="inverted_gradient"` is the paper's control
            experiment. The default end is after three quarters of training (25,000 of 32,000 steps in the paper).

    Example:

    ```python
    model = sparsity_tf.sparsify(model, "masked")
    model.fit(x, y, callbacks=[sparsity_tf.callbacks.RigL(sparsity=0.9)])
    ```
    """

    def __init__(
        self,
        sparsity: float = 0.9,
        distribution: DistributionLike = "erk",
        drop: str | Callable[[WeightView], np.ndarray] = "magnitude",
        grow: str | Callable[[WeightView], np.ndarray] = "gradient",
        redistribution: str | Callable[[WeightView], float] | None = None,
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
