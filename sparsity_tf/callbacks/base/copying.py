"""Copies and pickles of callbacks. They contain the settings and records, but not the model."""

from sparsity_tf.backend import without_model


class Copyable:
    """A mixin for callbacks. A copy (`copy.copy`, `copy.deepcopy`, `pickle`) has no model, as before its first `fit`.

    The copy keeps the settings and the records, such as counts. It does not keep the model, the optimizer or anything
    attached to them: compiled functions can't be copied, and two callbacks must not change the masks of one model.
    """

    def _forget_model(self):
        """Returns a dict of the attributes that refer to a model, with their values before there is a model."""
        return {}

    def __getstate__(self):
        return {**without_model(self), **self._forget_model()}
