"""How good a classifier is as it is used at inference: no noise, masked weights exactly zero.

One idea lives here: the test set is measured the same way while training runs, at its end and by
`sparsity_tf.train.evaluate`, and under any `tf.distribute` strategy, whose replicas share the work. It does not depend
on how the model was compiled.
"""

import dataclasses

import numpy as np
from keras import ops

from sparsity_tf.backend import has_strategies, sum_dtype

_TOP = 5


@dataclasses.dataclass(frozen=True)
class TestFigures:
    """What an `Evaluation` found.

    Attributes:
        loss: Mean cross-entropy in nats; NaN if an output is not finite.
        error: Share of wrong predictions, 0 to 1; NaN if an output is not finite.
        top5_error: Share of examples whose class is not among the five with the highest outputs; NaN as above.
        only_class: The class that every prediction is, or `None` if they differ.
        finite: Whether all outputs are finite.
    """

    __test__ = False

    loss: float
    error: float
    top5_error: float
    only_class: object
    finite: bool


class Evaluation:
    """Measures a model on a test set, as often as `run` is called; compiled once.

    Args:
        model: Keras model from images to logits `(batch, num_classes)`.
        batches: `datasets.Batches`.
    """

    def __init__(self, model, batches):
        self.model = model
        self.batches = batches
        make = _step_of_tensorflow if has_strategies() else _step_elsewhere
        self._parts, self._step = make(model)

    def run(self):
        """Measures the model as it is now.

        Returns:
            `TestFigures`.
        """
        totals = None
        with self.batches.naming_errors():
            for images, labels in self._parts(self.batches.test()):
                sums = self._step(images, labels)
                totals = sums if totals is None else [a + b for a, b in zip(totals, sums, strict=True)]
        loss, wrong, outside, broken, predicted = (np.asarray(ops.convert_to_numpy(total)) for total in totals)
        if broken:
            return TestFigures(float("nan"), float("nan"), float("nan"), None, False)
        count = predicted.sum()
        only_class = int(predicted.argmax()) if predicted.max() == count else None
        return TestFigures(float(loss / count), float(wrong / count), float(outside / count), only_class, True)


def _step_of_tensorflow(model):
    """(how a dataset is split among replicas, compiled function from a batch to `_sums` of all replicas)."""
    import tensorflow as tf

    strategy = model.distribute_strategy

    # What Keras decided for this model's inference; a GPU compiles, a CPU leaves convolutions alone.
    @tf.function(jit_compile=bool(getattr(model, "jit_compile", False)))
    def measure(images, labels):
        return _sums(model(images, training=False), labels)

    @tf.function
    def step(images, labels):
        sums = strategy.run(measure, (images, labels))
        return [strategy.reduce("SUM", value, axis=None) for value in sums]

    return strategy.experimental_distribute_dataset, step


def _step_elsewhere(model):
    """As `_step_of_tensorflow`, for the one replica of other backends."""

    def step(images, labels):
        # Keras compiles the prediction; the sums are few and small.
        return [ops.convert_to_numpy(value) for value in _sums(model.predict_on_batch(images), labels)]

    return iter, step


def _sums(logits, labels):
    """Sums over a batch: loss, wrong, not among the first five, outputs not finite, predictions a class."""
    logits, labels = ops.cast(logits, "float32"), ops.cast(labels, "int32")
    classes = logits.shape[-1]
    loss = ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    prediction = ops.argmax(logits, axis=-1)
    among = ops.in_top_k(labels, logits, min(_TOP, classes))
    return (
        ops.sum(ops.cast(loss, sum_dtype())),
        _count(ops.not_equal(ops.cast(prediction, "int32"), labels)),
        _count(ops.logical_not(among)),
        _count(ops.logical_not(ops.isfinite(logits))),
        ops.sum(ops.one_hot(prediction, classes, dtype="int32"), axis=0),
    )


def _count(condition):
    return ops.sum(ops.cast(condition, "int32"))
