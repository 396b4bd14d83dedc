"""How good a classifier is as it is used at inference: no noise, masked weights exactly zero.

One idea lives here: the test set is measured the same way while training runs, at its end and by
`sparsity_tf.train.evaluate`, and under any `tf.distribute` strategy, whose replicas share the work. It does not depend
on how the model was compiled.
"""

import dataclasses

import tensorflow as tf

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
        self.strategy = model.distribute_strategy
        # What Keras decided for this model's inference; a GPU compiles, a CPU leaves convolutions alone.
        self._measure = tf.function(self._measure, jit_compile=bool(getattr(model, "jit_compile", False)))
        self._step = tf.function(self._step)

    def run(self):
        """Measures the model as it is now.

        Returns:
            `TestFigures`.
        """
        totals = None
        with self.batches.naming_errors():
            for images, labels in self.strategy.experimental_distribute_dataset(self.batches.test()):
                sums = self._step(images, labels)
                totals = sums if totals is None else [a + b for a, b in zip(totals, sums, strict=True)]
        loss, wrong, outside, broken, predicted = (total.numpy() for total in totals)
        if broken:
            return TestFigures(float("nan"), float("nan"), float("nan"), None, False)
        count = predicted.sum()
        only_class = int(predicted.argmax()) if predicted.max() == count else None
        return TestFigures(float(loss / count), float(wrong / count), float(outside / count), only_class, True)

    def _step(self, images, labels):
        sums = self.strategy.run(self._measure, (images, labels))
        return [self.strategy.reduce("SUM", value, axis=None) for value in sums]

    def _measure(self, images, labels):
        """Sums over a batch: loss, wrong, not among the first five, outputs not finite, predictions a class."""
        logits = tf.cast(self.model(images, training=False), tf.float32)
        classes = logits.shape[-1]
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        prediction = tf.argmax(logits, axis=-1, output_type=labels.dtype)
        among = tf.math.in_top_k(labels, logits, min(_TOP, classes))
        return (
            tf.reduce_sum(tf.cast(loss, tf.float64)),
            _count(prediction != labels),
            _count(~among),
            _count(~tf.math.is_finite(logits)),
            tf.reduce_sum(tf.one_hot(prediction, classes, dtype=tf.int64), axis=0),
        )


def _count(condition):
    return tf.reduce_sum(tf.cast(condition, tf.int64))
