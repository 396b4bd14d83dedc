"""Raises the sparsity of layers that rank scores of their own: movement pruning.

The algorithms of this package that change masks (`mask_algorithm.py`) decide between steps. A layer of movement pruning
ranks its scores in every forward pass, so only the number of live weights has to be set.
"""

import keras

from sparsity_tf import schedules
from sparsity_tf.backend import inner_optimizer
from sparsity_tf.call_repr import CallRepr
from sparsity_tf.callbacks.base.configured import Configured
from sparsity_tf.callbacks.base.copying import Copyable
from sparsity_tf.callbacks.base.optimizer_slots import count_steps
from sparsity_tf.checks import check_fraction, check_integer
from sparsity_tf.layers import get_sparse_weights
from sparsity_tf.user_warning import warn_user


class SparsityRamp(CallRepr, Configured, Copyable, keras.callbacks.Callback):
    """Changes the sparsity of the layers of technique "movement" during training.

    With the initial sparsity s_i, the final sparsity s_f, begin b and end e, step number t (t steps have been taken
    before it) has the sparsity

        s(t) = s_f + (s_i - s_f) (1 - (t - b) / (e - b))^3    for b <= t <= e,

    s_i before and s_f after. (Sanh et al. 2020, arXiv 2005.07683, write it with densities. Their initial and final
    warm-up are the steps before b and after e.) In each weight of n entries floor((1 - s) n) live. The sparsity depends
    on `model.optimizer.iterations` alone, so a resumed run continues exactly. It appears as `scheduled_sparsity` in the
    logs of each epoch. With `steps_per_execution=k` it is set every k steps.

    With `train_on_batch` or a loop of your own, call `update(model)` before each step.

    Args:
        final_sparsity: Fraction of zeros at the end, in [0, 1).
        initial_sparsity: Fraction of zeros up to `begin_step`, in [0, `final_sparsity`].
        begin_step: Integer >= 0: the last step at the initial sparsity.
        end_step: Integer > `begin_step`: the first step at the final sparsity. Default: half of training.
        frequency: Integer >= 1: the sparsity changes at multiples of this number of steps, and at `end_step`.

    Raises:
        ValueError: For any other argument; at the start of training, if the model has no such layer, or if `end_step`
            was not given and the length of training is not known.

    Example:

    ```python
    model = sparsity_tf.sparsify(model, "movement")
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, y, epochs=2, callbacks=[sparsity_tf.callbacks.SparsityRamp(0.9, begin_step=2, end_step=10)])
    ```
    """

    def __init__(
        self,
        final_sparsity: float,
        initial_sparsity: float = 0.0,
        begin_step: int = 0,
        end_step: int | None = None,
        frequency: int = 1,
    ) -> None:
        super().__init__()
        check_fraction("final_sparsity", final_sparsity)
        check_fraction("initial_sparsity", initial_sparsity)
        if initial_sparsity > final_sparsity:
            raise ValueError(
                "`initial_sparsity` must not exceed `final_sparsity`. "
                f"Received: initial_sparsity={initial_sparsity}, final_sparsity={final_sparsity}"
            )
        check_integer("begin_step", begin_step, 0)
        if end_step is not None:
            check_integer("end_step", end_step, 0)
            if end_step <= begin_step:
                raise ValueError(
                    "`begin_step` must be smaller than `end_step`. "
                    f"Received: begin_step={begin_step}, end_step={end_step}"
                )
        check_integer("frequency", frequency, 1)
        self.final_sparsity, self.initial_sparsity = final_sparsity, initial_sparsity
        self.begin_step, self.end_step, self.frequency = begin_step, end_step, frequency
        vars(self).update(self._forget_model())

    def _forget_model(self):
        # `_value` is the present sparsity of the layers, `None` while it is not known.
        return {**super()._forget_model(), "_value": None, "_total_steps": None}

    def default_end_step(self, total_steps: int) -> int:
        """The end of the ramp if `end_step` was not given: half of training, and at least one step after the begin."""
        return max(total_steps // 2, self.begin_step + 1)

    @property
    def last_step(self) -> int:
        """The first step at the final sparsity, once it is known.

        Raises:
            ValueError: `end_step` was not given, and the length of training is not known.
        """
        if self.end_step is None and self._total_steps is None:
            raise ValueError(
                "`end_step` must be given if the length of training is not known: in `fit` without `steps_per_epoch`, "
                "or in your own loop. Received: end_step=None"
            )
        return self.default_end_step(self._total_steps) if self.end_step is None else self.end_step

    def sparsity_at(self, step: int) -> float:
        """The sparsity of a step.

        Args:
            step: Integer >= 0, the number of optimizer steps before this one.

        Returns:
            float in [0, 1).
        """
        if step < self.last_step:
            step -= step % self.frequency
        return schedules.Cubic(self.initial_sparsity, self.final_sparsity, self.begin_step, self.last_step)(step)

    def update(self, model: keras.Model) -> float:
        """Sets the sparsity for the step that `model` takes next.

        Args:
            model: Compiled Keras model.

        Returns:
            float, the sparsity.

        Raises:
            ValueError: No layer of the model has a sparsity that follows a schedule.
        """
        value = self.sparsity_at(count_steps(model))
        weights = [weight for weight in get_sparse_weights(model) if hasattr(weight.technique, "assign_sparsity")]
        if not weights:
            raise ValueError(
                "SparsityRamp needs a built model with layers whose sparsity follows a schedule: "
                f'sparsity_tf.sparsify(model, "movement") makes them. Received: model={model.name!r} with no such layer'
            )
        for weight in weights if value != self._value else ():
            weight.technique.assign_sparsity(weight, value)
        self._value = value
        return value

    def _start(self):
        # Another callback may have restored the weights and the step in the meantime.
        self._value = None
        self.update(self.model)

    def on_train_begin(self, logs: dict | None = None) -> None:
        epochs, steps = self.params.get("epochs"), self.params.get("steps")
        batches = inner_optimizer(self.model.optimizer).gradient_accumulation_steps or 1
        self._total_steps = epochs * steps // batches if epochs and steps else None
        self._start()

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._start()

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        # Read `self.model` only when it is needed: on JAX reading it synchronises the state.
        if self._value != self.final_sparsity:
            self.update(self.model)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        # A ramp that ends with training has its last change here.
        self.on_train_batch_begin(epoch)
        if logs is not None:
            logs["scheduled_sparsity"] = self._value

    def on_train_end(self, logs: dict | None = None) -> None:
        if self._value is not None and self._value < self.final_sparsity:
            warn_user(
                f"SparsityRamp ended at a sparsity of {self._value:.4f}, below {self.final_sparsity}: the optimizer "
                f"has taken {count_steps(self.model)} steps, and the schedule ends at `end_step` {self.last_step}."
            )
