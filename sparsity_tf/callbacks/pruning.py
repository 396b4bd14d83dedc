"""Gradual pruning: sparsity rises on a schedule, and the smallest or random weights are pruned (Zhu and Gupta, 2017).

Sources: Zhu and Gupta, "To prune, or not to prune" (arXiv 1710.01878); Gale, Elsen and Hooker, "The State of Sparsity
in Deep Neural Networks" (arXiv 1902.09574). Counts are rounded as in the second paper: at sparsity s a weight of n
entries keeps floor((1 - s) n).
"""

import math
from collections.abc import Callable

import numpy as np

from sparsity_tf import distributions, masks, schedules
from sparsity_tf.callbacks import criteria
from sparsity_tf.callbacks.base import shortfall, tied_weights
from sparsity_tf.callbacks.base.cost_target import the_target
from sparsity_tf.callbacks.base.mask_algorithm import MaskAlgorithm
from sparsity_tf.callbacks.base.output_layers import dense_selection
from sparsity_tf.callbacks.base.tied_weights import IMPORTANCES, TiedWeight
from sparsity_tf.callbacks.base.weight_view import WeightView
from sparsity_tf.checks import check_bool, check_callable, check_choice, check_fraction, check_selection
from sparsity_tf.masks import structures
from sparsity_tf.type_names import DenseWeights, DistributionLike, Frequency, Where

SCOPES = ("layer", "global")
SCHEDULES = ("cubic", "linear", "constant")


def the_one_given(final_sparsity, sparsity):
    """Returns the final sparsity, which a user may give by either name."""
    if final_sparsity is not None and sparsity is not None:
        raise ValueError(
            "`sparsity` is another name of `final_sparsity`: give one of them. "
            f"Received: final_sparsity={final_sparsity!r}, sparsity={sparsity!r}"
        )
    if sparsity is None:
        return final_sparsity
    check_fraction("sparsity", sparsity)
    return sparsity


class GradualPruning(MaskAlgorithm):
    """Base class of `MagnitudePruning` and `RandomPruning`. A subclass defines the scores: the highest are kept."""

    structured = prunes_tied = takes_reparametrized = True
    always_at_end = True
    # Whether pruned entries stay pruned.
    cumulative = True

    def __init__(
        self,
        final_sparsity: float | None = None,
        begin_step: int = 0,
        end_step: int | None = None,
        frequency: Frequency = 100,
        initial_sparsity: float = 0.0,
        schedule: str | Callable[[int], float] = "cubic",
        distribution: DistributionLike = "uniform",
        dense: DenseWeights = None,
        where: Where = None,
        structure: str | None = None,
        seed: int = 0,
        sparsity: float | None = None,
        target_flops: float | None = None,
        target_parameters: float | None = None,
    ) -> None:
        super().__init__(begin_step, end_step, frequency, where, structure, seed)
        self.cost_target = the_target(target_flops, target_parameters, final_sparsity=final_sparsity, sparsity=sparsity)
        final_sparsity = the_one_given(final_sparsity, sparsity)
        # Messages use the name that the user gave.
        self._sparsity_name = "final_sparsity" if sparsity is None else "sparsity"
        check_fraction("initial_sparsity", initial_sparsity)
        if self.cost_target is not None:
            final_sparsity = math.nextafter(1.0, 0.0)  # A placeholder until `start` knows the model.
        if final_sparsity is None and isinstance(structures.get(self.structure), structures.NM):
            final_sparsity = structures.get(self.structure).sparsity
        check_fraction(self._sparsity_name, final_sparsity)
        if initial_sparsity > final_sparsity:
            raise ValueError(
                f"`initial_sparsity` must not exceed `{self._sparsity_name}`. "
                f"Received: initial_sparsity={initial_sparsity}, {self._sparsity_name}={final_sparsity}"
            )
        if callable(schedule):
            check_callable("schedule", schedule, "step")
        elif not (isinstance(schedule, str) and schedule in SCHEDULES):
            raise ValueError(
                "`schedule` must be 'cubic', 'linear', 'constant', or a schedule or other function of the step. "
                f"Received: schedule={schedule!r}"
            )
        distributions.get(distribution)
        check_selection("dense", dense, "tensor", empty=True)
        self.final_sparsity, self.initial_sparsity = final_sparsity, initial_sparsity
        self.schedule, self.distribution, self.dense = schedule, distribution, dense

    def default_end_step(self, total_steps: int) -> int:
        return total_steps // 2

    def start(self) -> None:
        if self.cost_target is not None:
            self.final_sparsity = self.cost_target.sparsity(self.model, self.weights, self.distribution, self.dense)
            if self.initial_sparsity > self.final_sparsity:
                raise ValueError(
                    f"`initial_sparsity` must not exceed {self.final_sparsity}, the sparsity at which the model meets "
                    f"{self.cost_target}. Received: initial_sparsity={self.initial_sparsity}"
                )
        structures.check(self._sparsity_name, self.final_sparsity, self.weights)
        # The distribution gives final targets. On the way, every weight has reached the same share of its own target.
        dense = dense_selection(self.model, self.weights, self.where, self.dense, self.distribution)
        targets = distributions.allocate(self.weights, self.final_sparsity, self.distribution, dense=dense)
        self.targets = [targets[weight.path] for weight in self.weights]
        if not self.final_sparsity and any(self.targets):
            raise ValueError(
                f"`{self._sparsity_name}` must be above 0 if `distribution` asks for zeros, because every weight "
                f"follows the schedule from `initial_sparsity` to `{self._sparsity_name}`. Received: "
                f"{self._sparsity_name}=0.0, distribution={self.distribution!r}"
            )
        self.sparsity_at(0)
        if self._has_more_to_prune():
            self.check_not_over()

    def _has_more_to_prune(self):
        """Whether more entries live than shall live in the end. (Where that is not known: whether masks are full.)"""
        everything = self.views(step=0)
        views = [view for view, target in zip(everything, self.targets, strict=True) if target]
        if any(weight.technique.structure for weight in self.weights):
            goal, found = self.goal(), self._sparsity_of([view.active for view in everything])
            full = bool(views) and all(view.mask.all() for view in views)
            return full if goal is None else found < goal - shortfall.TOLERANCE
        return self._counts_above_target(views, [target for target in self.targets if target])

    def _counts_above_target(self, views, targets):
        pairs = zip(views, targets, strict=True)
        return any(view.active > masks.number_to_keep(target, view.mask.size) for view, target in pairs)

    def aim(self) -> str | None:
        return f"target sparsity of {self.final_sparsity}"

    def goal(self) -> float | None:
        pairs = zip(self.weights, self.targets, strict=True)
        return self._sparsity_of([_most_kept(weight, target) for weight, target in pairs])

    def _sparsity_of(self, counts):
        return 1 - sum(counts) / sum(weight.size for weight in self.weights)

    def sparsity_at(self, step: int) -> float:
        """The sparsity of the pruned weights that the schedule asks for after a step: a float in [0, 1)."""
        if callable(self.schedule):
            value = float(self.schedule(step))
            check_fraction("schedule", value)
            if value > self.final_sparsity:
                raise ValueError(
                    f"`schedule` must not exceed `{self._sparsity_name}`. Received: schedule({step}) = {value}, "
                    f"{self._sparsity_name}={self.final_sparsity}"
                )
            return value
        if self.schedule == "constant":
            return self.final_sparsity
        make = schedules.Cubic if self.schedule == "cubic" else schedules.Linear
        return make(self.initial_sparsity, self.final_sparsity, self._first, self.last_step)(step)

    def _target(self, index, step):
        sparsity, final = self.sparsity_at(step), self.targets[index]
        if final == self.final_sparsity:
            return sparsity
        return final if sparsity == self.final_sparsity else sparsity * final / self.final_sparsity

    def change_masks(self, step: int) -> None:
        for portion in self.portions([index for index, target in enumerate(self.targets) if target]):
            self._prune(portion, step)

    def _prune(self, chosen, step):
        views = [self.view(index, step) for index in chosen]
        kinds = [structures.get(self.weights[index].technique.structure) for index in chosen]
        targets = [self._target(index, step) for index in chosen]
        found = [self.new_mask(*triple) for triple in zip(views, kinds, targets, strict=True)]
        # Entries come back only if pruning is not cumulative. The optimizer's slots of these entries are cleared.
        cleared = None if self.cumulative else [mask > view.mask for mask, view in zip(found, views, strict=True)]
        self.assign(views, found, cleared=cleared)

    def new_mask(self, view: WeightView, structure: structures.Elements, sparsity: float) -> np.ndarray:
        """Computes the new mask of a weight at a sparsity."""
        if structure.spec is None and self.cumulative:
            count = min(masks.number_to_keep(sparsity, view.mask.size), view.active)
            return criteria.highest(self.scores, [view], count)[0]
        among = view.mask if self.cumulative else None
        return structure.keep_highest(self.scores(view), sparsity, among, view.filter_axes)

    def scores(self, view: WeightView) -> np.ndarray:
        """The scores of the entries of a weight, as in `criteria.py`. The entries with the lowest scores are pruned."""
        raise TypeError(f"{type(self).__name__} must define `scores(view)`.")


def _most_kept(weight, sparsity):
    """The largest number of entries of a weight that may live at a sparsity. (Blocks at an edge are smaller.)"""
    if not sparsity or weight.technique.structure is None:
        return masks.number_to_keep(sparsity, weight.size)
    structure = structures.get(weight.technique.structure)
    # Among equal scores the first groups are kept. The first groups are whole.
    return int(np.count_nonzero(structure.keep_highest(np.zeros(weight.shape), sparsity, None, weight.filter_axes)))


class MagnitudePruning(GradualPruning):
    """Prunes the weights of the smallest magnitude, on a schedule that rises to the final sparsity.

    After the steps `begin_step`, `begin_step + frequency`, ..., and after `end_step` itself (so that the final sparsity
    is always reached), each weight of n entries keeps its floor((1 - s(t)) n) largest entries. Pruned entries stay
    pruned. Among equal magnitudes the lower index is kept.

    **Per epoch, as STR's GMP** (Kusupati et al. 2020): with S steps an epoch, `frequency="epoch"`,
    `begin_step=e0 * S` and `end_step=(e1 + 1) * S` give GMP's c(e) = p (1 - (1 - (e - e0) / T)^3) before epoch e.
    Unlike GMP, this schedule reaches p itself, at the end of epoch e1.

    Args:
        final_sparsity: Fraction of zeros at the end, in [0, 1). With `structure` N:M here it may be left out: 1 - N/M.
        begin_step: Integer >= 0: the step after which pruning begins.
        end_step: Integer > `begin_step`: the step after which the final sparsity holds. Default: half of training.
        frequency: Integer >= 1: steps between updates, or "epoch".
        initial_sparsity: Sparsity at `begin_step`.
        schedule: "cubic" (the paper's), "linear", "constant" (all at once), or a schedule or function of the step.
        distribution: How the final sparsity is distributed over the weights: "uniform", "erk", a dict, a CSV file, ...
            (`sparsity_tf.distributions.allocate`). On the way, every weight is at the same share of its own target.
        dense: Weights that stay dense: "first", "last", names (`sparsity_tf.distributions.allocate`). Default: none.
            With structure "filter" the default is the output layers, unless `where` (".*" is all) or explicit
            sparsities say which weights to prune.
        scope: "layer", or "global": the magnitudes of all weights are compared with each other, and floor((1 - s) n) of
            all n entries live. (Of channels, heads and units, at least one lives in each layer.) With "global" single
            weights have no targets.
        where, structure, seed: See `MaskAlgorithm`. With structure "channel", "head" or "unit", of n channels that are
            tied to the same layers max(1, floor((1 - s) n)) live.
        sparsity: Another name of `final_sparsity`.
        importance: The measure by which the least important entries are pruned. "l1" is |w|; for a channel, head or
            unit it is the mean of |w| over all weights that make it. "l2" is for channels, heads and units the root of
            the mean of squares; for single weights it equals "l1". "taylor" is |w dL/dw|, to first order the change of
            the loss, with the gradient of the step after which masks change; for a channel, head or unit it is
            |the sum of w dL/dw| (Molchanov et al. 2019).
        target_flops, target_parameters: Instead of `final_sparsity`, with structure "channel", "head" or "unit": the
            share of the dense model's multiply-accumulates (as `inspection.count_flops` counts), or of its parameters,
            that the shrunk model may have. Before training, a search finds the smallest sparsity that meets the target
            under `distribution`. Then `final_sparsity` holds this sparsity. The shrunk model does not exceed the
            target, and with the next lower counts of channels it would exceed the target.

    Raises:
        ValueError: For any other argument; before training begins, if the model has nothing to prune.

    Example:

    ```python
    model = sparsity_tf.sparsify(model, "masked")
    pruning = sparsity_tf.callbacks.MagnitudePruning(final_sparsity=0.9, begin_step=1000, end_step=8000)
    model.fit(x, y, callbacks=[pruning])
    ```
    """

    def __init__(
        self,
        final_sparsity: float | None = None,
        begin_step: int = 0,
        end_step: int | None = None,
        frequency: Frequency = 100,
        scope: str = "layer",
        initial_sparsity: float = 0.0,
        schedule: str | Callable[[int], float] = "cubic",
        distribution: DistributionLike = "uniform",
        dense: DenseWeights = None,
        where: Where = None,
        structure: str | None = None,
        seed: int = 0,
        sparsity: float | None = None,
        importance: str = "l1",
        target_flops: float | None = None,
        target_parameters: float | None = None,
    ) -> None:
        super().__init__(
            final_sparsity,
            begin_step,
            end_step,
            frequency,
            initial_sparsity,
            schedule,
            distribution,
            dense,
            where,
            structure,
            seed,
            sparsity,
            target_flops,
            target_parameters,
        )
        check_choice("scope", scope, SCOPES)
        check_choice("importance", importance, IMPORTANCES)
        self.importance = importance
        if scope == "global" and self.cost_target is not None:
            raise ValueError(
                "`scope` must be 'layer' with a target for the cost: with 'global' the scores alone decide how "
                f"sparse each layer becomes. Received: scope='global', {self.cost_target}"
            )
        if scope == "global" and not (isinstance(distribution, str) and distribution == "uniform"):
            raise ValueError(
                "`distribution` must be 'uniform' (the default) with scope='global': there the scores decide how "
                f"sparse each weight becomes. Received: distribution={self.distribution!r}"
            )
        self.scope = scope

    def uses(self) -> set[str]:
        return {"gradient"} if self.importance == "taylor" else set()

    def start(self) -> None:
        if self.importance == "l2":
            for weight in self.weights:
                kind = structures.get(weight.technique.structure)
                if kind.spec is not None and not kind.ties_layers:
                    raise ValueError(
                        f"`importance` must be 'l1' or 'taylor' with structure={kind.spec!r}. Received: importance='l2'"
                    )
        for weight in self.weights if self.scope == "global" else ():
            if isinstance(structures.get(weight.technique.structure), structures.NM):
                raise ValueError(
                    "`scope` must be 'layer' with an N:M structure: the structure sets how many weights of each "
                    f"group live. Received: scope='global', structure={weight.technique.structure!r} of "
                    f"{weight.path!r}"
                )
        super().start()

    def _counts_above_target(self, views, targets):
        if self.scope == "layer":
            return super()._counts_above_target(views, targets)
        size = sum(view.mask.size for view in views)
        return sum(view.active for view in views) > masks.number_to_keep(self.final_sparsity, size)

    def goal(self) -> float | None:
        if self.scope == "layer":
            return super().goal()
        if any(weight.technique.structure for weight in self.weights):
            return None  # Groups in different weights have different sizes.
        pairs = list(zip(self.weights, self.targets, strict=True))
        kept = sum(weight.size for weight, target in pairs if not target)
        size = sum(weight.size for weight, target in pairs if target)
        return self._sparsity_of([kept, masks.number_to_keep(self.final_sparsity, size)])

    @property
    def scores(self) -> Callable[[WeightView], np.ndarray]:
        """The function that scores the entries of a weight, given its `WeightView`."""
        return criteria.saliency if self.importance == "taylor" else criteria.magnitude

    def change_masks(self, step: int) -> None:
        if self.scope == "layer":
            super().change_masks(step)
            return
        chosen = [index for index, target in enumerate(self.targets) if target]
        if not chosen:
            return
        views = [self.view(index, step) for index in chosen]
        kinds = [structures.get(self.weights[index].technique.structure) for index in chosen]
        alive = [kind.alive(view.mask, view.filter_axes) for kind, view in zip(kinds, views, strict=True)]
        if kinds[0].ties_layers:
            scores = [self.scores(view) for view in views]
            self.assign(views, tied_weights.highest_overall(scores, self.sparsity_at(step), alive))
            return
        count = masks.number_to_keep(self.sparsity_at(step), sum(mask.size for mask in alive))
        count = min(count, sum(int(np.count_nonzero(mask)) for mask in alive))
        if any(kind.spec for kind in kinds):
            pairs = zip(kinds, views, strict=True)
            scores = [kind.reduce(self.scores(view), view.filter_axes) for kind, view in pairs]
            triples = zip(kinds, masks.highest_overall(scores, count, alive), views, strict=True)
            expanded = [kind.expand(groups, view.mask.shape, view.filter_axes) for kind, groups, view in triples]
            kept = [mask & view.mask for mask, view in zip(expanded, views, strict=True)]
        else:
            kept = criteria.highest(self.scores, views, count)
        self.assign(views, kept)


class RandomPruning(GradualPruning):
    """Prunes random weights, on a schedule: the control experiment of magnitude pruning.

    Counts are the same as in `MagnitudePruning`. By default pruned entries stay pruned, and an update draws the entries
    to prune uniformly from the live entries. (The published code of *State of Sparsity* has a "random" method that
    prunes by magnitude, and a related program brings pruned weights back. This class does neither.)

    Args:
        cumulative: Bool. `False` draws a new mask of the scheduled count at every update, over all entries. (Structures
            that tie layers need `True`: a channel that is pruned in all its layers gets no gradient to come back.)
        final_sparsity, begin_step, end_step, frequency, initial_sparsity, schedule, distribution, dense, where,
            structure, seed, sparsity, target_flops, target_parameters: See `MagnitudePruning`. With an N:M structure
            entries are drawn in each group.

    Raises:
        ValueError: As `MagnitudePruning`.

    Example:

    ```python
    model = sparsity_tf.sparsify(model, "masked")
    model.fit(x, y, callbacks=[sparsity_tf.callbacks.RandomPruning(final_sparsity=0.9, frequency=2)])
    ```
    """

    def __init__(
        self,
        final_sparsity: float | None = None,
        begin_step: int = 0,
        end_step: int | None = None,
        frequency: Frequency = 100,
        cumulative: bool = True,
        initial_sparsity: float = 0.0,
        schedule: str | Callable[[int], float] = "cubic",
        distribution: DistributionLike = "uniform",
        dense: DenseWeights = None,
        where: Where = None,
        structure: str | None = None,
        seed: int = 0,
        sparsity: float | None = None,
        target_flops: float | None = None,
        target_parameters: float | None = None,
    ) -> None:
        super().__init__(
            final_sparsity,
            begin_step,
            end_step,
            frequency,
            initial_sparsity,
            schedule,
            distribution,
            dense,
            where,
            structure,
            seed,
            sparsity,
            target_flops,
            target_parameters,
        )
        check_bool("cumulative", cumulative)
        self.cumulative = self.takes_reparametrized = cumulative

    def start(self) -> None:
        if not self.cumulative and any(isinstance(weight, TiedWeight) for weight in self.weights):
            raise ValueError(
                "`cumulative` must be True with a structure that ties layers: a channel, head or unit that is pruned "
                "in all its layers can't come back. Received: cumulative=False, "
                f"structure={self.weights[0].technique.structure!r}"
            )
        super().start()

    def new_mask(self, view: WeightView, structure: structures.Elements, sparsity: float) -> np.ndarray:
        among = view.mask if self.cumulative else None
        if structure.spec is not None:
            return structure.keep_random(view.rng, view.mask.shape, sparsity, among, view.filter_axes)
        # This draws from the same distribution, without a score for every entry.
        count = min(masks.number_to_keep(sparsity, view.mask.size), view.active if self.cumulative else view.mask.size)
        return masks.random_mask(view.mask.shape, count, view.rng, among)
