"""The figures of a run: after each epoch, a CSV row, TensorBoard scalars and a printed line show the same figures.

The callback `EpochLog` writes them. Each task has a subclass that defines the figures.
"""

import csv
import importlib.util
import math
import os
import sys
import time

import keras
import numpy as np

from sparsity_tf import inspection, layers
from sparsity_tf.bounded_files import DamagedFileError, read_figures
from sparsity_tf.callbacks.sparsity_monitor import write_scalar
from sparsity_tf.train import run_folder

# Columns that the final report needs.
_REPORTED = ("step", "seconds", "loss")


def warn(message):
    """Warns on standard error of something that the user may not have intended."""
    print(f"warning: {message}", file=sys.stderr)


def sparsity_of(row):
    """A row's sparsity in words: of all kernels, and also of the sparse weights alone if that differs."""
    text, of_sparse_weights = f"sparsity {100 * row['sparsity']:.2f} %", row.get("sparsity_of_sparse_weights")
    if of_sparse_weights in (None, row["sparsity"]):
        return text
    return f"{text} ({100 * of_sparse_weights:.2f} % of the sparse weights)"


def penalty_weight(model):
    """The largest `penalty_weight` of the model's layers; 0 if no layer has one."""
    weights = layers.get_penalty_weights(model)
    return max((float(keras.ops.convert_to_numpy(weight)) for weight in weights), default=0.0)


class EpochLog(keras.callbacks.Callback):
    """Writes the figures of each epoch to several places. A subclass defines `figures`, and the printed `line`.

    The places are `metrics.csv` (the same columns in every row; fractions, not percent), TensorBoard scalars, the logs
    that Keras's progress bar shows, and, without a progress bar, one printed line. Training stops at the first epoch
    whose loss is not finite. `learning_rate` is the schedule's value at the row's `step`. `sparsity` counts all
    kernels, and `sparsity_of_sparse_weights` the weights of sparse layers alone; the second column exists only if there
    are such layers.

    Args:
        folder: Folder of the run.
        epochs: Number of epochs of the whole run.
        penalty_examples: Factor of the column `penalty_weight`. The column is the layers' variable times this number,
            which is the recipe's weight times the ramp.
        every: Epochs between rows; the last epoch always has a row.
        first_epoch: Number of epochs done before this process. Later rows in `metrics.csv`, from an epoch that was cut
            off before its checkpoint, are dropped.
        print_lines: Whether to print a line for each row.
        writes: Whether to write at all. Of several workers only one writes, but all take part in measuring.
        batches: The run's data, for a subclass that measures on them.
        monitor: A `SparsityMonitor` that stands before this callback, for a subclass that reads it, or `None`.
    """

    # The column that TensorBoard uses as its step: "epoch" or "step".
    axis = "step"
    # Columns that are added to the epoch's logs, for the progress bar and for callbacks after this one.
    shown = ()

    def __init__(
        self,
        folder,
        epochs,
        penalty_examples,
        every=1,
        first_epoch=0,
        print_lines=True,
        writes=True,
        batches=None,
        monitor=None,
    ):
        super().__init__()
        self.path = os.path.join(folder, run_folder.METRICS)
        self.tensorboard = os.path.join(folder, run_folder.TENSORBOARD)
        self.epochs = epochs
        self.penalty_examples = penalty_examples
        self.every = every
        self.print_lines = print_lines
        self.writes = writes
        self.batches = batches
        self.monitor = monitor
        self._seconds = 0.0
        self._writer = None
        # The columns of an existing file, to which rows are added; `None` if there is no file.
        self._columns = None
        if writes:
            self._keep(folder, first_epoch)

    def _keep(self, folder, first_epoch):
        """Keeps the rows of the epochs that are done, and warns if some are missing."""
        last = 0
        if os.path.exists(self.path):
            # A run that begins anew keeps no row of the file.
            rows = read_metrics(folder, _REPORTED) if first_epoch else []
            rows = [row for row in rows if int(row["epoch"]) <= first_epoch]
            write_rows(self.path, rows)
            if rows:
                self._columns, last = list(rows[0]), int(rows[-1]["epoch"])
        if first_epoch - last >= self.every:
            _warn_of_lost_rows(folder, last, first_epoch)

    def figures(self, logs):
        """The columns of the subclass: a dict of numbers."""
        raise TypeError(f"{type(self).__name__} must define `figures(logs)`.")

    def line(self, row):
        """The printed line."""
        raise TypeError(f"{type(self).__name__} must define `line(row)`.")

    def more_scalars(self, row):
        """Scalars for TensorBoard that are not columns: pairs (name, number)."""
        return ()

    def on_train_begin(self, logs=None):
        # With another backend TensorFlow may be missing. Then only `metrics.csv` has the figures.
        if self.writes and importlib.util.find_spec("tensorflow"):
            import tensorflow as tf

            self._writer = tf.summary.create_file_writer(self.tensorboard)

    def on_train_end(self, logs=None):
        if self._writer is not None:
            self._writer.close()

    def on_epoch_begin(self, epoch, logs=None):
        self._begin, self._trained = time.perf_counter(), None

    def on_test_begin(self, logs=None):
        self._trained = time.perf_counter()  # the seconds of training must not include validation

    def on_epoch_end(self, epoch, logs=None):
        logs = {} if logs is None else logs
        self._seconds += (self._trained or time.perf_counter()) - self._begin
        broken = not np.isfinite(logs["loss"])
        if broken:
            self.model.stop_training = True
        if (epoch + 1) % self.every and epoch + 1 != self.epochs and not broken:
            return
        row = self._row(epoch, logs)
        logs.update({name: row[name] for name in (*self.shown, "sparsity")})
        if not self.writes:
            return
        self._add(row)
        if self._writer is not None:
            self._write_scalars(row)
        if self.print_lines:
            print(self.line(row), flush=True)

    def _add(self, row):
        append = os.path.exists(self.path)
        if append and self._columns not in (None, list(row)):
            missing = [name for name in row if name not in self._columns]
            unknown = [name for name in self._columns if name not in row]
            what = f"missing: {', '.join(missing) or 'none'}; unknown: {', '.join(unknown) or 'none'}"
            raise _damaged(
                DamagedFileError(self.path, f"its columns must be the columns of this run, in the same order ({what})")
            )
        write_rows(self.path, [row], append=append)
        self._columns = list(row)

    def _write_scalars(self, row):
        scalars = [(name, value) for name, value in row.items() if name not in ("epoch", "step")]
        with self._writer.as_default():
            for name, value in (*scalars, *self.more_scalars(row)):
                write_scalar(name, value, row[self.axis])
        self._writer.flush()

    def _row(self, epoch, logs):
        table = inspection.sparsity_table(self.model, include_dense=True)
        of_sparse_weights = {"sparsity_of_sparse_weights": table.sparsity_of_sparse_weights}
        if table.sparsity_of_sparse_weights is None:
            of_sparse_weights = {}
        row = {
            "epoch": epoch + 1,
            "step": int(keras.ops.convert_to_numpy(self.model.optimizer.iterations)),
            "seconds": round(self._seconds, 4),
            "learning_rate": float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)),
            "loss": float(logs["loss"]),
            **self.figures(logs),
            "penalty_weight": penalty_weight(self.model) * self.penalty_examples,
            "sparsity": table.sparsity,
            **of_sparse_weights,
            "compression": table.compression,
        }
        row.update({f"sparsity/{weight.name}": weight.sparsity for weight in table.rows})
        thresholds = {weight.name: weight.threshold for weight in table.rows if weight.threshold is not None}
        row.update({f"threshold/{name}": float(np.mean(threshold)) for name, threshold in thresholds.items()})
        self._seconds = 0.0
        return row


def read_metrics(folder, needed=()):
    """The rows of a run's `metrics.csv` as dicts of strings; an empty list if there is no file.

    A last line that was cut off, by a kill or a full disk, is ignored.

    Args:
        folder: Folder of the run.
        needed: Names of columns, beside `epoch`, that hold a number in each row.

    Raises:
        ValueError: The file is damaged. The message names it and the line, and says how to go on.
        OSError: The file can't be read.
    """
    path = os.path.join(folder, run_folder.METRICS)
    if not os.path.exists(path):
        return []
    try:
        _, rows = read_figures(path, ("epoch",), needed=needed)
        epochs = [int(row["epoch"]) for row in rows]
        if epochs != sorted(set(epochs)):
            raise DamagedFileError(path, "its epochs do not rise from row to row")
    except DamagedFileError as error:
        raise _damaged(error) from error
    return rows


def rows_of(prepared):
    """The rows of a finished run, for the report; `prepared` is its `trainer.Prepared`.

    Raises:
        ValueError, OSError: As for `read_metrics`.
    """
    rows = read_metrics(prepared.output_dir, _REPORTED)
    last = int(rows[-1]["epoch"]) if rows else 0
    if prepared.chief and prepared.done >= prepared.epochs > last:
        _warn_of_lost_rows(prepared.output_dir, last, prepared.epochs)
    return rows


def _warn_of_lost_rows(folder, last, done):
    best = os.path.exists(os.path.join(folder, run_folder.BEST))
    compared = f", and {run_folder.BEST}, if it is chosen, is compared only with the other epochs" if best else ""
    warn(
        f"{os.path.join(folder, run_folder.METRICS)} has rows only up to epoch {last}, but {done} epochs are done: "
        f"{run_folder.RESULTS} leaves out the epochs without a row{compared}"
    )


def _damaged(error):
    """Makes the error for a damaged `metrics.csv`, which also says how to go on."""
    return ValueError(
        f"{error} Correct the file, or remove it: the run then continues without the figures of earlier epochs."
    )


def lowest_error(folder, metric, from_epoch):
    """The error of a run's `best.keras`: the lowest one from `from_epoch` on; infinity if there is no such file.

    Args:
        folder: Folder of the run.
        metric: Column of `metrics.csv`.
        from_epoch: As for `run_folder.Best`.

    Raises:
        ValueError, OSError: As for `read_metrics`.
    """
    if not os.path.exists(os.path.join(folder, run_folder.BEST)):
        return math.inf
    errors = [float(row[metric]) for row in read_metrics(folder, (metric,)) if int(row["epoch"]) >= from_epoch]
    return min((error for error in errors if not math.isnan(error)), default=math.inf)


def write_rows(path, rows, append=False):
    """Writes dicts atomically as the rows of a CSV file, or appends them. Writing no rows removes the file."""
    if not rows and not append:
        os.remove(path)
        return
    with open(path, "a", newline="", encoding="utf-8") if append else run_folder.writing(path) as file:
        writer = csv.DictWriter(file, list(rows[0]))
        if not append:
            writer.writeheader()
        writer.writerows(rows)
