"""A run in a folder, whatever is trained: what is ready before `fit`, and the report at its end."""

import contextlib
import dataclasses
import json
import os
import sys

import keras
import numpy as np

from sparsity_tf.callbacks import SparsityMonitor
from sparsity_tf.train import folder_lock, run_folder
from sparsity_tf.train.strategy import is_chief


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A run that is ready to train: everything that the user could have got wrong is checked.

    Attributes:
        recipe: The recipe.
        output_dir: Folder of the run.
        batches: The data.
        model: The compiled model, restored from the checkpoint if the run is resumed.
        algorithm: The callback that moves masks, or `None`.
        epochs: Number of epochs of the whole run.
        done: Number of epochs already done.
        steps: Steps an epoch.
        strategy: The `tf.distribute` strategy, or `None`.
        lock: The `FolderLock` on `output_dir`, or `None` for a worker that writes nothing.
    """

    recipe: object
    output_dir: str
    batches: object
    model: object
    algorithm: object
    epochs: int
    done: int
    steps: int
    strategy: object = None
    lock: object = None

    @property
    def chief(self):
        """Whether this process writes the run's files."""
        return self.strategy is None or is_chief(self.strategy)

    @property
    def bar(self):
        """Whether Keras's progress bar is shown, in the place of a printed line an epoch."""
        return sys.stdout.isatty() and self.chief

    def mask_callbacks(self):
        """The algorithm, and what writes down what it did: `(callbacks, SparsityMonitor or None)`."""
        if self.algorithm is None:
            return [], None
        if not self.chief:
            return [self.algorithm], None
        monitor = SparsityMonitor(os.path.join(self.output_dir, run_folder.SPARSITY_BY_STEP))
        return [self.algorithm, monitor], monitor


@contextlib.contextmanager
def precision(recipe):
    """Keras's global precision policy, the recipe's while its network is made."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(recipe.dtype_policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def fit(prepared, data, callbacks, validation_data=None):
    """Trains a prepared run from its last checkpoint to its end.

    A network whose numbers are not finite makes algorithms fail that rank weights or gradients: training ends there, as
    it does at the end of an epoch whose loss is not finite, and the report says what happened.

    Args:
        prepared: The run.
        data: What `Model.fit` trains on.
        callbacks: List of Keras callbacks.
        validation_data: What `Model.fit` validates on.

    Returns:
        Bool: whether the run diverged in the middle of an epoch, of which no row is written.
    """
    model = prepared.model
    try:
        model.fit(
            data,
            epochs=prepared.epochs,
            initial_epoch=prepared.done,
            steps_per_epoch=prepared.steps,
            validation_data=validation_data,
            shuffle=False,  # the pipeline shuffles
            callbacks=callbacks,
            verbose=1 if prepared.bar else 0,
        )
    except (ValueError, ArithmeticError):
        if _is_finite(model):
            raise
        return True
    return False


def _is_finite(model):
    """Whether all weights, and what the optimizer remembers of them, are finite."""
    variables = [*model.variables, *model.optimizer.variables]
    arrays = (keras.ops.convert_to_numpy(v) for v in variables if "float" in keras.backend.standardize_dtype(v.dtype))
    return all(np.isfinite(array.astype("float32", copy=False)).all() for array in arrays)


def claim_folder(folder, recipe, resume, overwrite, data):
    """Makes the folder of a run ready, as `state.claim_folder` does, and keeps other processes out of it.

    A run that is continued waits for its predecessor, whose process may still be dying.

    Returns:
        `FolderLock`. `conclude` releases it, or the end of the process.

    Raises:
        ValueError: Another process uses the folder, or as of `state.claim_folder`.
    """
    os.makedirs(folder, exist_ok=True)
    lock = folder_lock.FolderLock(folder, folder_lock.WAIT_SECONDS if resume else 0)
    try:
        run_folder.claim_folder(folder, recipe, resume, overwrite, data)
    except BaseException:
        lock.release()
        raise
    return lock


def always_compiles():
    """Whether XLA compiles whatever is trained: on a GPU, and on backends that know no other way."""
    if keras.backend.backend() != "tensorflow":
        return True
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


def warn(message):
    """Says on standard error what the user may not have meant; nothing for `None`."""
    if message:
        print(f"warning: {message}", file=sys.stderr)


def warn_of_shortfall(message, algorithm):
    """Says what a run is too short for, and keeps its algorithm from saying so once more.

    Args:
        message: What `techniques.shortfall` returned, `None` for nothing.
        algorithm: The callback that moves masks, or `None`.
    """
    warn(message)
    if message and algorithm is not None:
        algorithm.warns_at_start = False


def largest_divisor(number, limit):
    """The largest divisor of `number` up to `limit`, at least 1."""
    return max(k for k in range(1, min(limit, number) + 1) if number % k == 0)


def sparsity_results(table):
    """The entries of `results.json` that a sparsity table gives."""
    return {
        "sparsity": table.sparsity,
        "sparsity_of_sparse_weights": table.sparsity_of_sparse_weights,
        "compression": table.compression,
        "layers": {row.name: row.sparsity for row in table.rows},
    }


def sparsity_text(sparsity, of_sparse_weights):
    """Both sparsities of a network in words: of all kernels, and of the sparse weights where that is another.

    Args:
        sparsity: Fraction of zeros among all kernels.
        of_sparse_weights: Fraction of zeros among the sparse weights, or `None`.
    """
    text = f"sparsity {100 * sparsity:.2f} %"
    if of_sparse_weights in (None, sparsity):
        return text
    return f"{text} ({100 * of_sparse_weights:.2f} % of the sparse weights)"


def save_result(prepared, table):
    """Writes table and network of a sound run, and prints the table; the chief only."""
    table.to_csv(os.path.join(prepared.output_dir, run_folder.SPARSITY))
    print(f"\n{table}")
    run_folder.save_without_optimizer(prepared.model, os.path.join(prepared.output_dir, run_folder.MODEL))


def files_in(folder):
    """Names of what lies in a run's folder, in order, hidden files left out."""
    return sorted(name for name in os.listdir(folder) if not name.startswith("."))


def conclude(prepared, results, line, files):
    """Writes `results.json` and prints the last lines of a run.

    Args:
        prepared: The run.
        results: Dict for the file, with `training_seconds`.
        line: Last line of the output.
        files: Names of files to point to.
    """
    with run_folder.writing(os.path.join(prepared.output_dir, run_folder.RESULTS)) as file:
        json.dump(results, file, indent=2, ensure_ascii=False)
    if files:
        print(f"in {prepared.output_dir}: {', '.join(files)}")
    print(f"training took {results['training_seconds']:.0f} s")
    print(line, flush=True)
    prepared.lock.release()
