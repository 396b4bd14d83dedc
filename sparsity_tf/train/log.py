"""What a run says while it trains: test figures, one CSV row and TensorBoard scalars an epoch.

One idea lives here: `RunLog`, the callback that writes the same figures to every place.
"""

import csv
import os
import time

import keras
import numpy as np

from sparsity_tf import inspection, layers
from sparsity_tf.callbacks.sparsity_monitor import write_scalar
from sparsity_tf.train import state
from sparsity_tf.train.evaluation import Evaluation

# What a `SparsityMonitor` knows beside the sparsities.
_OF_MASKS = ("threshold", "drop_fraction", "dropped", "grown", "mask_change")


def penalty_weight(model):
    """The largest `penalty_weight` of the model's layers; 0 if there is none."""
    weights = layers.get_penalty_weights(model)
    return max((float(keras.ops.convert_to_numpy(weight)) for weight in weights), default=0.0)


class RunLog(keras.callbacks.Callback):
    """Measures the model every few epochs and writes what it finds.

    Places: `metrics.csv` (the same columns in every row; sparsities, of all kernels and of each, thresholds, and
    errors as fractions), TensorBoard scalars, the logs that Keras's progress bar shows, and, without a progress bar,
    one printed line. Training stops at the first epoch whose loss is not finite.

    Args:
        folder: Folder of the run.
        batches: `datasets.Batches` of the run. The column `penalty_weight` is the layers' variable times the number
            of training examples, that is the recipe's weight times the ramp.
        epochs: Number of epochs of the whole run.
        every: Epochs between measurements; the last epoch is always measured.
        first_epoch: Number of epochs done before this process; later rows in `metrics.csv`, from
            an epoch that was cut off before its checkpoint, are dropped.
        print_lines: Whether to print a line for each measurement.
        writes: Whether to write at all: of several workers one does, but all take part in measuring.
        monitor: A `SparsityMonitor` that stands before this callback: what its CSV file has beside sparsities becomes
            TensorBoard scalars, too. `None`: there is none.
    """

    def __init__(self, folder, batches, epochs, every=1, first_epoch=0, print_lines=True, writes=True, monitor=None):
        super().__init__()
        self.path = os.path.join(folder, state.METRICS)
        self.tensorboard = os.path.join(folder, state.TENSORBOARD)
        self.batches = batches
        self.epochs = epochs
        self.every = every
        self.print_lines = print_lines
        self.writes = writes
        self.monitor = monitor
        self._seconds = 0.0
        self._writer = self._evaluation = None
        if not writes:
            return
        rows = [row for row in read_metrics(folder) if int(row["epoch"]) <= first_epoch]
        if os.path.exists(self.path):
            write_rows(self.path, rows)

    def on_train_begin(self, logs=None):
        import tensorflow as tf

        self._evaluation = Evaluation(self.model, self.batches)
        if self.writes:
            self._writer = tf.summary.create_file_writer(self.tensorboard)

    def on_train_end(self, logs=None):
        if self.writes:
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
        logs.update(test_error=row["test_error"], sparsity=row["sparsity"])
        if not self.writes:
            return
        write_rows(self.path, [row], append=os.path.exists(self.path))
        self._write_scalars(row)
        if self.print_lines:
            print(
                f"epoch {epoch + 1:>{len(str(self.epochs))}}/{self.epochs}  loss {row['loss']:.4f}"
                f"  accuracy {100 * row['accuracy']:.2f} %"
                f"  test error {100 * row['test_error']:.2f} %"
                f"  sparsity {100 * row['sparsity']:.2f} %  {row['seconds']:.1f} s",
                flush=True,
            )

    def _measure(self, epoch, logs):
        test = self._evaluation.run()
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
            "test_top5_error": test.top5_error,
            "penalty_weight": penalty_weight(self.model) * self.batches.num_examples,
            "sparsity": table.sparsity,
            "compression": table.compression,
        }
        row.update({f"sparsity/{weight.name}": weight.sparsity for weight in table.rows})
        thresholds = {weight.name: weight.threshold for weight in table.rows if weight.threshold is not None}
        row.update({f"threshold/{name}": float(np.mean(threshold)) for name, threshold in thresholds.items()})
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


def write_rows(path, rows, append=False):
    """Writes or appends dicts as rows of a CSV file; no rows remove it."""
    if not rows and not append:
        os.remove(path)
        return
    with open(path, "a" if append else "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        if not append:
            writer.writeheader()
        writer.writerows(rows)
