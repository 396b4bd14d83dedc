"""Dynamic sparse reparameterization (Mostafa and Wang, ICML 2019, arXiv 1902.05967).

One global threshold prunes small weights. As many weights are grown at random, and each layer gets a share in
proportion to its surviving weights. The threshold doubles or halves so that about the wanted number is pruned each
time. There are two variants: the paper's program, and `DSModel` of the authors' `dst` package, which counts relative to
the whole model.
"""

import math
from collections.abc import Callable

import numpy as np

from sparsity_tf import masks
from sparsity_tf.callbacks.base.weight_view import WeightView
from sparsity_tf.callbacks.dynamic import SparseFromTheStart, share_out
from sparsity_tf.checks import check_callable, check_choice, check_fraction, check_number
from sparsity_tf.masks import structures
from sparsity_tf.type_names import DenseWeights, DistributionLike, Frequency, Where

VARIANTS = ("paper", "model")

# Growth is shared out in proportion to one of these functions of (size, live before pruning, live after pruning).


def _survivors(size, before, after):
    return after


def _pruned(size, before, after):
    return before - after


def _zeros(size, before, after):
    return size - after


def _live(size, before, after):
    return before


def _size(size, before, after):
    return size


HEURISTICS = {"survivors": _survivors, "pruned": _pruned, "zeros": _zeros, "live": _live, "size": _size}
_ALIASES = {
    "paper": "survivors",
    "within_param": "pruned",
    "anti_paper": "zeros",
    "R_p_sphere": "survivors",
    "K_p_sphere": "pruned",
    "Z_p_sphere": "zeros",
    "M_p_sphere": "live",
    "N_p_sphere": "size",
}


_MODEL_COUNTS_ENTRIES = (
    "`structure` must be None with variant='model', whose sparsity is a share of all parameters and not of groups. "
    "Received: {}"
)


class DynamicSparseReparameterization(SparseFromTheStart):
    """Dynamic sparse reparameterization: prunes by one threshold, grows at random, moves weights between layers.

    At an update every live entry with |w| < H is dropped. H is one threshold for all weights. As many entries are grown
    at random, and each weight gets a share in proportion to its remaining live entries. H doubles if fewer than 90 % of
    the wanted number were dropped, and halves if more than 110 % were. Grown weights start at zero, and momentum is not
    reset. The budget is conserved exactly: a share that does not fit into a weight goes to the other weights.

    * `variant="paper"`: `sparsity` is the sparsity of the masked weights. Of n entries int((1 - s) n + 0.1), but at
      least one, live at the start. An entry pruned in an update is not grown again in the same update, unless there is
      no other room. A weight that would lose all entries keeps its first live entry.
    * `variant="model"` (`DSModel`): `sparsity` is the sparsity of the whole model: zeros / all trainable parameters,
      with the parameters that no mask covers. A pruned entry may be grown again at once. The masked weights have the
      sparsity s * (all parameters) / (masked weights), which must be below 1.

    With a structure the unit that is dropped and grown is a group: a block such as "3x3x1x1", which is a whole 3 x 3
    kernel, or an output unit ("filter"). The score of a group is the mean |w| of its entries, as in the paper's program
    (its granularity 2 is whole kernels). All numbers of this docstring then count groups, and the number of live groups
    is conserved. The number of live entries is, too, if all groups have the same size.

    The three steps of an update can be called one by one on a prepared model: `prune_by_threshold`,
    `adjust_pruning_threshold`, `reallocate_free_parameters`. Three corner cases differ from the published programs: the
    threshold is not halved once at the start, growth without room ends, and grown entries always start at zero.

    Args:
        sparsity: Fraction of zeros, in [0, 1).
        variant: "paper" or "model".
        prune_target: How many weights an update should prune: an integer, a number of weights (the paper's N_p: 600
            for MNIST, 20,000 for WRN-28-2, 400,000 for ResNet-50; a tenth of that for whole kernels), or a fraction in
            (0, 1) of all trainable parameters (with a structure: of all groups). (The default 0.01 is the default of
            `DSModel`.)
        initial_threshold: H at the start, > 0.
        redistribution: The quantity in proportion to which growth is shared out (`DSModel`'s heuristic): "survivors"
            (the paper's), "pruned" (no movement between weights), "zeros", "live", "size", or a function of three
            arrays: the numbers of entries, of live entries before pruning, and of live entries after pruning.
            (`DSModel`'s names "paper", "within_param", "anti_paper", "R_p_sphere", ... are understood.)
        power: Exponent of this quantity, > 0.
        frequency: Steps between updates: an integer, or a schedule P of the step, e.g. the paper's
            `schedules.Piecewise((25 * S, 80 * S, 140 * S), (100, 200, 400, 800))` for S steps an epoch.
        distribution, dense: For the initial masks. See `DropAndGrow`. With a structure the weights that `dense` selects
            stay dense; with "filter" the default is the output layers.
        begin_step, end_step, where, seed: See `DropAndGrow`. The default end is after nine tenths of training.
        structure: `None`, the sizes of a block, or "filter" (`sparsity_tf.masks.structures`). Default: the structure of
            the layers. N:M groups and tied channels can't be moved. With `variant="model"` it must be `None`.

    Raises:
        ValueError: For any other argument; before training begins, if the model has nothing to prune, or has too few
            masked weights for the sparsity of the whole model.

    Example:

    ```python
    model = sparsity_tf.sparsify(model, "masked")
    dsr = sparsity_tf.callbacks.DynamicSparseReparameterization(sparsity=0.9, frequency=4)
    model.fit(x, y, epochs=2, callbacks=[dsr])
    ```
    """

    grows = True
    moves_groups = True
    state_name = "dynamic_reparameterization"
    state_fields = ("threshold",)

    def __init__(
        self,
        sparsity: float = 0.9,
        variant: str = "paper",
        prune_target: int | float = 0.01,
        initial_threshold: float = 1e-3,
        redistribution: str | Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray] = "survivors",
        power: float = 1.0,
        frequency: Frequency = 100,
        distribution: DistributionLike = "uniform",
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
            dense,
            frequency,
            begin_step=begin_step,
            end_step=end_step,
            where=where,
            structure=structure,
            seed=seed,
        )
        check_choice("variant", variant, VARIANTS)
        for name, value in (
            ("prune_target", prune_target),
            ("initial_threshold", initial_threshold),
            ("power", power),
        ):
            check_number(name, value, above=0)
        if prune_target >= 1 and prune_target != int(prune_target):
            raise ValueError(
                "`prune_target` must be an integer (a number of weights) or a fraction below 1. Received: "
                f"prune_target={prune_target!r}"
            )
        if callable(redistribution):
            check_callable("redistribution", redistribution, "size", "before", "after")
        else:
            known = sorted([*HEURISTICS, *_ALIASES])
            if not isinstance(redistribution, str) or redistribution not in known:
                raise ValueError(
                    f"`redistribution` must be one of {known}, or a function. "
                    f"Received: redistribution={redistribution!r}"
                )
            redistribution = HEURISTICS[_ALIASES.get(redistribution, redistribution)]
        if variant == "model" and structure is not None:
            raise ValueError(_MODEL_COUNTS_ENTRIES.format(f"structure={structure!r}"))
        self.variant, self.prune_target, self.initial_threshold = variant, prune_target, initial_threshold
        self.redistribution, self.power = redistribution, power

    def default_end_step(self, total_steps: int) -> int:
        return 9 * total_steps // 10

    def _attach(self, model):
        super()._attach(model)
        self.total = sum(math.prod(variable.shape) for variable in model.trainable_variables)

    def start(self) -> None:
        masked = sum(weight.size for weight in self.weights)
        self._kinds = [structures.get(weight.technique.structure) for weight in self.weights]
        self._requested = self.target_sparsity
        if self.variant == "model":
            for kind, weight in zip(self._kinds, self.weights, strict=True):
                if kind.spec is not None:
                    raise ValueError(_MODEL_COUNTS_ENTRIES.format(f"structure={kind.spec!r} of {weight.path!r}"))
            self._requested = self.target_sparsity * self.total / masked
            if self._requested >= 1:
                raise ValueError(
                    f"`sparsity` must be below {masked / self.total:.4f}, because it is a share of all {self.total:,} "
                    f"parameters of the model, and only {masked:,} of them have masks. Received: "
                    f"sparsity={self.target_sparsity}"
                )
        self.target_sparsity, asked = self._requested, self.target_sparsity
        try:
            super().start()
        finally:
            self.target_sparsity = asked
        if not self.has_state():
            self.remember(threshold=self.initial_threshold)
        alive = self._alive(self.views(step=0))
        self._before, self._pruned = _counts(alive), [np.zeros_like(groups) for groups in alive]

    def initial_mask(self, view: WeightView, sparsity: float, structure: structures.Elements) -> np.ndarray:
        if self.variant == "model":
            return super().initial_mask(view, sparsity, structure)
        kind = structures.get(structure)
        groups = kind.alive(np.ones(view.mask.shape, bool), view.filter_axes)
        count = int((1 - sparsity) * groups.size + 0.1)
        chosen = masks.random_mask(groups.shape, max(count, 1), view.rng)
        return kind.expand(chosen, view.mask.shape, view.filter_axes)

    @property
    def threshold(self) -> float:
        """The present pruning threshold H."""
        return self.recall()["threshold"]

    def model_sparsity(self) -> float:
        """The sparsity as `DSModel` counts it: masked entries / all trainable parameters."""
        return (sum(weight.size for weight in self.weights) - sum(self.active_counts())) / self.total

    def change_masks(self, step: int) -> None:
        # The three steps in one, so that all masks and values are written only once.
        views = self.views(step)
        kept = self._kept(views)
        self.adjust_pruning_threshold()
        grown = self._entries(views, self._grown(kept, step))
        # Of a group that was pruned in part before, only the rest lives on.
        kept = [mask & view.mask for mask, view in zip(self._entries(views, kept), views, strict=True)]
        self.assign(views, [mask | new for mask, new in zip(kept, grown, strict=True)], kept=kept)

    def prune_by_threshold(self) -> dict[str, tuple[int, int]]:
        """Drops every live entry with |w| < H; with a structure every live group whose mean |w| is below H.

        Returns:
            Dict from a weight's path to (live entries before, after).
        """
        views = self.views(step=0)
        before = [view.active for view in views]
        kept = [mask & view.mask for mask, view in zip(self._entries(views, self._kept(views)), views, strict=True)]
        self.assign(views, kept)
        counts = zip(before, _counts(kept), strict=True)
        return {view.path: pair for view, pair in zip(views, counts, strict=True)}

    def _kept(self, views):
        """The live groups without those below the threshold. Stores the earlier counts and the pruned groups.

        Without a structure a group is an entry.
        """
        threshold, kept, alive = self.threshold, [], self._alive(views)
        for index, (kind, view, groups) in enumerate(zip(self._kinds, views, alive, strict=True)):
            if kind.spec is not None and index not in self.moving:
                kept.append(groups)  # `dense` selects it: by default an output layer, which needs all its units.
                continue
            remaining = groups & ~(kind.reduce(np.abs(view.value), view.filter_axes) < threshold)
            if self.variant == "paper" and groups.any() and not remaining.any():
                remaining.reshape(-1)[np.flatnonzero(groups)[0]] = True
            kept.append(remaining)
        self._before = _counts(alive)
        self._pruned = [groups & ~remaining for groups, remaining in zip(alive, kept, strict=True)]
        return kept

    def _alive(self, views):
        """The live groups of each weight, a list of bool arrays."""
        return [kind.alive(view.mask, view.filter_axes) for kind, view in zip(self._kinds, views, strict=True)]

    def _entries(self, views, groups):
        """The masks of entries for masks of groups."""
        triples = zip(self._kinds, views, groups, strict=True)
        return [kind.expand(chosen, view.mask.shape, view.filter_axes) for kind, view, chosen in triples]

    def adjust_pruning_threshold(self, tolerance: float = 0.1, gain: float = 2.0) -> float:
        """Doubles or halves H, depending on how many entries the last pruning took. Call it after a pruning.

        Args:
            tolerance: H stays if the number of pruned entries differs from the target by at most this share of it.
            gain: Factor by which H grows or shrinks, > 1.

        Returns:
            The new threshold.
        """
        check_fraction("tolerance", tolerance)
        pruned, target = sum(_counts(self._pruned)), self.prune_target
        if target < 1:
            structured = any(kind.spec is not None for kind in self._kinds)
            target *= sum(groups.size for groups in self._pruned) if structured else self.total
        factor = gain if pruned < (1 - tolerance) * target else 1 / gain if pruned > (1 + tolerance) * target else 1.0
        self.remember(threshold=self.threshold * factor)
        return self.threshold

    def reallocate_free_parameters(self, step: int | None = None) -> dict[str, int]:
        """Grows at random as many entries as the last pruning took (in the variant "model": to the target sparsity).

        Args:
            step: Integer on which the random numbers depend. Default: the optimizer's count.

        Returns:
            Dict from a weight's path to the number of grown entries.
        """
        views = self.views(step=0)
        old = self._alive(views)
        grown = self._entries(views, self._grown(old, self.count() if step is None else step))
        self.assign(views, [view.mask | new for view, new in zip(views, grown, strict=True)])
        return {view.path: count for view, count in zip(views, _counts(grown), strict=True)}

    def _grown(self, old, step):
        """The groups that grow in addition to the live groups `old`, a list of bool arrays."""
        sizes, after = [groups.size for groups in old], _counts(old)
        if self.variant == "model":
            missing = self.total * ((sum(sizes) - sum(after)) / self.total - self.target_sparsity)
            total = max(math.ceil(round(missing, 6)), 0)
            free = [~groups for groups in old]
        else:
            total = sum(self._before) - sum(after)
            free = [~groups & ~pruned for groups, pruned in zip(old, self._pruned, strict=True)]
            if total > sum(_counts(free)):
                free = [~groups for groups in old]
        room = _counts(free)
        shares = np.asarray(self.redistribution(np.array(sizes), np.array(self._before), np.array(after)), np.float64)
        counts = share_out(min(total, sum(room)), np.maximum(shares, 0.0) ** self.power, room)
        pairs = enumerate(zip(free, counts, strict=True))
        return [masks.random_mask(groups.shape, n, self.rng(step, index), groups) for index, (groups, n) in pairs]


def _counts(arrays):
    return [int(np.count_nonzero(array)) for array in arrays]
