"""Gradual pruning by a rising threshold, for recurrent nets (Narang et al., ICLR 2017, arXiv 1704.05119).

The `dst` package calls this method "compressed". A threshold on magnitudes rises linearly, later half as fast again,
until it reaches q. The user chooses q by a trained dense network: the share of its weights with magnitudes below q is
the share to prune. The method does not set the sparsity, which depends on how many weights stay above the threshold.
"""

import numpy as np

from sparsity_tf.callbacks.base.mask_algorithm import MaskAlgorithm
from sparsity_tf.checks import check_integer, check_number
from sparsity_tf.type_names import Where


class NarangPruning(MaskAlgorithm):
    """Prunes weights under a threshold that rises while training runs.

    After the steps `begin_step`, `begin_step + frequency`, ..., every live weight with |w| < eps(t) is pruned for good.
    With s = `begin_step`, r = `ramp_step`, e = `end_step`, f = `frequency` the threshold is

        a = 2 q f / (2 (r - s) + 3 (e - r)),   eps(t) = a (t - s) / f                            for s < t <= r
                                               eps(t) = (a (r - s + 1) + 1.5 a (t - r)) / f      for r < t <= e

    (Algorithm 1 of the paper, with the same threshold for every layer. eps(e) = q + a / f.) After `end_step` masks
    stay.

    Args:
        target_magnitude: q > 0. For a sparsity of about p, use the p-quantile of the magnitudes of a trained dense
            network (the paper's 90th percentile).
        begin_step: Integer >= 0, s. Default: the steps of one epoch, but not more than `ramp_step`.
        ramp_step: Integer, r, between `begin_step` and `end_step`. Default: a quarter of training.
        end_step: Integer, e. Default: half of training.
        frequency: Integer >= 1, steps between updates.
        where, seed: See `MaskAlgorithm`.

    Raises:
        ValueError: For any other argument; before training begins, if the model has nothing to prune, or if a default
            needs the length of training and the length is not known.

    Example:

    ```python
    model = sparsity_tf.sparsify(model, "masked")
    pruning = sparsity_tf.callbacks.NarangPruning(target_magnitude=0.1, begin_step=0, frequency=2)
    model.fit(x, y, epochs=2, callbacks=[pruning])
    ```
    """

    takes_reparametrized = True

    def __init__(
        self,
        target_magnitude: float = 0.1,
        begin_step: int | None = None,
        ramp_step: int | None = None,
        end_step: int | None = None,
        frequency: int = 100,
        where: Where = None,
        seed: int = 0,
    ) -> None:
        super().__init__(0 if begin_step is None else begin_step, end_step, frequency, where=where, seed=seed)
        check_number("target_magnitude", target_magnitude, above=0)
        check_integer("frequency", frequency, 1)
        if ramp_step is not None:
            check_integer("ramp_step", ramp_step, 0)
        self.target_magnitude, self.ramp_step = target_magnitude, ramp_step
        self._begins_after_an_epoch = begin_step is None

    def aim(self) -> str | None:
        return f"target magnitude of {self.target_magnitude}"

    def default_end_step(self, total_steps: int) -> int:
        return total_steps // 2

    def _resolve_schedule(self, epochs, steps_per_epoch, steps_per_call=None):
        super()._resolve_schedule(epochs, steps_per_epoch, steps_per_call)
        if self._begins_after_an_epoch and not steps_per_epoch:
            raise ValueError(
                "`begin_step` must be given where the steps of an epoch are not known. Received: begin_step=None"
            )
        self._ramp = self.ramp_step
        if self._ramp is None:
            if not self._total_steps:
                raise ValueError(
                    "`ramp_step` must be given where the length of training is not known. Received: ramp_step=None"
                )
            self._ramp = self._total_steps // 4
        if self._begins_after_an_epoch:
            self._first = min(self.steps_per_epoch, self._ramp)
        if not self._first <= self._ramp <= self.last_step or self._first == self.last_step:
            raise ValueError(
                "`begin_step`, `ramp_step` and `end_step` must be in rising order. Received, or set by default: "
                f"begin_step={self._first}, ramp_step={self._ramp}, end_step={self.last_step}"
            )

    def left_undone(self, end: int) -> str | None:
        message = super().left_undone(end)
        last = min(end, self.last_step)
        # An update at `begin_step` prunes nothing.
        if message is None and self.count() <= self._first < last and self.due(self._first, last) is None:
            return (
                f"will not change the masks: after `begin_step` {self._first}, where the threshold is 0, its schedule "
                f"(frequency={self.frequency!r}) has no step up to step {last}. Give a smaller `frequency`, or train "
                "for longer."
            )
        return message

    def threshold_at(self, step: int) -> float:
        """The threshold eps(t) of the update after a step. It is 0.0 up to `begin_step`."""
        start, ramp, end = self._first, self._ramp, self.last_step
        slope = 2 * self.target_magnitude / (2 * (ramp - start) + 3 * (end - ramp))
        if step <= start:
            return 0.0
        if step <= ramp:
            return slope * (step - start)
        return slope * (ramp - start + 1) + 1.5 * slope * (min(step, end) - ramp)

    def change_masks(self, step: int) -> None:
        threshold = self.threshold_at(step)
        views = self.views(step)
        self.assign(views, [view.mask & ~(np.abs(view.value) < threshold) for view in views])
