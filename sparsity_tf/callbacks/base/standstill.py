"""Detects a training loop whose steps an algorithm does not see: the step count of the model's optimizer stands still.

Masks change at steps that `model.optimizer` counts. A loop with another optimizer, or a loop on JAX that does not write
the new state back to the model, would train without ever pruning.
"""

import numpy as np
from keras import ops

from sparsity_tf.backend import call_counter

# After this many calls of `update` in a row without a call of the optimizer, the loop is refused. A loop that adds up
# gradients itself, and calls `update` after each batch, stays far below the first number. The second number holds if
# weights change between the calls: then something other than the optimizer changes them.
PATIENCE, PATIENCE_WITH_CHANGES = 30, 3


class Standstill:
    """Counts the calls of `update` since the last call of the optimizer.

    A call of the optimizer counts here even if it takes no step. If a call only accumulates gradients, it moves the
    optimizer's `call_counter`. If loss scaling skips the step of a call, it halves the optimizer's scale.

    Args:
        optimizer: Built Keras optimizer.
        weights: Non-empty list of `SparseWeight`s that the loop trains.
        who: Name of the algorithm.
    """

    def __init__(self, optimizer, weights, who):
        self.optimizer, self.who = optimizer, who
        # Watching one weight is enough. The smallest weight is read fastest.
        self.weight = min(weights, key=lambda weight: weight.size)
        self.calls, self.changes = 0, 0
        self._state, self._value = self._read_state(), self._read_value()

    def watch(self, moved):
        """Checks for a standstill. Each `update` calls it.

        Args:
            moved: Whether the optimizer's step count has moved since the last call.

        Raises:
            ValueError: The count has stood still for too many calls.
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
            "but the weights change. Either another optimizer trains them: take the steps with `model.optimizer`. Or "
            "a loop with `stateless_apply` writes only the weights back: write the optimizer's variables back, too"
            if self.changes
            else (
                "and the weights do not change. Either a loop with `stateless_apply` does not write weights and the "
                "optimizer's variables back to the model: write them back before each `update`. Or the loop trains "
                "another model, or calls `update` without a step: call `update` only after a step of `model.optimizer`"
            )
        )
        raise ValueError(
            f"{self.who} changes masks at certain steps of `model.optimizer`. `update` was called {self.calls} times "
            f"in a row, and the optimizer's step count stayed the same, {seen}."
        )

    def _read_state(self):
        counters = [call_counter(self.optimizer)]
        counters += [getattr(self.optimizer, name, None) for name in ("step_counter", "dynamic_scale")]
        return [float(ops.convert_to_numpy(counter)) for counter in counters if counter is not None]

    def _read_value(self):
        return np.array(ops.convert_to_numpy(self.weight.value()))
