"""The numbers that an algorithm remembers. They are saved with the model, so that a run resumes exactly."""

import numpy as np


class SavedState:
    """The part of `MaskAlgorithm` that saves numbers with the model."""

    # The name of the saved state in files, and the names of its numbers.
    state_name = None
    state_fields = ()

    def remember(self, **values: float) -> None:
        """Saves numbers with the model, under the names of `state_fields`."""
        state = {**self.recall(), **values}
        array = np.array([1.0, *(state[name] for name in self.state_fields)], "float64")
        self.weights[0].technique.states[self.state_name] = array

    def recall(self) -> dict[str, float]:
        """The numbers that `remember` saved, a dict. Before the first `remember` they are zeros."""
        array = self.weights[0].technique.states.get(self.state_name)
        if array is None or len(array) != 1 + len(self.state_fields):
            return dict.fromkeys(self.state_fields, 0.0)
        return dict(zip(self.state_fields, (float(value) for value in array[1:]), strict=True))

    def has_state(self) -> bool:
        """Whether `remember` was called, in this run or in the run that this run continues."""
        return self.state_name in self.weights[0].technique.states
