"""GraNet: gradual pruning with zero-cost neuroregeneration (Liu et al., NeurIPS 2021, arXiv 2106.10404).

Sparsity rises on the cubic schedule of gradual pruning. Each update also swaps weights in each layer, as RigL does.
"""

from sparsity_tf import masks, schedules
from sparsity_tf.callbacks import criteria
from sparsity_tf.callbacks.dynamic import DropAndGrow
from sparsity_tf.checks import check_fraction, check_integer
from sparsity_tf.type_names import DenseWeights, DistributionLike, Frequency, NumberOrSchedule, Where


class GraNet(DropAndGrow):
    """Prunes gradually over all layers together, and regrows pruned weights by gradient in each layer.

    The update after step t has two parts. With the initial sparsity s_0, the final sparsity s_1, and u, the share of
    the updates between `begin_step` and `pruning_end_step` that has passed:

    1. **Shrink.** s(t) = s_0 + (s_1 - s_0) (1 - (1 - u)^3). Of the n entries of all weights the floor((1 - s(t)) n)
       live entries of the largest magnitude stay.
    2. **Swap.** Each weight with m live entries drops the floor(r m) smallest and grows as many, where |dL/dw| of this
       step is largest. r falls on a cosine from `drop_fraction` to 0.005 at the end of training.

    So the sparsity never falls, and from the end of pruning on the count of each weight is constant. Grown entries
    start at zero, and so do their optimizer slots. (The authors' program keeps one entry less in part 1, rounds up in
    part 2, and draws the initial masks, so that their counts are random. Here all counts are exact.)

    Args:
        sparsity: Fraction of zeros at the end, in [0, 1).
        distribution: How the initial sparsity is distributed over the weights. See `DropAndGrow`.
        initial_sparsity: Fraction of zeros at the start; 0 for a dense start.
        pruning_end_step: Integer > `begin_step`: the final sparsity holds from the last update at or before this step.
            Default: half of training.
        drop_fraction, decay: Share of live weights to swap, and how it falls. See `DropAndGrow`.
        dense: Weights that stay dense. They do not count in n.
        begin_step, end_step, frequency, where, seed: See `MaskAlgorithm`. By default the swaps go on until the end of
            training. The paper's `frequency` is 1000 on CIFAR and 4000 on ImageNet.
        structure: Must be `None`: the algorithm moves single weights.

    Raises:
        ValueError: For any other argument; before training begins, if the model has nothing to prune.

    Example:

    ```python
    model = sparsity_tf.sparsify(model, "masked")
    model.fit(x, y, epochs=2, callbacks=[sparsity_tf.callbacks.GraNet(sparsity=0.9, frequency=2)])
    ```
    """

    floor = 0.005

    def __init__(
        self,
        sparsity: float = 0.9,
        distribution: DistributionLike = "erk",
        initial_sparsity: float = 0.5,
        pruning_end_step: int | None = None,
        drop_fraction: NumberOrSchedule = 0.5,
        decay: str = "cosine",
        dense: DenseWeights = None,
        begin_step: int = 0,
        end_step: int | None = None,
        frequency: Frequency = 1000,
        where: Where = None,
        structure: str | None = None,
        seed: int = 0,
    ) -> None:
        check_fraction("initial_sparsity", initial_sparsity)
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
        if initial_sparsity > sparsity:
            raise ValueError(
                "`initial_sparsity` must not exceed `sparsity`. "
                f"Received: initial_sparsity={initial_sparsity}, sparsity={sparsity}"
            )
        if pruning_end_step is not None:
            check_integer("pruning_end_step", pruning_end_step)
        # The base class makes initial masks of this sparsity.
        self.target_sparsity, self.final_sparsity = initial_sparsity, sparsity
        self.pruning_end_step = pruning_end_step
        self._check_pruning_end(pruning_end_step, end_step)

    def _check_pruning_end(self, step, end_step):
        if step is not None and step <= self.begin_step:
            raise ValueError(
                "`pruning_end_step` must be larger than `begin_step`. "
                f"Received: pruning_end_step={step}, begin_step={self.begin_step}"
            )
        if step is not None and end_step is not None and step > end_step:
            raise ValueError(
                "`pruning_end_step` must not exceed `end_step`, the last step after which masks change. "
                f"Received: pruning_end_step={step}, end_step={end_step}"
            )

    def default_end_step(self, total_steps: int) -> int:
        return total_steps - 1

    def default_pruning_end_step(self, total_steps: int) -> int:
        """The last step of pruning if `pruning_end_step` was not given."""
        return total_steps // 2

    def settled_step(self, total_steps: int) -> int:
        """A step from which the sparsity is final in a training of `total_steps` steps."""
        return self.default_pruning_end_step(total_steps) if self.pruning_end_step is None else self.pruning_end_step

    @property
    def decay_end(self) -> int:
        return self._total_steps or self.last_step

    @property
    def last_pruning_step(self) -> int:
        """The step of the update after which the final sparsity holds, once it is known.

        Raises:
            ValueError: `pruning_end_step` was not given, and the length of training is not known.
        """
        end = self.pruning_end_step
        if end is None:
            if self._total_steps is None:
                raise ValueError(
                    "`pruning_end_step` must be given if the length of training is not known. "
                    "Received: pruning_end_step=None"
                )
            end = self.default_pruning_end_step(self._total_steps)
        return end - (end - self._first) % self._interval

    def start(self) -> None:
        end = self.last_pruning_step
        self._check_pruning_end(self.pruning_end_step, self.last_step)
        if end <= self._first:
            most = (self.pruning_end_step or self.default_pruning_end_step(self._total_steps)) - self._first
            raise ValueError(
                f"`frequency` must be at most {most}, the steps from `begin_step` to the end of pruning. "
                f"Received: frequency={self.frequency!r}"
            )
        super().start()

    def sparsity_at(self, step: int) -> float:
        """The sparsity of the weights that are pruned that the schedule asks for after a step: a float in [0, 1)."""
        cubic = schedules.Cubic(self.target_sparsity, self.final_sparsity, self._first, self.last_pruning_step)
        return cubic(step - self._delay)

    def goal(self) -> float:
        size = sum(self.weights[index].size for index in self.moving)
        return (size - masks.number_to_keep(self.final_sparsity, size)) / sum(weight.size for weight in self.weights)

    def left_undone(self, end: int) -> str | None:
        last = self.last_pruning_step + self._delay
        if end < last:
            return (
                f"will not reach its target sparsity of {self.final_sparsity}: pruning ends at step {last}, and "
                f"training ends at step {end}. Give an earlier `pruning_end_step`, or train for longer."
            )
        return super().left_undone(end)

    def change_masks(self, step: int) -> None:
        views = [self.view(index, step) for index in self.moving]
        live = sum(view.active for view in views)
        count = masks.number_to_keep(self.sparsity_at(step), sum(view.mask.size for view in views))
        if count < live:
            self.assign(views, criteria.highest(criteria.magnitude, views, count))
        super().change_masks(step)
