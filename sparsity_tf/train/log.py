"""What a run says while it trains: test figures, one CSV row and TensorBoard scalars an epoch.

Two ideas live here: `evaluate`, which measures the deterministic sparse network on the test set,
and `RunLog`, the callback that writes the same figures to every place.
"""

import csv
import dataclasses
import os
import time

import keras
import numpy as np

from sparsity_tf import inspection, layers
from sparsity_tf.callbacks.sparsity_monitor import write_scalar
from sparsity_tf.train import state

_TEST_BATCH = 1000
# What a `SparsityMonitor` knows beside the sparsities.
_OF_MASKS = ("threshold", "drop_fraction", "dropped", "grown", "mask_change")


@dataclasses.dataclass(frozen=True)
class TestFigures:
    """What `evaluate` found.

    Attributes:
        loss: Mean cross-entropy in nats; NaN if an output is not finite.
        error: Share of wrong predictions, 0 to 1; NaN if an output is not finite.
        only_class: The class that every prediction is, or `None` if they differ.
        finite: Whether all outputs are finite.
    """

    __test__ = False

    loss: float
    error: float
    only_class: object
    finite: bool


def evaluate(model, x, y):
    """Measures a classifier as it is used at inference: no noise, masked weights exactly zero.

    Args:
        model: Keras model from `(n, ...)` to logits `(n, num_classes)`.
        x: Array `(n, ...)`, preprocessed as in training.
        y: Integer array `(n,)`.

    Returns:
        `TestFigures`.
    """
    batches = [x[start : start + _TEST_BATCH] for start in range(0, len(x), _TEST_BATCH)]
    logits = np.concatenate([model.predict_on_batch(batch) for batch in batches])
    logits = logits.astype(np.float64)
    if not np.isfinite(logits).all():
        return TestFigures(float("nan"), float("nan"), None, False)
    predictions = logits.argmax(axis=1)
    shifted = logits - logits.max(axis=1, keepdims=True)
    loss = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(y)), y]
    constant = bool((predictions == predictions[0]).all())
    only_class = int(predictions[0]) if constant else None
    return TestFigures(float(loss.mean()), float((predictions != y).mean()), only_class, True)


def penalty_weight(model):
    """The largest `penalty_weight` of the model's layers; 0 if there is none."""
    weights = layers.get_penalty_weights(model)
    return max((float(keras.ops.convert_to_numpy(weight)) for weight in weights), default=0.0)


class RunLog(keras.callbacks.Callback):
    """Measures the model every few epochs and writes what it finds.

    Places: `metrics.csv` (the same columns in every row; sparsities, of all kernels and of each, and
    errors as fractions), TensorBoard scalars, the logs that Keras's progress bar shows, and, without a progress bar,
    one printed line. Training stops at the first epoch whose loss is not finite.

    Args:
        folder: Folder of the run.
        x: Test inputs.
        y: Test labels.
        num_examples: Number of training examples; the column `penalty_weight` is the layers'
            variable times this, that is the recipe's weight times the ramp.
        epochs: Number of epochs of the whole run.
        every: Epochs between measurements; the last epoch is always measured.
        first_epoch: Number of epochs done before this process; later rows in `metrics.csv`, from
            an epoch that was cut off before its checkpoint, are dropped.
        print_lines: Whether to print a line for each measurement.
        monitor: A `SparsityMonitor` that stands before this callback: what its CSV file has beside sparsities becomes
            TensorBoard scalars, too. `None`: there is none.
    """

    def __init__(self, folder, x, y, num_examples, epochs, every=1, first_epoch=0, print_lines=True, monitor=None):
        super().__init__()
        self.path = os.path.join(folder, state.METRICS)
        self.tensorboard = os.path.join(folder, state.TENSORBOARD)
        self.x, self.y = x, y
        self.num_examples = num_examples
        self.epochs = epochs
        self.every = every
        self.print_lines = print_lines
        self.monitor = monitor
        self._seconds = 0.0
        self._writer = None
        rows = [row for row in read_metrics(folder) if int(row["epoch"]) <= first_epoch]
        if os.path.exists(self.path):
            _write_rows(self.path, rows)

    def on_train_begin(self, logs=None):
        import tensorflow as tf

        self._writer = tf.summary.create_file_writer(self.tensorboard)

    def on_train_end(self, logs=None):
        self._writer.close()

    def on_epoch_begin(self, epoch, logs=None):
        self._rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        self._begin = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        logs = {} if logs is None else logs
        self._seconds += time.perf_counter() - self._begin
        broken = not np.isfinite(logs["loss"])
        if broken:
            self.model.stop_training = True
        if (epoch + 1) % self.every and epoch + 1 != self.epochs and not broken:
            return
        row = self._measure(epoch, logs)
        _write_rows(self.path, [row], append=os.path.exists(self.path))
        self._write_scalars(row)
        logs.update(test_error=row["test_error"], sparsity=row["sparsity"])
        if self.print_lines:
            print(
                f"epoch {epoch + 1:>{len(str(self.epochs))}}/{self.epochs}  loss {row['loss']:.4f}"
                f"  accuracy {100 * row['accuracy']:.2f} %"
                f"  test error {100 * row['test_error']:.2f} %"
                f"  sparsity {100 * row['sparsity']:.2f} %  {row['seconds']:.1f} s",
                flush=True,
            )

    def _measure(self, epoch, logs):
        test = evaluate(self.model, self.x, self.y)
        table = inspection.sparsity_table(self.model, include_dense=True)
        row = {
            "epoch": epoch + 1,
            "step": int(keras.ops.convert_to_numpy(self.model.optimizer.iterations)),
            "seconds": round(self._seconds, 4),
            "learning_rate": self._rate,
            "loss": float(logs["loss"]),
            "accuracy": float(logs["accuracy"]),
            "test_loss": test.loss,
            "test_accuracy": 1.0 - test.error,
            "test_error": test.error,
            "penalty_weight": penalty_weight(self.model) * self.num_examples,
            "sparsity": table.sparsity,
            "compression": table.compression,
        }
        row.update({f"sparsity/{weight.name}": weight.sparsity for weight in table.rows})
        self._seconds = 0.0
        return row

    def _write_scalars(self, row):
        with self._writer.as_default():
            for name, value in row.items():
                if name not in ("epoch", "step"):
                    write_scalar(name, value, row["epoch"])
            for of_weight in self._of_masks(row["epoch"] - 1):
                for name in _OF_MASKS:
                    if name in of_weight:
                        write_scalar(f"{name}/{of_weight['weight']}", of_weight[name], row["epoch"])
        self._writer.flush()

    def _of_masks(self, epoch):
        """The monitor's rows of an epoch, counted from 0."""
        return [row for row in self.monitor.rows if row["epoch"] == epoch] if self.monitor else []


def read_metrics(folder):
    """The rows of a run's `metrics.csv` as dicts of strings; an empty list if there is no file."""
    path = os.path.join(folder, state.METRICS)
    if not os.path.exists(path):
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _write_rows(path, rows, append=False):
    if not rows and not append:
        os.remove(path)
        return
    with open(path, "a" if append else "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        if not append:
            writer.writeheader()
        writer.writerows(rows)
