"""The one way to train: a recipe and a task become a run in a folder, prepared, fitted and reported on.

`prepare` checks everything that the user could have got wrong. `train` then calls `fit` (nothing else in the package
does) and reports. `task.py` says what a program must supply.
"""

import contextlib
import dataclasses
import json
import math
import os
import sys
import warnings

import keras
import numpy as np

from sparsity_tf import deploy, inspection
from sparsity_tf.bounded_files import one_line
from sparsity_tf.callbacks import SparsityMonitor
from sparsity_tf.datasets.batches import first_of
from sparsity_tf.train import folder_lock, log, run_folder, sparsity_settings, technique
from sparsity_tf.train.strategy import distribute, get_strategy, is_chief, prepare_for_workers


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A run that is ready to train: everything that the user could have got wrong is checked.

    Attributes:
        task: The `Task`.
        recipe: The recipe.
        output_dir: Folder of the run.
        batches: The data.
        model: The compiled model, restored from the checkpoint if the run is resumed.
        algorithm: The callback that moves masks, or `None`.
        epochs: Number of epochs of the whole run.
        done: Number of epochs already done.
        steps: Steps an epoch.
        strategy: The `tf.distribute` strategy, or what stands for it on other backends.
        lock: The `FolderLock` on `output_dir`, or `None` for a worker that writes nothing.
    """

    task: object
    recipe: object
    output_dir: str
    batches: object
    model: object
    algorithm: object
    epochs: int
    done: int
    steps: int
    strategy: object
    lock: object

    @property
    def chief(self):
        """Whether this process writes the run's files."""
        return is_chief(self.strategy)

    @property
    def bar(self):
        """Whether Keras's progress bar is shown, in the place of a printed line an epoch."""
        return sys.stdout.isatty() and self.chief

    def validation(self):
        """The held-out data for `fit` and `evaluate`; `None` if the task does not validate."""
        if not self.task.validates:
            return None
        if self.strategy.num_replicas_in_sync == 1:
            return self.batches.validation()
        return self.strategy.distribute_datasets_from_function(self.batches.validation)


@dataclasses.dataclass(frozen=True)
class RunResult:
    """What a run came to.

    Attributes:
        line: The last line that the run prints.
        collapsed: What is wrong with the network, or `None`.
        results: Dict of what `results.json` holds: the task's figures, and of a sound network its sparsity.
    """

    line: str
    collapsed: object
    results: dict


def prepare(task, recipe, output_dir, resume=False, overwrite=False):
    """Opens the data, makes or restores the model and claims the folder.

    Args:
        task: A `Task`.
        recipe: A recipe of its program.
        output_dir: Folder of the run; made if missing.
        resume: Continue the run in `output_dir` after its last checkpoint, with the `data_dir` of that run if the
            recipe has none; a run that has no checkpoint yet begins anew.
        overwrite: Remove the run that `output_dir` holds, finished or not.

    Returns:
        `Prepared`, for `train`.

    Raises:
        ValueError: A setting that can't be used, data with errors, `output_dir` holds a run and neither flag is given,
            or the run to continue had other settings or data.
        FileNotFoundError: The data are not there.
        ModuleNotFoundError: A package that the data need is not installed.
    """
    strategy = get_strategy(recipe.strategy)
    replicas = strategy.num_replicas_in_sync
    task.check(recipe, replicas)
    keras.utils.set_random_seed(recipe.seed)
    if resume:
        recipe = run_folder.with_data_of_run(output_dir, recipe)
    batches, identity = task.open_data(recipe, output_dir, resume, replicas)
    steps = task.steps_per_epoch(recipe, batches)
    lock = None
    with precision(recipe), strategy.scope():
        rehearse(task, recipe, batches)
        keras.utils.set_random_seed(recipe.seed)
        model, done = task.make_model(recipe, batches), 0
        algorithm = make_algorithm(task, recipe, batches, output_dir)
        # Lottery tickets know how many epochs all rounds take.
        epochs = getattr(algorithm, "total_steps", recipe.epochs * steps) // steps
        if is_chief(strategy):
            lock = claim_folder(output_dir, recipe, resume, overwrite, identity)
            task.keep_data(batches, output_dir)
            print(f"data: {batches.source}")
            _warn_of_shortfall(recipe, algorithm, steps)
        if resume:
            restored, done = run_folder.restore(output_dir, steps)
            model = restored or model
            count = f"{done * steps:,}" if task.unit == "step" else done
            print(f"resuming after {task.unit} {count}" if done else "no checkpoint yet: starting anew")
        if not done:
            grid = sparsity_settings.update_grid(recipe, algorithm, steps)
            compile_model(task, recipe, model, batches, grid)
            if recipe.keep_initial and is_chief(strategy):
                run_folder.save_without_optimizer(model, os.path.join(output_dir, run_folder.INITIAL))
    print(
        f"{task.introduction(recipe, batches, model)}, technique {recipe.technique}; "
        f"XLA {'on' if model.jit_compile else 'off'}, {model.steps_per_execution} steps a call"
        + (f", {replicas} replicas" if replicas > 1 else ""),
        flush=True,
    )
    return Prepared(task, recipe, output_dir, batches, model, algorithm, epochs, done, steps, strategy, lock)


@contextlib.contextmanager
def precision(recipe):
    """Keras's global precision policy, the recipe's while its network is made."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(recipe.dtype_policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def rehearse(task, recipe, batches):
    """Prepares the recipe's algorithm on a network of its own: what does not fit is an error now, and not in `fit`.

    Raises:
        ValueError: The optimizer, the layers or the length of the training do not suit the algorithm.
    """
    algorithm = make_algorithm(task, recipe, batches)
    if algorithm is None:
        return
    steps = task.steps_per_epoch(recipe, batches)
    technique.check_begin(recipe, algorithm, steps)
    # The network that is trained gives the same warnings.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model = task.make_model(recipe, batches)
        compile_model(task, recipe, model, batches)
        with sparsity_settings.recipe_names(recipe):
            algorithm.prepare(model, recipe.epochs, steps)
    algorithm.detach()


def make_algorithm(task, recipe, batches, folder=None):
    """The recipe's algorithm that moves masks, a callback, or `None`; `folder` as for `sparsity_settings.make`."""
    steps = task.steps_per_epoch(recipe, batches)
    return sparsity_settings.make(recipe, steps, lambda: task.first_batch(batches), folder)


def compile_model(task, recipe, model, batches, grid=None):
    """Compiles a fresh model.

    Args:
        task: The `Task`.
        recipe: The recipe.
        model: Its network.
        batches: Its data.
        grid: Divisor of the steps an epoch that the number of steps in one call of the compiled function should divide,
            unless the recipe says that number.
    """
    steps = task.steps_per_epoch(recipe, batches)
    model.compile(
        **task.objective(recipe, batches),
        jit_compile=task.choose_jit_compile(recipe, model),
        steps_per_execution=task.choose_steps_per_execution(
            recipe, steps if recipe.steps_per_execution else grid or steps
        ),
    )


def claim_folder(folder, recipe, resume, overwrite, data):
    """Makes the folder of a run ready, as `run_folder.claim_folder` does, and keeps other processes out of it.

    A run that is continued waits for its predecessor, whose process may still be dying.

    Returns:
        `FolderLock`. `report` releases it, or the end of the process.

    Raises:
        ValueError: Another process uses the folder, or as of `run_folder.claim_folder`.
    """
    os.makedirs(folder, exist_ok=True)
    lock = folder_lock.FolderLock(folder, folder_lock.WAIT_SECONDS if resume else 0)
    try:
        run_folder.claim_folder(folder, recipe, resume, overwrite, data)
    except BaseException:
        lock.release()
        raise
    return lock


def _warn_of_shortfall(recipe, algorithm, steps):
    """Says what a run is too short for, and keeps its algorithm from saying so once more."""
    message = technique.shortfall(recipe, algorithm, steps)
    if message:
        log.warn(message)
        if algorithm is not None:
            algorithm.warns_at_start = False


def train(prepared):
    """Trains a prepared run to its end and reports on it.

    Written into the folder: `recipe.json`, `metrics.csv`, `tensorboard/`, `checkpoint.keras` after every epoch, with an
    algorithm that moves masks `sparsity_by_step.csv` (what it dropped and grew, a row a weight and epoch), and at the
    end `results.json`, `sparsity.csv` and `model.keras`, the trained network without the optimizer (`import
    sparsity_tf` is all that loading it needs); `initial.keras` and `best.keras` if the recipe says so; and the task's
    own files. Of several workers the first writes. Two runs of a recipe, or one run and its continuation after a kill,
    give bit-identical weights on a CPU.

    Args:
        prepared: What `prepare` returned.

    Returns:
        `RunResult`. Its `line` has been printed last.
    """
    if prepared.recipe.strategy == "multiworker":
        prepare_for_workers(prepared.model, first_of(prepared.batches.train()))
    diverged = prepared.done < prepared.epochs and fit(prepared)
    return report(prepared, diverged)


def fit(prepared):
    """Trains a prepared run from its last checkpoint to its end.

    A network whose numbers are not finite makes algorithms fail that rank weights or gradients: training ends there, as
    it does at the end of an epoch whose loss is not finite, and the report says what happened.

    Returns:
        Bool: whether the run diverged in the middle of an epoch, of which no row is written.
    """
    model, batches = prepared.model, prepared.batches
    with getattr(batches, "naming_errors", contextlib.nullcontext)():
        callbacks = _callbacks(prepared)
        data = distribute(prepared.strategy, batches, prepared.done * prepared.steps)
        try:
            model.fit(
                data,
                epochs=prepared.epochs,
                initial_epoch=prepared.done,
                steps_per_epoch=prepared.steps,
                validation_data=prepared.validation(),
                shuffle=False,  # the pipeline shuffles
                callbacks=callbacks,
                verbose=1 if prepared.bar else 0,
            )
        except (ValueError, ArithmeticError):
            if _is_finite(model):
                raise
            return True
    return False


def _callbacks(prepared):
    task, recipe, folder, done = prepared.task, prepared.recipe, prepared.output_dir, prepared.done
    penalty_examples = task.penalty_examples(recipe, prepared.batches)
    callbacks, monitor = technique.penalty_callbacks(recipe, penalty_examples, prepared.steps), None
    if prepared.algorithm is not None:
        callbacks.append(prepared.algorithm)
        if prepared.chief:
            monitor = SparsityMonitor(os.path.join(folder, run_folder.SPARSITY_BY_STEP))
            callbacks.append(monitor)
    callbacks.append(
        task.log(
            folder,
            prepared.epochs,
            penalty_examples,
            every=recipe.log_every,
            first_epoch=done,
            print_lines=not prepared.bar,
            writes=prepared.chief,
            batches=prepared.batches,
            monitor=monitor,
        )
    )
    if not prepared.chief:
        return callbacks
    if recipe.keep_best:
        settled = -(-technique.settled_from(recipe, prepared.algorithm, prepared.steps) // prepared.steps)
        lowest = log.lowest_error(folder, task.error, settled)
        callbacks.append(run_folder.Best(folder, task.error, lowest, settled))
    return [*callbacks, *task.more_callbacks(prepared), run_folder.Checkpoint(folder)]


def _is_finite(model):
    """Whether all weights, and what the optimizer remembers of them, are finite."""
    variables = [*model.variables, *model.optimizer.variables]
    arrays = (keras.ops.convert_to_numpy(v) for v in variables if "float" in keras.backend.standardize_dtype(v.dtype))
    return all(np.isfinite(array.astype("float32", copy=False)).all() for array in arrays)


def report(prepared, diverged):
    """Measures the network of a run that has come to its end, prints the last lines and writes the last files.

    A broken network has no sparsity worth reporting: comparisons with NaN are false, so a diverged SparseVD net would
    read "100 % sparse".

    Args:
        prepared: The run.
        diverged: Whether training broke off in the middle of an epoch.

    Returns:
        `RunResult`.
    """
    task, model, folder = prepared.task, prepared.model, prepared.output_dir
    table = inspection.sparsity_table(model, include_dense=True)
    rows = log.rows_of(prepared)
    # Without rows (the file was lost) the network's weights and outputs have to do.
    loss = math.nan if diverged else float(rows[-1]["loss"]) if rows else 0.0
    findings = task.examine(prepared, table, loss)
    results = {
        "recipe": run_folder.as_plain(prepared.recipe),
        "data": prepared.batches.source,
        f"{task.unit}s": int(rows[-1][task.unit]) if rows else 0,
        "training_seconds": round(sum(float(row["seconds"]) for row in rows), 2),
        "collapsed": findings.collapsed,
        **findings.results,
        "keras": keras.__version__,
    }
    line = findings.line
    if not findings.collapsed:
        line = f"{line}, sparsity {100 * table.sparsity:.2f} %, compression {table.compression:.1f}x"
        results["sparsity"] = table.sparsity
        results["sparsity_of_sparse_weights"] = table.sparsity_of_sparse_weights
        results["compression"] = table.compression
        results["layers"] = {row.name: row.sparsity for row in table.rows}
    result = RunResult(line, findings.collapsed, results)
    if not prepared.chief:
        return result
    if not findings.collapsed:
        table.to_csv(os.path.join(folder, run_folder.SPARSITY))
        print(f"\n{table}")
        run_folder.save_without_optimizer(model, os.path.join(folder, run_folder.MODEL))
    files = task.finish(prepared, findings)
    with run_folder.writing(os.path.join(folder, run_folder.RESULTS)) as file:
        json.dump(results, file, indent=2, ensure_ascii=False)
    if files:
        print(f"in {folder}: {', '.join(files)}")
    if not findings.collapsed:
        print(_shipping(model))
    print(f"training took {results['training_seconds']:.0f} s")
    print(line, flush=True)
    prepared.lock.release()
    return result


def _shipping(model):
    """What shipping the network would gain, a line. The files are written: nothing that fails here may end the run."""
    try:
        return deploy.shipping_gain(model)
    except Exception as error:  # The layers of a network may be anybody's.
        return f"shipping: not known: {one_line(error)}"
