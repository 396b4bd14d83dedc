"""Copies and pickles of callbacks: settings and records go along, the model does not."""

from sparsity_tf.backend import without_model


class Copyable:
    """A mixin for callbacks. A copy (`copy.copy`, `copy.deepcopy`, `pickle`) is as before its first `fit`.

    It keeps the settings and what was recorded, such as counts. It does not keep the model, the optimizer and what was
    attached to them: compiled functions can't be copied, and two callbacks must not change the masks of one model.
    """

    def _forget_model(self):
        """Returns the attributes that refer to a model, with the values that they have without one: a dict."""
        return {}

    def __getstate__(self):
        return {**without_model(self), **self._forget_model()}
