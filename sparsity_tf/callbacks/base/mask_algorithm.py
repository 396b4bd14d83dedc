"""The base class of all algorithms that change masks during training: the weights, the updates and the saved state.

An algorithm is a callback for `fit`. Masks change right after the optimizer's step whose count is on the schedule
(`update_schedule.py`, `train_function.py`). So no other callback, in any order, sees or saves the weights from before
the change. With `steps_per_execution=k` masks change at the first boundary at or after that step. If this boundary is
the very last step and `end_step` was not given, this update is left out. If a run is too short for the schedule, or
takes steps that the algorithm does not see, a warning or an error says so (`shortfall.py`, `standstill.py`).

A decision is a function of the step's count, the weights, the optimizer's slots and a seed. It is computed in numpy:
the result is the same on every backend and replica, nothing is retraced, and a stopped run continues exactly. The few
numbers that an algorithm remembers beside the masks are saved with the model (`Masked.states`).
"""

import keras
import numpy as np

from sparsity_tf.backend import as_array, fit_builds_models, is_on_accelerator, slots_of, strategy_scope, tensor_of
from sparsity_tf.call_repr import CallRepr
from sparsity_tf.callbacks.base import claims, masked_weights, optimizer_slots, shortfall, tied_weights, train_function
from sparsity_tf.callbacks.base.configured import Configured
from sparsity_tf.callbacks.base.copying import Copyable
from sparsity_tf.callbacks.base.gradient_tap import GradientTap
from sparsity_tf.callbacks.base.mask_writer import MaskWriter, bool_mask, portions
from sparsity_tf.callbacks.base.saved_state import SavedState
from sparsity_tf.callbacks.base.standstill import Standstill
from sparsity_tf.callbacks.base.tied_weights import TiedWeight
from sparsity_tf.callbacks.base.update_schedule import UpdateSchedule
from sparsity_tf.callbacks.base.weight_view import WeightView, read_mask, stored_tensor, value_tensor
from sparsity_tf.checks import check_integer, check_selection
from sparsity_tf.masks import structures
from sparsity_tf.type_names import Frequency, Where


class MaskAlgorithm(CallRepr, Configured, Copyable, UpdateSchedule, SavedState, keras.callbacks.Callback):
    """Base class of the algorithms that change masks. A subclass defines `change_masks`, and often `start`.

    The count of steps is the number of the optimizer's updates since the optimizer was made. (With gradient
    accumulation it is less than the number of batches.) Masks change at `begin_step`, `begin_step + frequency`, ... up
    to and including `end_step`, never before the first step. Frozen layers stay as they are: in a
    `keras.distillation.Distiller` only the student becomes sparse. A weight has one algorithm at a time.

    In `fit` the model need not be built: `fit` builds it. In a loop of your own, call `prepare(model)` before the first
    step, `update(model)` after each step, and `finish()` at the end; take the steps with `model.optimizer`. The dicts
    `dropped` and `grown` count entries since training began, by names of `sparsity_table` (tied: `"conv2d/channel"`).

    Args:
        begin_step: Integer >= 0: the first step after which masks may change.
        end_step: Integer > `begin_step`: the last step after which masks may change; `None` for the end of training.
        frequency: Integer >= 1: steps between updates; "epoch" for the steps of an epoch of `fit` (rounded down with
            gradient accumulation); or a schedule or other function P of the step, for updates at the steps t that are
            multiples of P(t).
        where: Selects the masked weights, as `where` of `sparsity_tf.sparsify`. Default: all. If none of the selected
            layers is masked, these layers are made masked first.
        structure: Says which entries live and die together (`sparsity_tf.masks.structures`). It is set on the layers
            and saved in their config. Default: the structure of the layers. With "channel", "head" or "unit" all
            counts, sparsities and distributions count channels. Channels that are tied to the same layers are then one
            weight, a vector, under the path of the first layer: `"conv2d/channel"`. (Every distribution but a dict is
            then uniform.)
        seed: Integer: the seed of all random numbers.

    Example:

    ```python
    class PruneOnce(sparsity_tf.callbacks.MaskAlgorithm):
        def change_masks(self, step):
            views = self.views(step)
            self.assign(views, [np.abs(view.value) > 0.05 for view in views])

    model.fit(x, y, callbacks=[PruneOnce(begin_step=4, end_step=5)])
    ```
    """

    # Whether the algorithm can make masks of whole blocks, filters or N:M groups.
    structured = False
    # Whether the algorithm can drop and grow whole blocks and filters, but keeps no N:M groups.
    moves_groups = False
    # Whether the algorithm can prune a channel, head or unit in all layers that it ties.
    prunes_tied = False
    # Whether pruned entries may live again.
    grows = False
    # Whether the algorithm works on weights that are a power of their variable: it must read nothing but values and
    # masks, and bring no weight back.
    takes_reparametrized = False
    # How the values of a channel's parts become the value of the channel ("l1", "l2", "taylor").
    importance = "l1"
    # Whether masks change only once, before the first step, so that another algorithm may go on with them.
    acts_once = False
    # Whether to warn of a `fit` that is too short for the schedule. A program with a message of its own sets False.
    warns_at_start = True

    def __init__(
        self,
        begin_step: int = 0,
        end_step: int | None = None,
        frequency: Frequency = 1,
        where: Where = None,
        structure: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self._set_schedule(begin_step, end_step, frequency)
        check_integer("seed", seed, 0)
        check_selection("where", where, "layer")
        if structure is not None:
            structure = structures.get(structure).spec
            if problem := masked_weights.problem_with(self, structure):
                raise ValueError(f"`structure` must be None: {problem} Received: structure={structure!r}")
        self.where, self.structure, self.seed = where, structure, seed
        self.sparsity = 0.0
        self.dropped, self.grown = {}, {}
        vars(self).update(self._forget_model())

    def _forget_model(self):
        return {
            **super()._forget_model(),
            "weights": [],
            "parts": [],
            "waits_for_model": False,
            "_optimizer": None,
            "_started": False,
            "_began_at": None,
            "_epoch_ended": False,
            "_standstill": None,
            "_structures": [],
            "_tap": None,
            "_writers": {},
        }

    # Methods for subclasses to define.

    def start(self) -> None:
        """Called once before the first step, when `self.weights` is set. For initial masks and further checks.

        In `fit` it is called when the first epoch begins. By then, other callbacks may have restored the model.
        """

    def change_masks(self, step: int) -> None:
        """Changes the masks. Called after each step whose count is on the schedule."""
        raise TypeError(f"{type(self).__name__} must define `change_masks(step)`.")

    def uses(self) -> set[str]:
        """The names of what the algorithm reads beside weights and masks: "gradient", "momentum" or "variance"."""
        return set()

    def update(self, model: keras.Model) -> None:
        """Changes the masks if an update is due. For loops of your own: call it after each optimizer step.

        Args:
            model: The model given to `prepare`.

        Raises:
            ValueError: `prepare` was not called, or was called for another model; or the count of `model.optimizer`
                does not move between calls, because the loop uses another optimizer or does not write its state back.
        """
        self._check_prepared(model)
        step = optimizer_slots.count_steps(model)
        if self._standstill is not None:
            self._standstill.watch(moved=step != self._seen)
        due = self.due(self._seen, step)
        self._seen = self._upper_bound = step
        if due is not None and not self._too_late(due, step):
            self._change(due)

    def _change(self, step):
        self.change_masks(step)
        self._measure()

    def left_undone(self, end: int) -> str | None:
        """Says which task a training that ends at step `end` leaves undone: the rest of a sentence, or `None`."""
        return shortfall.of_schedule(self, end)

    def aim(self) -> str | None:
        """The aim that is reached at `end_step` and not before, in the words of a warning, or `None`."""
        return None

    def goal(self) -> float | None:
        """The final sparsity of all weights together, or `None` if the algorithm does not set it."""
        return None

    # Keras's events.

    def on_train_begin(self, logs: dict | None = None) -> None:
        self.detach()
        model = self.model
        self.waits_for_model = not model.built and fit_builds_models()
        if not self.waits_for_model:
            self._bind(model, *self._length_of_fit())
        train_function.install(model, self)

    def begin(self) -> None:
        """Does the work that needed a built model. The train function calls it right before the first step."""
        self.waits_for_model = False
        self._bind(self.model, *self._length_of_fit())
        self.on_epoch_begin(self._epoch)

    def _length_of_fit(self):
        return self.params.get("epochs"), self.params.get("steps"), self.model.steps_per_execution

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._epoch = epoch
        if self.waits_for_model:
            return
        model, is_first = self.model, not self._started
        if is_first:
            self._start(model)
            if self.warns_at_start:
                shortfall.warn_at_start(self, epoch, self.params)
        step = optimizer_slots.count_steps(model)
        if self._at_epoch_begin:
            self._update_before_epoch(step - 1 if is_first else self._seen, step, is_first)
        # Another callback may have restored the model in the meantime, and its count of steps with it.
        self._seen = self._upper_bound = step
        self._measure()

    def _update_before_epoch(self, after, step, is_first):
        due = self.due(after, step)
        if due is not None and is_first and self._tap is not None:
            shortfall.warn_without_gradient(self, due)
        elif due is not None:
            self._change(due)

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        if logs is not None:
            logs["sparsity"] = self.sparsity

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self._epoch_ended = True
        self.on_train_batch_end(epoch, logs)

    def on_train_end(self, logs: dict | None = None) -> None:
        train_function.remove(self.model, self)
        self._end(in_fit=True)

    # Preparation.

    def prepare(self, model: keras.Model, epochs: int | None = None, steps_per_epoch: int | None = None) -> None:
        """Prepares a model: finds its masked weights and calls `start`. For loops of your own.

        Args:
            model: Compiled, built Keras model.
            epochs: Number of epochs, if the algorithm needs to know the length of training.
            steps_per_epoch: Steps in an epoch, in the same case and for `frequency="epoch"`.

        Raises:
            ValueError: The model has nothing to prune, or does not fit the algorithm.
        """
        self.detach()
        self._bind(model, epochs, steps_per_epoch)
        self._start(model)
        shortfall.warn_if_over(self)
        self._standstill = Standstill(model.optimizer, self._kernels(), type(self).__name__)

    def _kernels(self):
        return [weight for weight in self.parts if weight.name in weight.layer.sparse_weight_names]

    def _check_prepared(self, model):
        if not self._started:
            raise ValueError(
                f"{type(self).__name__} has no model yet: call `prepare(model)` before `update(model)`. (A copy of a "
                "callback does not keep the model of the original: call `prepare` for the copy, too.)"
            )
        if model is not self.model:
            raise ValueError(
                f"{type(self).__name__} was prepared for another model, {self.model.name!r}: call `prepare(model)` "
                f"before `update(model)`. Received: model={model!r}"
            )

    def _bind(self, model, epochs, steps_per_epoch, steps_per_call=None):
        if getattr(model, "optimizer", None) is None:
            raise ValueError(f"The model must be compiled before {type(self).__name__} is used. Received: {model!r}")
        if not model.built:
            raise ValueError(
                f"The model must be built before {type(self).__name__} is used: call it on a batch, or `model.build`. "
                f"Received: model={model.name!r}"
            )
        self.set_model(model)
        self._optimizer = model.optimizer
        with strategy_scope(model):
            if not model.optimizer.built:
                model.optimizer.build(model.trainable_variables)
            optimizer_slots.check(model.optimizer, self.uses(), type(self).__name__)
            self._resolve_schedule(epochs, steps_per_epoch, steps_per_call)
            weights = masked_weights.find(model, self.where, self)
            parts = tied_weights.parts_of(weights)
            claims.claim(self, parts)
            self.weights, self.parts = weights, parts
            self._structures = [weight.technique.structure for weight in self.parts]
            for weight in self.parts:
                weight.technique.structure = self.structure or weight.technique.structure
            self.dropped = {weight.path: 0 for weight in self.weights}
            self.grown = dict(self.dropped)
            self._attach(model)
        self._seen = self._upper_bound = optimizer_slots.count_steps(model)

    def _start(self, model):
        try:
            with strategy_scope(model):
                self.start()
        except BaseException:
            self.detach()
            for weight, structure in zip(self.parts, self._structures, strict=True):
                weight.technique.structure = structure
            raise
        self._started = True
        self._seen = self._upper_bound = self._began_at = optimizer_slots.count_steps(model)
        self._measure()

    def finish(self) -> None:
        """Removes everything that `prepare` attached to the model and its optimizer. Masks stay.

        It warns if the sparsity is below the goal of the algorithm, or if an update was left out.
        """
        self._end(in_fit=False)

    def _end(self, in_fit):
        if self._started:
            with strategy_scope(self.model):
                optimizer_slots.mask_averages(self._optimizer, self.parts)
            self._measure()
            shortfall.warn_at_end(self, in_fit)
        self.detach()

    def detach(self) -> None:
        """Removes everything that `prepare` attached, without warnings: for a run that was interrupted."""
        if self._tap is not None:
            self._tap.detach()
            self._tap = None
            train_function.retrace(self.model)
        self._want_dense_gradient(False)
        claims.release(self, self.parts)
        self._started, self.waits_for_model, self._standstill, self._writers = False, False, None, {}
        self._epoch_ended = False

    def _want_dense_gradient(self, wanted):
        changed = False
        for weight in self.parts:
            users = weight.technique.dense_gradient_users
            before = bool(users)
            (users.add if wanted else users.discard)(id(self))
            changed = changed or bool(users) != before
        if changed:
            train_function.retrace(self.model)

    def _attach(self, model):
        used = self.uses()
        self._want_dense_gradient(bool(used))
        if "gradient" in used:
            self._tap = GradientTap(model.optimizer, [weight.variable for weight in self.parts], self._is_due)
            self._tap.attach()
            train_function.retrace(model)

    # For subclasses: reading and writing.

    def rng(self, step: int, index: int = 0) -> np.random.Generator:
        """The random numbers for one weight at one step. They depend only on the seed, the step and the weight."""
        return np.random.default_rng([self.seed, step, index])

    def view(self, index: int, step: int, drop_fraction: float = 0.0) -> WeightView:
        """The `WeightView` of weight number `index`."""
        weight = self.weights[index]
        common = {"step": step, "rng": lambda: self.rng(step, index), "drop_fraction": drop_fraction}
        if isinstance(weight, TiedWeight):
            gradient = self._tap.gradient if "gradient" in self.uses() else None
            return weight.view(self.importance, gradient, **common)
        variable, optimizer = weight.variable, self._optimizer
        mask = tensor_of(weight.extra_variable("mask"))
        # Read each tensor only on demand: memory that a tensor kept here holds could not be written in place.
        tensors = {
            "value": lambda: value_tensor(weight),
            "mask": lambda: tensor_of(weight.extra_variable("mask")),
            "gradient": lambda: self._tap.gradient(variable),
            "momentum": lambda: optimizer_slots.momentum(optimizer, variable),
            "variance": lambda: optimizer_slots.variance(optimizer, variable),
        }
        return WeightView(
            path=weight.path,
            value=lambda: np.asarray(as_array(value_tensor(weight)), "float32"),
            mask=as_array(mask),
            filter_axes=weight.filter_axes,
            _stored=lambda: np.asarray(as_array(stored_tensor(weight)), "float32"),
            _slots={name: lambda name=name: as_array(tensors[name]()) for name in self.uses()},
            _tensors=tensors if is_on_accelerator(mask) else None,
            _weight=weight,
            **common,
        )

    def portions(self, indices: list[int]) -> list[list[int]]:
        """Splits the indices of weights into lists to be treated one after another, so that memory is bounded.

        An update holds several arrays of the size of each weight that it treats. All weights of a small network are one
        portion, because each portion takes a call.
        """
        sizes = [self.weights[index].size for index in indices]
        return [[indices[k] for k in portion] for portion in portions(sizes)]

    def views(self, step: int, drop_fraction: float = 0.0) -> list[WeightView]:
        """The `WeightView`s of all weights."""
        return [self.view(index, step, drop_fraction) for index in range(len(self.weights))]

    def assign(
        self,
        views: list[WeightView],
        masks: list[np.ndarray],
        kept: list[np.ndarray] | None = None,
        cleared: list[np.ndarray] | None = None,
    ) -> None:
        """Sets the masks of weights and counts what changed.

        Args:
            views: List of `WeightView`s from `views`.
            masks: List of bool arrays: the new mask of each weight.
            kept: List of bool arrays: the entries that live on with their values. Other entries of the mask start at
                zero and count as grown. Default: the masks.
            cleared: List of bool arrays: the entries whose optimizer slots become zero. Default: none.
        """
        masks = [bool_mask(view, mask) for view, mask in zip(views, masks, strict=True)]
        kept, changed = masks if kept is None else kept, False
        for view, mask, keep in zip(views, masks, kept, strict=True):
            staying = int(np.count_nonzero(view.mask & keep if keep is mask else view.mask & keep & mask))
            dropped, grown = view.active - staying, int(np.count_nonzero(mask)) - staying
            self.dropped[view.path] += dropped
            self.grown[view.path] += grown
            changed = changed or dropped or grown
            view._release(mask)
        if changed:
            weights, masks, kept, cleared = tied_weights.spread([v._weight for v in views], masks, kept, cleared)
            for portion in portions([weight.size for weight in weights]):
                chosen, *arrays = ([items[k] for k in portion] for items in (weights, masks, kept, cleared or weights))
                self._writer(chosen, cleared is not None)(*arrays[:2], arrays[2] if cleared is not None else [])

    def _writer(self, weights, clears):
        # One writer for each set of variables that the algorithm writes. An algorithm has one or two sets.
        key = (clears, *(id(weight.variable) for weight in weights))
        if key not in self._writers:
            slots = [slots_of(self._optimizer, weight.variable) for weight in weights if clears]
            self._writers[key] = MaskWriter(weights, slots)
        return self._writers[key]

    def count(self) -> int:
        """The number of steps that the model's optimizer has taken."""
        return optimizer_slots.count_steps(self.model)

    def active_counts(self) -> list[int]:
        """The list of the numbers of live entries, one for each weight."""
        masks = (weight.mask() if isinstance(weight, TiedWeight) else read_mask(weight) for weight in self.weights)
        return [int(np.count_nonzero(mask)) for mask in masks]

    def _measure(self):
        size = sum(weight.size for weight in self.weights)
        self.sparsity = 1.0 - sum(self.active_counts()) / size if size else 0.0
