"""Measures a classifier as it is used at inference: without noise, and with masked weights exactly zero.

One idea lives here: there is one way to measure on held-out images, those for validation and those of the test set. It
is used while training runs, at the end of training and by `sparsity_tf.train.evaluate`, and it works under any
`tf.distribute` strategy, whose replicas share the work. The result does not depend on how the model was compiled.
"""

import dataclasses

import numpy as np
from keras import ops

from sparsity_tf.backend import has_strategies, predict_on_batch, sum_dtype

_TOP = 5


@dataclasses.dataclass(frozen=True)
class TestFigures:
    """The figures that an `Evaluation` measured.

    Attributes:
        loss: Mean cross-entropy in nats; NaN if an output is not finite.
        error: Share of wrong predictions, 0 to 1; NaN if an output is not finite.
        top5_error: Share of examples whose class is not among the five with the highest outputs; NaN if an output is
            not finite.
        only_class: The class that the model predicts for every example, or `None` if predictions differ.
        finite: Whether all outputs are finite.
    """

    __test__ = False

    loss: float
    error: float
    top5_error: float
    only_class: object
    finite: bool


class Evaluation:
    """Measures a model on held-out images. `run` can be called repeatedly; the step is compiled once.

    Args:
        model: Keras model that maps images to logits `(batch, num_classes)`.
        batches: `datasets.Batches`.
        split: `"test"`, or `"validation"` for the training images that are held out.
    """

    def __init__(self, model, batches, split="test"):
        self.model = model
        self.batches = batches
        self.split = split
        make = _step_of_tensorflow if has_strategies() else _step_elsewhere
        self._parts, self._step = make(model)

    def run(self, split=None):
        """Measures the model with its present weights.

        Args:
            split: `"test"` or `"validation"`; `None` for that of the constructor.

        Returns:
            `TestFigures`.
        """
        totals = None
        with self.batches.naming_errors():
            for images, labels in self._parts(getattr(self.batches, split or self.split)()):
                sums = self._step(images, labels)
                totals = sums if totals is None else [a + b for a, b in zip(totals, sums, strict=True)]
        loss, wrong, outside, broken, predicted = (np.asarray(ops.convert_to_numpy(total)) for total in totals)
        if broken:
            return TestFigures(float("nan"), float("nan"), float("nan"), None, False)
        count = predicted.sum()
        only_class = int(predicted.argmax()) if predicted.max() == count else None
        return TestFigures(float(loss / count), float(wrong / count), float(outside / count), only_class, True)


def _step_of_tensorflow(model):
    """Two functions: one splits a dataset among replicas; one, compiled, gives `_sums` of a batch over all replicas."""
    import tensorflow as tf

    strategy = model.distribute_strategy

    # Takes Keras's own choice for this model: XLA on a GPU, and no XLA for convolutions on a CPU.
    @tf.function(jit_compile=bool(getattr(model, "jit_compile", False)))
    def measure(images, labels):
        return _sums(model(images, training=False), labels)

    @tf.function
    def step(images, labels):
        sums = strategy.run(measure, (images, labels))
        return [strategy.reduce("SUM", value, axis=None) for value in sums]

    return strategy.experimental_distribute_dataset, step


def _step_elsewhere(model):
    """As `_step_of_tensorflow`, for other backends, which have one replica."""

    def step(images, labels):
        # Keras compiles the prediction. The sums need no compilation, because they are few and small.
        return [ops.convert_to_numpy(value) for value in _sums(predict_on_batch(model, images), labels)]

    return iter, step


def _sums(logits, labels):
    """Sums over a batch: loss, errors, top-5 errors, outputs that are not finite, and predictions of each class."""
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


def evaluate(model, batches, log_alpha_thresholds=None):
    """Measures a model as it is used at inference, once for each threshold.

    Args:
        model: Keras classifier with logits as outputs.
        batches: `datasets.Batches`.
        log_alpha_thresholds: List of thresholds for the layers of variational dropout; the model is measured once with
            each. `None` measures once with the model's own thresholds.

    Returns:
        List of dicts with the keys `log_alpha_threshold` (`None` for the model's own), `error`, `top5_error` and
        `sparsity` (of all kernels), fractions from 0 to 1, `compression` (all weights / non-zero weights), and `loss`
        in nats. Afterwards the model has its own thresholds again.

    Raises:
        ValueError: Thresholds are given for a model without variational dropout, or images or classes don't fit the
            model.
    """
    from sparsity_tf import inspection, layers

    _check_fit(model, batches)
    techniques = [weight.technique for weight in layers.get_sparse_weights(model)]
    techniques = [technique for technique in techniques if technique.name == "variational_dropout"]
    if log_alpha_thresholds and not techniques:
        raise ValueError(
            "`log_alpha_threshold` needs layers of variational dropout, and the model has none. "
            f"Received: log_alpha_threshold={log_alpha_thresholds}"
        )
    own, rows = [technique.log_alpha_threshold for technique in techniques], []
    try:
        for threshold in log_alpha_thresholds or [None]:
            for technique in techniques if threshold is not None else ():
                technique.log_alpha_threshold = threshold
            figures = Evaluation(model, batches).run()  # compiles anew: thresholds are constants of the compiled step
            table = inspection.sparsity_table(model, include_dense=True)
            rows.append(
                {
                    "log_alpha_threshold": threshold,
                    "error": figures.error,
                    "top5_error": figures.top5_error,
                    "loss": figures.loss,
                    "sparsity": table.sparsity,
                    "compression": table.compression,
                }
            )
    finally:
        for technique, threshold in zip(techniques, own, strict=True):
            technique.log_alpha_threshold = threshold
    return rows


def _check_fit(model, batches):
    image, logits = model.input_shape[1:], model.output_shape[1:]
    if tuple(image) != batches.image_shape or logits != (batches.num_classes,):
        raise ValueError(
            f"the model does not fit the data set: the model takes images {tuple(image)} and gives {logits}, but the "
            f"data set {batches.name} has images {batches.image_shape} of {batches.num_classes} classes"
        )
