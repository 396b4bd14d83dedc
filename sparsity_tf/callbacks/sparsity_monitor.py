"""Records how sparse a model is while it trains: TensorBoard scalars, a CSV file, tables."""

import csv
import errno
import os

import keras
import numpy as np
from keras import ops

from sparsity_tf.bounded_files import DamagedFileError, read_figures
from sparsity_tf.call_repr import CallRepr
from sparsity_tf.callbacks.base import train_function
from sparsity_tf.callbacks.base.configured import Configured
from sparsity_tf.callbacks.base.copying import Copyable
from sparsity_tf.checks import check_bool, check_choice, check_integer, check_path
from sparsity_tf.extras import import_optional
from sparsity_tf.layers import get_sparse_weights
from sparsity_tf.masks import packed_bits
from sparsity_tf.type_names import PathLike

COLUMNS = (
    "epoch",
    "step",
    "weight",
    "size",
    "nonzeros",
    "sparsity",
    "threshold",
    "drop_fraction",
    "dropped",
    "grown",
    "mask_change",
)
_TOTAL = "total"
# The column that `explored=True` adds.
_EXPLORED = "explored"


class SparsityMonitor(CallRepr, Configured, Copyable, keras.callbacks.Callback):
    """Records the sparsity of every sparse weight, of any technique.

    A record has a row for each weight and a row for the total. A row holds the numbers of entries and non-zeros; the
    sparsity; the threshold of the technique (the mean of several) or of the algorithm; the algorithm's drop fraction;
    the numbers of entries that algorithms dropped and grew since the last record; and the share of entries whose mask
    has changed since the last record. Cells that do not apply stay empty, such as what was dropped and grown of tied
    channels, which an algorithm counts by channel (`algorithm.dropped`). The monitor may stand anywhere among the
    callbacks.

    With `explored`, rows of weights whose masks an algorithm changes also hold the share of entries that have been live
    at any time: the in-time over-parameterization rate R_s of ITOP (Liu et al., arXiv 2102.02887). Masks count between
    records, too. The entries are saved with the model (one bit each, in packs of 48 bits in a float64), so a resumed
    run goes on with them, and so does a second training of the same model.

    Args:
        csv_path: Path of a CSV file with the columns `COLUMNS`. A resumed run (`initial_epoch`, `BackupAndRestore`)
            keeps the rows of earlier steps and appends to them.
        log_dir: Folder for TensorBoard: `sparsity/<weight>`, `threshold/<weight>`, ... over the optimizer's step.
        every: "epoch", or an integer >= 1: steps between records.
        verbose: 1 prints `sparsity_table(model)` when training ends, 2 prints it after every record.
        explored: Bool; whether there is a column `explored`.

    Raises:
        ValueError: For any other argument; at the start of training, if the model has no sparse weights, or if the CSV
            file to continue is damaged. (A last line that was cut off is no damage: it is left out.)
        OSError: At the start of training, if the CSV file can't be read or written.

    Example:

    ```python
    model = sparsity_tf.sparsify(model, "masked")
    monitor = sparsity_tf.callbacks.SparsityMonitor("sparsity.csv", every=4)
    model.fit(x, y, callbacks=[sparsity_tf.callbacks.MagnitudePruning(0.9, frequency=2), monitor])
    ```
    """

    def __init__(
        self,
        csv_path: PathLike | None = None,
        log_dir: PathLike | None = None,
        every: int | str = "epoch",
        verbose: int = 0,
        explored: bool = False,
    ) -> None:
        super().__init__()
        for name, path in (("csv_path", csv_path), ("log_dir", log_dir)):
            if path is not None:
                check_path(name, path)
        if not (isinstance(every, str) and every == "epoch"):
            check_integer("every", every, 1)
        check_choice("verbose", verbose, (0, 1, 2))
        check_bool("explored", explored)
        self.csv_path, self.log_dir, self.every, self.verbose = csv_path, log_dir, every, verbose
        self.explored = explored
        self._columns = (*COLUMNS, _EXPLORED) if explored else COLUMNS
        # All rows of this run: a list of dicts from columns to values.
        self.rows = []
        self._epoch = self._steps_seen = self._recorded_at = 0
        vars(self).update(self._forget_model())

    def _forget_model(self):
        return {**super()._forget_model(), "_writer": None, "_masks": {}, "_moved": {}, "_started": False, "_grown": 0}

    def on_train_begin(self, logs: dict | None = None) -> None:
        self._started = False

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        # Start only now, when all algorithms have made their first masks and other callbacks have restored the model.
        # (If TensorFlow's `fit` builds the model, its first masks exist only after the first step.)
        if not self._started and self.model.built:
            self._start()

    def _start(self):
        self._started = True
        self.rows, self._writer, self._moved = [], None, {}
        weights = get_sparse_weights(self.model)
        if not weights:
            raise ValueError(
                "SparsityMonitor needs a model with sparse layers; `sparsity_tf.sparsify` makes them. "
                f"Received: model={self.model.name!r}"
            )
        # The keys are layers, because paths in nested models need not be distinct.
        self._masks = {_key(weight): ops.convert_to_numpy(weight.mask()) for weight in weights}
        self._steps_seen = self._recorded_at = self._step()
        if self.explored:
            self._explore()
        if self.csv_path:
            self._open_csv()
        if self.log_dir:
            tf = import_optional("tensorflow")

            self._writer = tf.summary.create_file_writer(os.fspath(self.log_dir))

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        if not self._started:
            self._start()
        # Masks change between calls of the compiled function, at most once for each call.
        if self.explored and self._count_grown() != self._grown:
            self._explore()
        if self.every == "epoch":
            return
        # `_steps_seen` is an upper bound of the optimizer's count. Read the count itself only when the bound says that
        # a record may be due, because reading waits for the device.
        self._steps_seen += self.model.steps_per_execution
        if self._steps_seen - self._recorded_at >= self.every:
            self._steps_seen = self._step()
            if self._steps_seen < self._recorded_at:  # A rewound run counts the same steps again.
                self._recorded_at = self._steps_seen - self._steps_seen % self.every
            if self._steps_seen - self._recorded_at >= self.every:
                self.record()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if self.every == "epoch":
            self.record()

    def on_train_end(self, logs: dict | None = None) -> None:
        if self._writer is not None:
            self._writer.close()
        if self.verbose == 1:
            self._print()

    def record(self) -> list[dict]:
        """Records the model as it is now.

        Returns:
            The rows: a list of dicts from columns to values.
        """
        step, algorithms = self._step(), train_function.algorithms(self.model)
        self._steps_seen = self._recorded_at = step
        rows = [self._row(weight, step, algorithms) for weight in get_sparse_weights(self.model)]
        rows.append(self._total(rows, step))
        self.rows.extend(rows)
        if self.csv_path:
            with open(self.csv_path, "a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns).writerows(rows)
        if self._writer is not None:
            self._write_scalars(rows, step)
        if self.verbose == 2:
            self._print()
        return rows

    def _count_grown(self):
        return sum(sum(algorithm.grown.values()) for algorithm in train_function.algorithms(self.model))

    def _explore(self):
        """Adds the live entries of the present masks to the explored ones."""
        self._grown = self._count_grown()
        # The parts: an algorithm that prunes channels counts by channel, and changes the masks of kernels.
        moved = {_key(part) for algorithm in train_function.algorithms(self.model) for part in algorithm.parts}
        for weight in get_sparse_weights(self.model):
            if _key(weight) in moved:
                explored, before = ops.convert_to_numpy(weight.mask()), _explored(weight)
                if before is not None:
                    explored = explored | before
                weight.technique.states[f"{_EXPLORED}_{weight.name}"] = packed_bits.pack(explored)

    def _row(self, weight, step, algorithms):
        value, mask = ops.convert_to_numpy(weight.value()), ops.convert_to_numpy(weight.mask())
        nonzeros = int(np.count_nonzero(value))
        before = self._masks.get(_key(weight), mask)
        self._masks[_key(weight)] = mask
        row = {
            "epoch": self._epoch,
            "step": step,
            "weight": weight.path,
            "size": weight.size,
            "nonzeros": nonzeros,
            "sparsity": 1 - nonzeros / weight.size if weight.size else 0.0,
            "mask_change": float(np.mean(before != mask)) if mask.size else 0.0,
        }
        if self.explored and (explored := _explored(weight)) is not None:
            row[_EXPLORED] = float(np.mean(explored))
        threshold = weight.threshold()
        if threshold is not None:
            row["threshold"] = float(np.mean(threshold))
        for algorithm in algorithms:
            if weight.path in algorithm.dropped:
                row.update(self._of_algorithm(algorithm, weight.path, step))
        return row

    def _of_algorithm(self, algorithm, path, step):
        dropped, grown = algorithm.dropped[path], algorithm.grown[path]
        dropped_before, grown_before = self._moved.get((id(algorithm), path), (0, 0))
        self._moved[id(algorithm), path] = dropped, grown
        row = {"dropped": dropped - dropped_before, "grown": grown - grown_before}
        if hasattr(algorithm, "drop_fraction_at"):
            row["drop_fraction"] = algorithm.drop_fraction_at(step)
        if "threshold" in algorithm.state_fields:
            row["threshold"] = algorithm.recall()["threshold"]
        return row

    def _total(self, rows, step):
        size, nonzeros = sum(row["size"] for row in rows), sum(row["nonzeros"] for row in rows)
        total = {
            "epoch": self._epoch,
            "step": step,
            "weight": _TOTAL,
            "size": size,
            "nonzeros": nonzeros,
            "sparsity": 1 - nonzeros / size if size else 0.0,
            "mask_change": sum(row["mask_change"] * row["size"] for row in rows) / size if size else 0.0,
        }
        for name in ("dropped", "grown"):
            if any(name in row for row in rows):
                total[name] = sum(row.get(name, 0) for row in rows)
        explored = [row for row in rows if _EXPLORED in row]
        if explored:
            live = sum(row[_EXPLORED] * row["size"] for row in explored)
            total[_EXPLORED] = live / sum(row["size"] for row in explored)
        return total

    def _open_csv(self):
        kept, step = [], self._step()
        if (step or self._epoch) and os.path.exists(self.csv_path):
            kept = self._earlier(self._read_csv(), step)
        if os.path.isdir(self.csv_path):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(self.csv_path))
        # Write under another name first: a process that is killed here must not lose the earlier rows.
        unfinished = f"{self.csv_path}.unfinished"
        with open(unfinished, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(kept)
        os.replace(unfinished, self.csv_path)

    def _read_csv(self):
        try:
            header, rows = read_figures(self.csv_path, ("epoch", "step", "size", "nonzeros"), ("weight",))
            if header != list(self._columns):
                raise DamagedFileError(self.csv_path, f"its columns must be {', '.join(self._columns)}")
        except DamagedFileError as error:
            raise ValueError(
                f"{error} Correct the file, or remove it: the monitor then starts a new file without the earlier "
                "records."
            ) from error
        return rows

    def _earlier(self, rows, step):
        """The rows that were recorded before the present step of the present epoch."""
        # Keep all rows of earlier epochs, whatever their steps: a rewound run counts the same steps again.
        earlier = [row for row in rows if int(row["epoch"]) < self._epoch]
        # For the same reason a row of this epoch with a low step may be a later row. Steps rise only until a rewind.
        last = int(earlier[-1]["step"]) if earlier else -1
        within = [row for row in rows if int(row["epoch"]) == self._epoch or not self._epoch]
        return earlier + [row for row in within if last < int(row["step"]) <= step]

    def _write_scalars(self, rows, step):
        with self._writer.as_default(step=step):
            for row in rows:
                for name in self._columns[5:]:
                    if name in row:
                        write_scalar(f"{name}/{row['weight']}", row[name], step)
        self._writer.flush()

    def _print(self):
        from sparsity_tf import inspection

        print(f"\n{inspection.sparsity_table(self.model)}")

    def _step(self):
        optimizer = getattr(self.model, "optimizer", None)
        return 0 if optimizer is None else int(ops.convert_to_numpy(optimizer.iterations))


def _key(weight):
    return id(weight.layer), weight.name


def _explored(weight):
    """The entries of a weight that have been live while a monitor watched them, a bool array; `None` if none did."""
    numbers = getattr(weight.technique, "states", {}).get(f"{_EXPLORED}_{weight.name}")
    if numbers is None or len(numbers) != packed_bits.length(weight.size):
        return None
    return packed_bits.unpack(numbers, tuple(weight.shape))


def write_scalar(name, value, step):
    """Does the work of `tf.summary.scalar`, which would need the package tensorboard for these few lines."""
    tf = import_optional("tensorflow")

    metadata = tf.compat.v1.SummaryMetadata()
    metadata.plugin_data.plugin_name = "scalars"
    metadata.data_class = 1  # DATA_CLASS_SCALAR
    tf.summary.write(name, tf.constant(value, tf.float32), step=step, metadata=metadata)
