"""What all algorithms that change masks while training runs have in common: which weights, what they remember.

An algorithm is a callback for `fit`. Its masks change right after the optimizer's step whose count is on the schedule
(`update_schedule.py`, `after_step.py`), so that no other callback, whatever its place, sees or saves weights of before
the change. With `steps_per_execution=k` they change at the first boundary at or after that step; where that would be
the last step of all, and the end of the schedule is the default one, not at all.

What decides is a function of the step's count, the weights, the optimizer's slots and a seed, and runs in numpy: it is
the same on every backend and replica, it never retraces, and a run that was stopped continues exactly. The little that
an algorithm has to remember beside the masks is saved with the model (`Masked.states`).
"""

import keras
import numpy as np

from sparsity_tf import structures
from sparsity_tf.backend import as_array, is_on_accelerator, tensor_of
from sparsity_tf.callbacks import after_step, optimizer_slots
from sparsity_tf.callbacks.gradient_tap import GradientTap
from sparsity_tf.callbacks.mask_writer import MaskWriter
from sparsity_tf.callbacks.optimizer_slots import count_steps
from sparsity_tf.callbacks.update_schedule import UpdateSchedule
from sparsity_tf.callbacks.weight_view import WeightView, read_mask, value_tensor
from sparsity_tf.checks import check_integer
from sparsity_tf.layers import get_sparse_weights
from sparsity_tf.sparsify import match_layers, sparsify


class MaskAlgorithm(UpdateSchedule, keras.callbacks.Callback):
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

    def __init__(self, begin_step=0, end_step=None, frequency=1, where=None, structure=None, seed=0):
        super().__init__()
        self._set_schedule(begin_step, end_step, frequency)
        check_integer("seed", seed, 0)
        if structure is not None:
            structure = structures.get(structure).spec
            if not self.structured:
                raise ValueError(
                    f"`structure` must be None: {type(self).__name__} moves single weights. "
                    f"Received: structure={structure!r}"
                )
        self.where, self.structure, self.seed = where, structure, seed
        self.weights = []
        self.sparsity = 0.0
        # Path -> entries dropped and grown since training began.
        self.dropped, self.grown = {}, {}
        self._tap, self._started, self._writers = None, False, {}

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

    def update(self, model):
        """Changes the masks if an update is due. For loops of your own; call it after each optimizer step.

        Args:
            model: The model given to `prepare`.
        """
        step = count_steps(model)
        due = self.due(self._seen, step)
        self._seen = self._upper_bound = step
        if due is not None and not self._too_late(due, step):
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
        self._model, self._optimizer, self._started, self._writers = model, model.optimizer, False, {}
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
        changed = False
        for weight in self.weights:
            users = weight.technique.dense_gradient_users
            before = bool(users)
            (users.add if wanted else users.discard)(id(self))
            changed = changed or bool(users) != before
        if changed:
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

    def _attach(self, model):
        used = self.uses()
        self._want_dense_gradient(bool(used))
        if "gradient" in used:
            self._tap = GradientTap(model.optimizer, [weight.variable for weight in self.weights], self._is_due)
            self._tap.attach()
            after_step.retrace(model)

    # For subclasses: reading and writing.

    def rng(self, step, index=0):
        """The random numbers of one weight at one step, a function of the seed and these alone."""
        return np.random.default_rng([self.seed, step, index])

    def view(self, index, step, drop_fraction=0.0):
        """The `WeightView` of weight number `index`."""
        weight = self.weights[index]
        variable, optimizer = weight.variable, self._optimizer
        mask = tensor_of(weight.extra_variable("mask"))
        # Read when asked for: a tensor kept here would be memory that can't be written in place.
        tensors = {
            "value": lambda: value_tensor(weight),
            "mask": lambda: mask,
            "gradient": lambda: self._tap.gradient(variable),
            "momentum": lambda: optimizer_slots.momentum(optimizer, variable),
            "variance": lambda: optimizer_slots.variance(optimizer, variable),
        }
        return WeightView(
            path=weight.path,
            value=lambda: np.asarray(as_array(value_tensor(weight)), "float32"),
            mask=as_array(mask),
            step=step,
            rng=lambda: self.rng(step, index),
            filter_axes=weight.filter_axes,
            drop_fraction=drop_fraction,
            _slots={name: lambda name=name: as_array(tensors[name]()) for name in self.uses()},
            _tensors=tensors if is_on_accelerator(mask) else None,
            _weight=weight,
        )

    def views(self, step, drop_fraction=0.0):
        """The `WeightView`s of all weights."""
        return [self.view(index, step, drop_fraction) for index in range(len(self.weights))]

    def assign(self, views, masks, kept=None, cleared=None):
        """Sets the masks of weights and counts what changed.

        Args:
            views: List of `WeightView`s, of `views`.
            masks: List of bool arrays, a mask for each.
            kept: List of bool arrays, entries that live on with their values; others that are in the mask begin at
                zero, and count as grown. Default: the masks.
            cleared: List of bool arrays, where the optimizer forgets what it gathered (its slots become zero). Default:
                nowhere.
        """
        masks = [_bool_mask(view, mask) for view, mask in zip(views, masks, strict=True)]
        kept, changed = masks if kept is None else kept, False
        for view, mask, keep in zip(views, masks, kept, strict=True):
            staying = int(np.count_nonzero(view.mask & keep if keep is mask else view.mask & keep & mask))
            dropped, grown = view.active - staying, int(np.count_nonzero(mask)) - staying
            self.dropped[view.path] += dropped
            self.grown[view.path] += grown
            changed = changed or dropped or grown
            view._release()
        if changed:
            self._writer([view._weight for view in views], cleared is not None)(masks, kept, cleared or [])

    def _writer(self, weights, clears):
        # One for each set of variables that an algorithm writes, of which it has one or two.
        key = (clears, *(id(weight.variable) for weight in weights))
        if key not in self._writers:
            slots = [optimizer_slots.slots_of(self._optimizer, weight.variable) for weight in weights if clears]
            self._writers[key] = MaskWriter(weights, slots)
        return self._writers[key]

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


def _bool_mask(view, mask):
    mask = np.asarray(mask, bool)
    if mask.shape != view.mask.shape:
        raise ValueError(
            f"`masks` must have the shape {view.mask.shape} for {view.path!r}. Received: shape={mask.shape}"
        )
    return mask
