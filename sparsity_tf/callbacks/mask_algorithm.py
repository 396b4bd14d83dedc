"""What all algorithms that change masks while training runs have in common: which weights, when, what they remember.

An algorithm is a callback for `fit`. Its masks change right after the optimizer's step whose count is on the schedule
(`after_step.py`), so that no other callback, whatever its place, sees or saves weights of before the change. With
`steps_per_execution=k` they change at the first boundary at or after that step.

What decides is a function of the step's count, the weights, the optimizer's slots and a seed, and runs in numpy: it is
the same on every backend and replica, it never retraces, and a run that was stopped continues exactly. The little that
an algorithm has to remember beside the masks is saved with the model (`Masked.states`).
"""

import keras
import numpy as np
from keras import ops

from sparsity_tf import structures
from sparsity_tf.callbacks import after_step, optimizer_slots
from sparsity_tf.callbacks.arguments import check_integer
from sparsity_tf.callbacks.gradient_tap import GradientTap
from sparsity_tf.callbacks.optimizer_slots import count_steps
from sparsity_tf.callbacks.weight_view import WeightView, is_on_accelerator, read_mask, value_tensor
from sparsity_tf.layers import get_sparse_weights
from sparsity_tf.sparsify import match_layers, sparsify


class MaskAlgorithm(keras.callbacks.Callback):
    """Base class of the algorithms that change masks. A subclass defines `change_masks`, and often `start`.

    Steps count optimizer updates since the optimizer was made (with gradient accumulation, not batches). The schedule
    is `begin_step`, `begin_step + frequency`, ... up to and including `end_step`; there is no update at step 0, before
    the first step. Frozen layers are left alone.

    In a loop of your own, call `prepare(model)` before the first step, `update(model)` after each, and `finish()`.

    Args:
        begin_step: Integer >= 0, first step after which masks may change.
        end_step: Integer > `begin_step`, the last one; `None` for the end of training.
        frequency: Integer >= 1, steps between updates; "epoch" for the steps of an epoch of `fit` (rounded down with
            gradient accumulation); or a schedule or other function P of the step, for updates at the steps t that are
            multiples of P(t).
        where: Which masked weights: as `where` of `sparsity_tf.sparsify`. Default: all. A model without masked layers
            is made masked first (where `where` says).
        structure: Which entries live and die together (`sparsity_tf.structures`); set on the layers, in whose config it
            is saved. Default: what the layers say.
        seed: Integer seed of everything that is drawn.
    """

    # Name under which files hold what the algorithm remembers, and the names of these numbers.
    state_name = None
    state_fields = ()
    # Whether masks of whole blocks, filters or N:M groups are something the algorithm can make.
    structured = False
    # Whether masks change on a schedule, or in `start` only.
    scheduled = True
    # Whether there is an update at `end_step` although the frequency does not lead there.
    always_at_end = False
    # Steps between the end of an epoch and the update that `frequency="epoch"` puts there.
    steps_after_epoch = 0

    def __init__(self, begin_step=0, end_step=None, frequency=1, where=None, structure=None, seed=0):
        super().__init__()
        check_integer("begin_step", begin_step, 0)
        if end_step is not None:
            check_integer("end_step", end_step, 0)
            if end_step <= begin_step:
                raise ValueError(
                    "`begin_step` must be smaller than `end_step`. "
                    f"Received: begin_step={begin_step}, end_step={end_step}"
                )
        if frequency != "epoch" and not callable(frequency):
            check_integer("frequency", frequency, 1)
        check_integer("seed", seed, 0)
        if structure is not None:
            structure = structures.get(structure).spec
            if not self.structured:
                raise ValueError(
                    f"`structure` must be None: {type(self).__name__} moves single weights. "
                    f"Received: structure={structure!r}"
                )
        self.begin_step, self.end_step, self.frequency = begin_step, end_step, frequency
        self.where, self.structure, self.seed = where, structure, seed
        self.weights = []
        self.sparsity = 0.0
        # Path -> entries dropped and grown since training began.
        self.dropped, self.grown = {}, {}
        self._tap, self._started = None, False
        self._first, self._last, self._interval, self._total_steps = begin_step, end_step, frequency, None
        self._seen = self._upper_bound = 0

    # What subclasses define.

    def start(self):
        """Called once before the first step, with `self.weights` set: initial masks, further checks.

        In `fit` that is when the first epoch begins, so that a model which another callback restores is seen restored.
        """

    def change_masks(self, step):
        """Changes the masks: called after the step whose count is on the schedule."""
        raise TypeError(f"{type(self).__name__} must define `change_masks(step)`.")

    def uses(self):
        """Set of what the algorithm reads beside weights and masks: "gradient", "momentum", "variance"."""
        return set()

    def default_end_step(self, total_steps):
        """The last step if `end_step` was not given."""
        return total_steps

    # When.

    def due(self, after, step):
        """The last step on the schedule in (after, step], or `None`."""
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
        return self.steps_after_epoch if self.frequency == "epoch" else 0

    def may_be_due(self, steps):
        """Whether an update may be due after `steps` more steps; called after each call of the train function.

        The optimizer's own count is asked for only then: reading it waits for the device.
        """
        self._upper_bound += steps
        return self.due(self._seen, self._upper_bound) is not None

    def update(self, model):
        """Changes the masks if an update is due. For loops of your own; call it after each optimizer step.

        Args:
            model: The model given to `prepare`.
        """
        step = count_steps(model)
        due = self.due(self._seen, step)
        self._seen = self._upper_bound = step
        if due is not None:
            self.change_masks(due)
            self._measure()

    # Keras's events.

    def on_train_begin(self, logs=None):
        self._bind(self.model, self.params.get("epochs"), self.params.get("steps"))
        after_step.install(self.model, self)

    def on_epoch_begin(self, epoch, logs=None):
        model = self.model
        if not self._started:
            self._start(model)
        # Another callback may have restored the model since then.
        self._seen = self._upper_bound = count_steps(model)
        self._measure()

    def on_train_batch_end(self, batch, logs=None):
        if logs is not None:
            logs["sparsity"] = self.sparsity

    on_epoch_end = on_train_batch_end

    def on_train_end(self, logs=None):
        after_step.remove(self.model, self)
        self.finish()

    # Preparation.

    def prepare(self, model, epochs=None, steps_per_epoch=None):
        """Makes a model ready: finds its masked weights and calls `start`. For loops of your own.

        Args:
            model: Compiled, built Keras model.
            epochs: Number of epochs, where the algorithm needs to know the length of training.
            steps_per_epoch: Steps in one, in the same case and for `frequency="epoch"`.

        Raises:
            ValueError: The model has nothing to prune, or does not fit the algorithm.
        """
        self._bind(model, epochs, steps_per_epoch)
        self._start(model)

    def _bind(self, model, epochs, steps_per_epoch):
        self.finish()
        if getattr(model, "optimizer", None) is None:
            raise ValueError(f"The model must be compiled before {type(self).__name__} is used. Received: {model!r}")
        if not model.built:
            raise ValueError(
                f"The model must be built before {type(self).__name__} is used: call it on a batch, or `model.build`. "
                f"Received: model={model.name!r}"
            )
        self._model, self._optimizer, self._started = model, model.optimizer, False
        with after_step.scope(model):
            if not model.optimizer.built:
                model.optimizer.build(model.trainable_variables)
            optimizer_slots.check(model.optimizer, self.uses(), type(self).__name__)
            self._resolve_schedule(epochs, steps_per_epoch)
            self.weights = self._find_weights(model)
            self._structures = [weight.technique.structure for weight in self.weights]
            for weight in self.weights:
                weight.technique.structure = self.structure or weight.technique.structure
            self.dropped = {weight.path: 0 for weight in self.weights}
            self.grown = dict(self.dropped)
            self._attach(model)
        self._seen = self._upper_bound = count_steps(model)

    def _start(self, model):
        try:
            with after_step.scope(model):
                self.start()
        except BaseException:
            self.finish()
            for weight, structure in zip(self.weights, self._structures, strict=True):
                weight.technique.structure = structure
            raise
        self._started = True
        self._seen = self._upper_bound = count_steps(model)
        self._measure()

    def finish(self):
        """Takes away what `prepare` attached to the model and its optimizer; masks stay."""
        if self._tap is not None:
            self._tap.detach()
            self._tap = None
            after_step.retrace(self._model)
        self._want_dense_gradient(False)

    def _want_dense_gradient(self, wanted):
        if any(weight.technique.dense_gradient_wanted != wanted for weight in self.weights):
            for weight in self.weights:
                weight.technique.dense_gradient_wanted = wanted
            after_step.retrace(self._model)

    def _find_weights(self, model):
        masked = [weight for weight in get_sparse_weights(model) if weight.technique.name == "masked"]
        if not masked:
            sparsify(model, "masked", where=self.where)
            after_step.retrace(model)
            masked = [weight for weight in get_sparse_weights(model) if weight.technique.name == "masked"]
        elif self.where is not None:
            chosen = {id(layer) for layer in match_layers(model, self.where)}
            masked = [weight for weight in masked if id(weight.layer) in chosen]
        masked = [weight for weight in masked if weight.size and weight.variable.trainable]
        if not masked:
            raise ValueError(
                f"{type(self).__name__} found no masked layer to work on: `where` selects none of those that "
                f"`sparsify` made, or they are frozen or not built. Received: where={self.where!r}"
            )
        for weight in masked:
            if weight.technique.structure is not None and not self.structured:
                raise ValueError(
                    f"{type(self).__name__} moves single weights. Received: layer {weight.layer.path!r} with "
                    f"structure={weight.technique.structure!r}"
                )
        return masked

    def _resolve_schedule(self, epochs, steps_per_epoch):
        self._first, self._last, self._interval = self.begin_step, self.end_step, self.frequency
        if "gradient" in self.uses() and callable(self.frequency):
            raise ValueError(
                f"`frequency` must be a number where {type(self).__name__} reads gradients. "
                f"Received: frequency={self.frequency!r}"
            )
        if self.frequency == "epoch" and not steps_per_epoch:
            raise ValueError(
                "`frequency='epoch'` needs to know the steps of an epoch, which this data does not tell: give the "
                "number of steps, or `steps_per_epoch` to `fit`."
            )
        batches = optimizer_slots.inner_optimizer(self._optimizer).gradient_accumulation_steps or 1
        if self.frequency == "epoch":
            self._interval = max(steps_per_epoch // batches, 1)
        self._total_steps = epochs * steps_per_epoch // batches if epochs and steps_per_epoch else None
        if self._last is None and self._total_steps:
            self._last = max(self.default_end_step(self._total_steps), 1)
            if self._last <= self._first:
                raise ValueError(
                    f"`begin_step` must come before the end of the updates, which is step {self._last} of training. "
                    f"Received: begin_step={self.begin_step}"
                )

    @property
    def last_step(self):
        """The last step of the schedule, once it is known.

        Raises:
            ValueError: It is not: `end_step` was not given and the data does not tell the steps of an epoch.
        """
        if self._last is None:
            raise ValueError(
                "`end_step` must be given where the length of training is not known (no `steps_per_epoch`, or a loop "
                f"of your own). Received: end_step={self.end_step}"
            )
        return self._last

    def check_not_over(self):
        """Raises a ValueError if the optimizer's count is past the schedule, so that masks would never change."""
        count = self.count()
        if self.scheduled and self._last is not None and count >= self._last:
            raise ValueError(
                f"`end_step` must come after the {count} steps that the optimizer has taken: steps count from its "
                "first one. Give a later `begin_step` and `end_step`, or compile the model anew. "
                f"Received: end_step={self._last}"
            )

    def _attach(self, model):
        used = self.uses()
        self._want_dense_gradient(bool(used))
        if "gradient" in used:
            self._tap = GradientTap(model.optimizer, [weight.variable for weight in self.weights], self._is_due)
            self._tap.attach()
            after_step.retrace(model)

    def _is_due(self, step):
        """`due` of one step, inside a compiled step."""
        first, interval = max(self._first, 1), self._interval
        step = step - self._delay
        wanted = ops.logical_and(step >= first, ops.equal((step - self._first) % interval, 0))
        return wanted if self._last is None else ops.logical_and(wanted, step <= self._last)

    # For subclasses: reading and writing.

    def rng(self, step, index=0):
        """The random numbers of one weight at one step, a function of the seed and these alone."""
        return np.random.default_rng([self.seed, step, index])

    def view(self, index, step, drop_fraction=0.0):
        """The `WeightView` of weight number `index`."""
        weight = self.weights[index]
        variable, optimizer = weight.variable, self._optimizer
        value, mask = value_tensor(weight), optimizer_slots.tensor_of(weight.extra_variable("mask"))
        tensors = {
            "value": lambda: value,
            "mask": lambda: mask,
            "gradient": lambda: self._tap.gradient(variable),
            "momentum": lambda: optimizer_slots.momentum(optimizer, variable),
            "variance": lambda: optimizer_slots.variance(optimizer, variable),
        }
        return WeightView(
            path=weight.path,
            value=lambda: np.asarray(value, "float32"),
            mask=np.asarray(mask),
            step=step,
            rng=self.rng(step, index),
            filter_axes=weight.filter_axes,
            drop_fraction=drop_fraction,
            _slots={name: lambda name=name: np.asarray(tensors[name]()) for name in self.uses()},
            _tensors=tensors if is_on_accelerator(value) else None,
        )

    def views(self, step, drop_fraction=0.0):
        """The `WeightView`s of all weights."""
        return [self.view(index, step, drop_fraction) for index in range(len(self.weights))]

    def assign(self, index, mask, old_mask):
        """Sets the mask of a weight and counts what changed."""
        weight = self.weights[index]
        dropped = int(np.count_nonzero(old_mask > mask))
        self.dropped[weight.path] += dropped
        self.grown[weight.path] += dropped + int(np.count_nonzero(mask)) - int(np.count_nonzero(old_mask))
        weight.assign_mask(mask)

    def reset_slots(self, index, where):
        """Sets the optimizer's slots of a weight to zero at some entries."""
        if where.any():
            optimizer_slots.reset(self._optimizer, self.weights[index].variable, where)

    def remember(self, **values):
        """Saves numbers with the model, under the names of `state_fields`."""
        state = {**self.recall(), **values}
        array = np.array([1.0, *(state[name] for name in self.state_fields)], "float64")
        self.weights[0].technique.states[self.state_name] = array

    def recall(self):
        """The numbers that `remember` saved, a dict; zeros before."""
        array = self.weights[0].technique.states.get(self.state_name)
        if array is None or len(array) != 1 + len(self.state_fields):
            return dict.fromkeys(self.state_fields, 0.0)
        return dict(zip(self.state_fields, (float(value) for value in array[1:]), strict=True))

    def has_state(self):
        """Whether `remember` was called, in this run or the one that it continues."""
        return self.state_name in self.weights[0].technique.states

    def count(self):
        """The number of steps that the model's optimizer has taken."""
        return count_steps(self._model)

    def active_counts(self):
        """Number of live entries of each weight, a list."""
        return [int(np.count_nonzero(read_mask(weight))) for weight in self.weights]

    def _measure(self):
        size = sum(weight.size for weight in self.weights)
        self.sparsity = 1.0 - sum(self.active_counts()) / size if size else 0.0
