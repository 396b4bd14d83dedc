"""Decides when masks change: the steps of an algorithm's schedule."""

from keras import ops

from sparsity_tf.backend import inner_optimizer
from sparsity_tf.checks import check_callable, check_integer


class UpdateSchedule:
    """The part of `MaskAlgorithm` that decides when masks change.

    A subclass has `uses()` and `count()`, and may set the attributes that follow.
    """

    # True: masks change on a schedule. False: masks change in `start` only.
    scheduled = True
    # Whether there is an update at `end_step` even if the frequency does not lead there.
    always_at_end = False
    # Steps between the end of an epoch and the update that `frequency="epoch"` puts there.
    steps_after_epoch = 0

    def _set_schedule(self, begin_step, end_step, frequency):
        """Checks and stores the arguments of the constructor."""
        check_integer("begin_step", begin_step, 0)
        if end_step is not None:
            check_integer("end_step", end_step, 0)
            if end_step <= begin_step:
                raise ValueError(
                    "`begin_step` must be smaller than `end_step`. "
                    f"Received: begin_step={begin_step}, end_step={end_step}"
                )
        if callable(frequency):
            check_callable("frequency", frequency, "step")
        elif not (isinstance(frequency, str) and frequency == "epoch"):
            check_integer("frequency", frequency, 1)
        self.begin_step, self.end_step, self.frequency = begin_step, end_step, frequency
        self._first, self._last, self._interval, self._total_steps = begin_step, end_step, frequency, None
        self._seen = self._upper_bound = 0
        # Whether the update after an epoch comes before the next epoch's first step, not `steps_after_epoch` later.
        self._at_epoch_begin = False

    def default_end_step(self, total_steps: int) -> int:
        """The last step of the schedule if `end_step` was not given."""
        return total_steps

    def due(self, after: int, step: int) -> int | None:
        """The last step of the schedule in the interval (after, step], or `None`."""
        delay = self._delay
        found = self._on_schedule(after - delay, step - delay)
        return None if found is None else found + delay

    def _on_schedule(self, after, step):
        if self._last is not None:
            step = min(step, self._last)
        if not self.scheduled or step < max(self._first, 1):
            return None
        if self.always_at_end and after < step == self._last:
            return step
        if callable(self._interval):
            steps = range(step, max(after, self._first - 1, 0), -1)
            return next((t for t in steps if t % max(int(self._interval(t)), 1) == 0), None)
        on_schedule = self._first + (step - self._first) // self._interval * self._interval
        return on_schedule if on_schedule > max(after, 0) else None

    @property
    def _delay(self):
        return self.steps_after_epoch if self.frequency == "epoch" and not self._at_epoch_begin else 0

    def may_keep_gradient(self, steps: int) -> bool:
        """Whether the gradient of one of the next `steps` steps may be wanted; called before them."""
        return self._at_epoch_begin or self.due(self._seen, self._upper_bound + steps) is not None

    def may_be_due(self, steps: int) -> bool:
        """Whether an update may be due after `steps` more steps. Called after each call of the train function.

        The algorithm reads the optimizer's own count only if the answer is yes, because reading waits for the device.
        """
        self._upper_bound += steps
        return not self._at_epoch_begin and self.due(self._seen, self._upper_bound) is not None

    def _too_late(self, due, step):
        """Whether an update of the default schedule has moved to the end of training.

        `steps_per_execution` moves updates, and `steps_after_epoch` does.
        """
        by_default = self.end_step is None and not self.always_at_end
        return by_default and self._total_steps is not None and due - self._delay < self._total_steps <= step

    def _resolve_schedule(self, epochs, steps_per_epoch, steps_per_call=None):
        """Fixes the schedule, given the length of training.

        Args:
            epochs, steps_per_epoch: Integers, or `None` if they are not known. Here steps are batches.
            steps_per_call: Number of batches between two moments at which `fit` lets masks change. `None` in other
                loops, where the update after an epoch never comes before the first step of the next epoch.
        """
        self._first, self._last, self._interval = self.begin_step, self.end_step, self.frequency
        if "gradient" in self.uses() and callable(self.frequency):
            raise ValueError(
                f"`frequency` must be an integer or 'epoch' for {type(self).__name__}, which reads gradients: it "
                f"can't be a function of the step. Received: frequency={self.frequency!r}"
            )
        if self.frequency == "epoch" and not steps_per_epoch:
            raise ValueError(
                "`frequency` must be a number of steps if the length of an epoch is not known, as with this data. Or "
                "give `steps_per_epoch` to `fit`. Received: frequency='epoch'"
            )
        batches = inner_optimizer(self._optimizer).gradient_accumulation_steps or 1
        self.steps_per_epoch = max(steps_per_epoch // batches, 1) if steps_per_epoch else None
        if self.frequency == "epoch":
            self._interval = self.steps_per_epoch
            # An update inside the epoch would leave less than half of the epoch to train the new weights.
            late = steps_per_call and (2 * steps_per_call > steps_per_epoch or batches >= steps_per_epoch)
            self._at_epoch_begin = bool(self.steps_after_epoch and late)
        self._total_steps = epochs * steps_per_epoch // batches if epochs and steps_per_epoch else None
        if self._last is None and self._total_steps:
            self._last = max(self.default_end_step(self._total_steps), 1)
            if self._last <= self._first:
                raise ValueError(
                    f"`begin_step` must be smaller than the step of the last update, by default {self._last} for this "
                    "length of training. Give a smaller `begin_step`, or an `end_step`. Received: "
                    f"begin_step={self.begin_step}"
                )

    @property
    def last_step(self) -> int:
        """The last step of the schedule, once it is known.

        Raises:
            ValueError: The last step is not known: `end_step` was not given, and the data does not tell the steps of an
                epoch.
        """
        if self._last is None:
            raise ValueError(
                "`end_step` must be given if the length of training is not known: in `fit` without "
                f"`steps_per_epoch`, or in your own loop. Received: end_step={self.end_step}"
            )
        return self._last

    def check_not_over(self) -> None:
        """Raises a ValueError if the optimizer's count is past the schedule, so that masks would never change."""
        count = self.count()
        if self.scheduled and self._last is not None and count >= self._last:
            if self.end_step is None:
                raise ValueError(
                    f"`begin_step` and `end_step` must be given, because the optimizer has already taken {count} "
                    "steps. Both count from the optimizer's first step, and by default the updates end at step "
                    f"{self._last}. Give begin_step={count} and the `end_step` that you want, or compile the model "
                    f"anew, so that the count begins at 0. Received: begin_step={self.begin_step}, end_step=None"
                )
            raise ValueError(
                f"`end_step` must be larger than {count}, the number of steps that the optimizer has already taken: "
                "`end_step` counts from the optimizer's first step. Give a later `begin_step` and `end_step`, or "
                f"compile the model anew, so that the count begins at 0. Received: end_step={self._last}"
            )

    def _is_due(self, step):
        """Whether one step is on the schedule, as a tensor inside a compiled step."""
        first, interval = max(self._first, 1), self._interval
        step = step - self._delay
        wanted = ops.logical_and(step >= first, ops.equal((step - self._first) % interval, 0))
        if self._last is None:
            return wanted
        wanted = ops.logical_and(wanted, step <= self._last)
        return ops.logical_or(wanted, ops.equal(step, self._last)) if self.always_at_end else wanted
