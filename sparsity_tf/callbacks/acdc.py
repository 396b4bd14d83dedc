"""AC/DC: alternating compressed and decompressed training (Peste et al., NeurIPS 2021, arXiv 2106.12379).

Training alternates between sparse and dense phases. Algorithm 1 of the paper is iterative hard thresholding: a sparse
phase begins with a magnitude mask at the full target sparsity, a dense phase opens all masks again.
"""

import numpy as np

from sparsity_tf.callbacks.base import optimizer_slots
from sparsity_tf.callbacks.pruning import MagnitudePruning
from sparsity_tf.checks import check_bool, check_integer
from sparsity_tf.type_names import DenseWeights, DistributionLike, Frequency, Where
from sparsity_tf.user_warning import warn_user


class ACDC(MagnitudePruning):
    """Alternates between sparse phases, whose mask is fixed, and dense phases, in which all weights are trained.

    With F steps in the unit `frequency`, p = `sparse_period` F, q = `dense_period` F and the begin b:

    * the first b steps are dense;
    * sparse phase number k begins after step b + k (p + q) and ends after p steps, for every k with
      b + (k + 1) (p + q) <= `end_step`. Between these phases training is dense;
    * the last sparse phase begins after `end_step` and does not end.

    When a sparse phase begins, the largest magnitudes live, at the full sparsity: floor((1 - s) n) of n weights. When a
    dense phase begins, all masks open. The weights that come back start at zero, and so do their optimizer slots. The
    momentum of all variables of the model becomes zero, as in the authors' scripts. (Second moments, as Adam has them,
    stay: without them Adam's next step would be too large.)

    Published settings, in epochs: ImageNet begins at 10 and ends at 85 of 100, with periods of 5 and 5. CIFAR-100
    begins at 10 and ends at 170 of 200, with periods of 20 and 20.

    The authors' program keeps one weight too few, and fewer with ties. This class keeps the exact number. In a dense
    phase the model and its checkpoints are dense: only `end_step` makes the result sparse.

    Args:
        final_sparsity: Fraction of zeros in a sparse phase, in [0, 1). With an N:M structure it may be left out.
        begin_step: Integer >= 1: the steps of dense training before the first sparse phase. In the paper: a tenth of
            training.
        end_step: Integer > `begin_step`: the step after which the last sparse phase begins. Default: after 85 % of
            training, rounded down to a multiple of `frequency`.
        frequency: The unit of the two periods: "epoch", or a number of steps. With "epoch" masks change one step into
            an epoch, so that callbacks at the end of an epoch measure a network that has trained with its weights.
        sparse_period: Integer >= 1: length of a sparse phase, in the unit.
        dense_period: Integer >= 1: length of a dense phase, in the unit.
        scope: "global" (the paper's): the magnitudes of all weights are compared with each other; or "layer".
        reset_momentum: Bool; whether a dense phase begins without momentum.
        distribution: With scope "layer": how the sparsity is distributed over the weights. See `MagnitudePruning`.
        dense: Weights that stay dense. The paper's "uniform" runs keep the first and the last: "first_and_last" with
            scope "layer".
        where, structure, seed: See `MaskAlgorithm`. An N:M structure needs scope "layer".
        sparsity: Another name of `final_sparsity`.

    Raises:
        ValueError: For any other argument; before training begins, if the model has nothing to prune.

    Example:

    ```python
    model = sparsity_tf.sparsify(model, "masked")
    acdc = sparsity_tf.callbacks.ACDC(0.9, begin_step=4, frequency=2, sparse_period=1, dense_period=1)
    model.fit(x, y, epochs=2, callbacks=[acdc])
    ```
    """

    grows = True
    prunes_tied = False
    takes_reparametrized = False
    steps_after_epoch = 1

    def __init__(
        self,
        final_sparsity: float | None = None,
        begin_step: int = 1,
        end_step: int | None = None,
        frequency: Frequency = "epoch",
        sparse_period: int = 5,
        dense_period: int = 5,
        scope: str = "global",
        reset_momentum: bool = True,
        distribution: DistributionLike = "uniform",
        dense: DenseWeights = None,
        where: Where = None,
        structure: str | None = None,
        seed: int = 0,
        sparsity: float | None = None,
    ) -> None:
        super().__init__(
            final_sparsity,
            begin_step,
            end_step,
            frequency,
            scope,
            schedule="constant",
            distribution=distribution,
            dense=dense,
            where=where,
            structure=structure,
            seed=seed,
            sparsity=sparsity,
        )
        check_integer("begin_step", begin_step, 1)
        if callable(frequency):
            raise ValueError(
                f"`frequency` must be an integer or 'epoch', the unit of both periods. Received: frequency={frequency}"
            )
        check_integer("sparse_period", sparse_period, 1)
        check_integer("dense_period", dense_period, 1)
        check_bool("reset_momentum", reset_momentum)
        self.sparse_period, self.dense_period, self.reset_momentum = sparse_period, dense_period, reset_momentum

    def default_end_step(self, total_steps: int) -> int:
        last = 17 * total_steps // 20
        return last - last % self._interval or last

    def start(self) -> None:
        super().start()
        if self._cycles == 0:
            warn_user(
                f"ACDC will not alternate: a sparse and a dense phase take {sum(self._lengths)} steps, and there are "
                f"fewer between the first and the last sparse phase. Received: begin_step={self._first}, "
                f"end_step={self._last}"
            )

    @property
    def _lengths(self):
        """The numbers of steps of a sparse and of a dense phase."""
        return self.sparse_period * self._interval, self.dense_period * self._interval

    @property
    def _cycles(self):
        """How many sparse phases are followed by a dense phase."""
        return (self.last_step - self._first) // sum(self._lengths)

    def _switch(self, step):
        """The last switch at or before a step: its step, or `None`, and whether a sparse phase begins there."""
        sparse, dense = self._lengths
        if step >= self.last_step:
            return self.last_step, True
        if step < self._first or not self._cycles:
            return None, False
        cycle = min((step - self._first) // (sparse + dense), self._cycles - 1)
        begin = self._first + cycle * (sparse + dense)
        return (begin, True) if step < begin + sparse else (begin + sparse, False)

    def _on_schedule(self, after, step):
        found, _ = self._switch(step)
        return found if found is not None and found > after else None

    def sparsity_at(self, step: int) -> float:
        """The sparsity of the phase that a step belongs to: the final sparsity or 0."""
        return self.final_sparsity if self._switch(step - self._delay)[1] else 0.0

    def change_masks(self, step: int) -> None:
        if self.sparsity_at(step):
            super().change_masks(step)
            return
        for portion in self.portions(range(len(self.weights))):
            views = [self.view(index, step) for index in portion]
            opened = [~view.mask for view in views]
            self.assign(views, [np.ones_like(mask) for mask in opened], cleared=opened)
        if self.reset_momentum:
            optimizer_slots.reset_momentum(self._optimizer)
