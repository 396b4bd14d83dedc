"""Iterative magnitude pruning with rewinding, the method that finds lottery tickets.

Sources: Frankle and Carbin, "The lottery ticket hypothesis" (ICLR 2019, arXiv 1803.03635); Frankle et al., "Stabilizing
the lottery ticket hypothesis" (arXiv 1903.01611: rewinding to an early step rather than to the start).
"""

import os

import keras
import numpy as np
from keras import ops

from sparsity_tf import masks
from sparsity_tf.backend import call_counter, inner_optimizer
from sparsity_tf.bounded_files import read_npz
from sparsity_tf.callbacks import criteria
from sparsity_tf.callbacks.base import optimizer_slots
from sparsity_tf.callbacks.base.mask_algorithm import MaskAlgorithm
from sparsity_tf.callbacks.pruning import SCOPES, the_one_given
from sparsity_tf.checks import check_choice, check_fraction, check_integer, check_path
from sparsity_tf.type_names import PathLike, Where


class IterativePruning(MaskAlgorithm):
    """Trains, prunes by magnitude, rewinds the remaining weights, and trains again. This is repeated for some rounds.

    A round ends when the optimizer's count reaches `steps_per_round`. Then the weights are pruned, and every variable
    of the model goes back to its value at `rewind_step`. The optimizer's slots become zero. Its count, and with it
    every learning rate schedule, goes back to `rewind_step`. After round r of R the sparsity is 1 - (1 - S)^(r/R),
    where S is the final sparsity: each round prunes the same share of the remaining weights. A weight of n entries
    keeps floor((1 - s) n). After the last round the ticket is trained like the others. `total_steps` is the number of
    steps of `fit` for all this. With `steps_per_execution=k`, choose a k that divides the steps of a round.

    Args:
        final_sparsity: Fraction of zeros after the last round, in (0, 1).
        rounds: Integer >= 1: the number of prunings.
        steps_per_round: Integer > `rewind_step`: the count of optimizer steps at which a round ends.
        rewind_step: Integer >= 0: the step to whose weights each round goes back; 0 for the initial weights.
        scope: "layer": each weight gets the same sparsity; "global": the magnitudes of all weights are compared.
        snapshot: Path of an `.npz` file for the weights of `rewind_step`. With it a stopped run can be continued. The
            default keeps these weights in memory. A new run overwrites the file.
        where: See `MaskAlgorithm`.
        sparsity: Another name of `final_sparsity`.

    Raises:
        ValueError: For any other argument; before training begins, if the model has nothing to prune, or if the run to
            continue kept no snapshot.

    Example:

    ```python
    model = sparsity_tf.sparsify(model, "masked")
    tickets = sparsity_tf.callbacks.IterativePruning(final_sparsity=0.9, rounds=2, steps_per_round=8)
    steps_per_epoch = len(x) // 32
    model.fit(x, y, epochs=tickets.total_steps // steps_per_epoch, callbacks=[tickets])
    ```
    """

    state_name = "iterative_pruning"
    state_fields = ("rounds", "snapshot_taken")
    # Arguments that must be given. (They have defaults only because the first has two names.)
    required = ("final_sparsity", "rounds", "steps_per_round")
    takes_reparametrized = True

    def __init__(
        self,
        final_sparsity: float | None = None,
        rounds: int | None = None,
        steps_per_round: int | None = None,
        rewind_step: int = 0,
        scope: str = "layer",
        snapshot: PathLike | None = None,
        where: Where = None,
        sparsity: float | None = None,
    ) -> None:
        super().__init__(where=where)
        final_sparsity = the_one_given(final_sparsity, sparsity)
        check_fraction("final_sparsity", final_sparsity)
        check_integer("rounds", rounds, 1)
        check_integer("rewind_step", rewind_step, 0)
        check_integer("steps_per_round", steps_per_round, rewind_step + 1)
        check_choice("scope", scope, SCOPES)
        if snapshot is not None:
            check_path("snapshot", snapshot)
        if snapshot is not None and not os.fspath(snapshot).endswith(".npz"):
            raise ValueError(f"`snapshot` must be the path of an .npz file. Received: snapshot={snapshot!r}")
        self.final_sparsity, self.rounds, self.steps_per_round = final_sparsity, rounds, steps_per_round
        self.rewind_step, self.scope, self.snapshot = rewind_step, scope, snapshot
        self._saved = None

    @property
    def total_steps(self) -> int:
        """The number of steps of all rounds, the training of the last ticket included."""
        return self.steps_per_round + self.rounds * (self.steps_per_round - self.rewind_step)

    def left_undone(self, end: int) -> str | None:
        left = end - self.count()
        rounds = self.rounds - int(self.recall()["rounds"])
        needed = self.steps_per_round - self.count() + rounds * (self.steps_per_round - self.rewind_step)
        if left >= needed:
            return None
        return (
            f"will not finish its rounds: they need {needed} more steps, but training has only {left} left (sparsity "
            f"to reach: {self.final_sparsity}). Train for `total_steps` steps."
        )

    def goal(self) -> float:
        sizes = [weight.size for weight in self.weights]
        sizes = [sum(sizes)] if self.scope == "global" else sizes
        return 1 - sum(masks.number_to_keep(self.final_sparsity, size) for size in sizes) / sum(sizes)

    def sparsity_after(self, round_: int) -> float:
        """The sparsity after round number `round_`, a float."""
        if round_ == self.rounds:
            return self.final_sparsity
        return 1 - (1 - self.final_sparsity) ** (round_ / self.rounds)

    def _forget_model(self):
        return {**super()._forget_model(), "_variables": []}

    def start(self) -> None:
        # Masks and the seeds of noise are not rewound.
        masked = {id(weight.extra_variable("mask")) for weight in self.weights}
        self._variables = [v for v in self.model.weights if id(v) not in masked]
        if not self.recall()["snapshot_taken"]:
            if self.count() > self.rewind_step:
                raise ValueError(
                    f"`rewind_step` must not be smaller than {self.count()}, the number of steps that the optimizer "
                    "has already taken. Give a later step, or compile the model anew, so that the count begins at 0. "
                    f"Received: rewind_step={self.rewind_step}"
                )
            self._saved = None
            if self.count() == self.rewind_step:
                self._take_snapshot()
        elif self._saved is None and not (self.snapshot and os.path.exists(self.snapshot)):
            raise ValueError(
                "`snapshot` must be the file in which the interrupted run saved its weights at step "
                f"{self.rewind_step}: each round begins with these weights. Received: snapshot={self.snapshot!r}"
            )

    def due(self, after: int, step: int) -> int | None:
        state = self.recall() if self.weights else {"rounds": 0, "snapshot_taken": 0}
        if not state["snapshot_taken"] and after < self.rewind_step <= step:
            return self.rewind_step
        if state["rounds"] < self.rounds and step >= self.steps_per_round:
            return self.steps_per_round
        return None

    def change_masks(self, step: int) -> None:
        if step == self.rewind_step:
            self._take_snapshot()
            return
        round_ = int(self.recall()["rounds"]) + 1
        self._prune(step, self.sparsity_after(round_))
        self._rewind()
        self.remember(rounds=round_)

    def update(self, model: keras.Model) -> None:
        super().update(model)
        # A rewind sets the count of steps back.
        self._seen = self._upper_bound = self.count()

    def _prune(self, step, sparsity):
        views = self.views(step)
        # Masks that were sparser before the run stay as they are.
        if self.scope == "global":
            count = masks.number_to_keep(sparsity, sum(view.mask.size for view in views))
            kept = criteria.highest(criteria.magnitude, views, min(count, sum(view.active for view in views)))
        else:
            counts = [min(masks.number_to_keep(sparsity, view.mask.size), view.active) for view in views]
            pairs = zip(views, counts, strict=True)
            kept = [criteria.highest(criteria.magnitude, [view], count)[0] for view, count in pairs]
        self.assign(views, kept)

    def _take_snapshot(self):
        self._saved = [np.array(ops.convert_to_numpy(variable)) for variable in self._variables]
        if self.snapshot:
            unfinished = f"{self.snapshot}.unfinished.npz"
            # numpy's files have no bfloat16. float32 holds its values exactly.
            np.savez(unfinished, *(a.astype("float32") if a.dtype.kind == "V" else a for a in self._saved))
            os.replace(unfinished, self.snapshot)
        self.remember(snapshot_taken=1)

    def _rewind(self):
        if self._saved is None:
            names = [f"arr_{index}" for index in range(len(self._variables))]
            self._saved = list(read_npz(self.snapshot, names).values())
        for variable, value in zip(self._variables, self._saved, strict=True):
            variable.assign(value)
        for weight in self.weights:
            weight.assign_mask(weight.extra_variable("mask"))
        optimizer_slots.reset_all(self._optimizer)
        steps = inner_optimizer(self._optimizer).gradient_accumulation_steps or 1
        counter = call_counter(self._optimizer)
        counter.assign(keras.ops.cast(self.rewind_step * steps, counter.dtype))
