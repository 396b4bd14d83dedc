"""Notices a training loop whose steps an algorithm does not see: the count of the model's optimizer stands still.

Masks change at steps that `model.optimizer` has counted. A loop with another optimizer, or a loop on JAX that does not
write the new state back to the model, would train without ever pruning.
"""

import numpy as np
from keras import ops

from sparsity_tf.backend import call_counter

# Calls of `update` in a row without a call of the optimizer, after which the loop is refused. Loops that add up
# gradients themselves, and call `update` after each batch, are far below the first number. The second number holds if
# weights change meanwhile: then something other than the optimizer changes them.
PATIENCE, PATIENCE_WITH_CHANGES = 30, 3


class Standstill:
    """Counts the calls of `update` between which the optimizer was not called.

    A call that only accumulates gradients, or whose step loss scaling skips, is a call: the optimizer counts the first
    in its `call_counter`, and halves its scale in the second.

    Args:
        optimizer: Built Keras optimizer.
        weights: Non-empty list of `SparseWeight`s that the loop trains.
        who: Name of the algorithm.
    """

    def __init__(self, optimizer, weights, who):
        self.optimizer, self.who = optimizer, who
        # One weight is enough, and the smallest is read fastest.
        self.weight = min(weights, key=lambda weight: weight.size)
        self.calls, self.changes = 0, 0
        self._state, self._value = self._read_state(), self._read_value()

    def watch(self, moved):
        """To be called by each `update`.

        Args:
            moved: Whether the optimizer's count has moved since the last call.

        Raises:
            ValueError: It has not, too often.
        """
        if moved:
            self.calls, self.changes = 0, 0
            return
        state, value = self._read_state(), self._read_value()
        if state != self._state or not self.calls:
            self.calls, self.changes = 0, 0
        elif not np.array_equal(value, self._value, equal_nan=True):
            self.changes += 1
        self.calls += 1
        self._state, self._value = state, value
        if self.changes >= PATIENCE_WITH_CHANGES or self.calls >= PATIENCE:
            self._refuse()

    def _refuse(self):
        seen = (
            "while the weights change: they are trained by another optimizer, or a loop with `stateless_apply` writes "
            "only the weights back. Take the steps with `model.optimizer`, or write its variables back, too"
            if self.changes
            else "and neither do the weights: a loop with `stateless_apply` does not write weights and the optimizer's "
            "variables back to the model, or trains another model. Write them back before each `update`, and call "
            "`update` after optimizer steps only"
        )
        raise ValueError(
            f"{self.who} changes masks at steps that `model.optimizer` counts. `update` was called {self.calls} times "
            f"in a row, and the count does not move, {seen}."
        )

    def _read_state(self):
        counters = [call_counter(self.optimizer)]
        counters += [getattr(self.optimizer, name, None) for name in ("step_counter", "dynamic_scale")]
        return [float(ops.convert_to_numpy(counter)) for counter in counters if counter is not None]

    def _read_value(self):
        return np.array(ops.convert_to_numpy(self.weight.value()))
