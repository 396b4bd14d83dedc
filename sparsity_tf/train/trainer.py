"""The trainer of all programs: makes a run in a folder from a recipe and a task, trains the network and reports on it.

`prepare` checks everything that the user could have got wrong. `train` then calls `fit` and writes the report. No other
module of the package calls `fit`. `task.py` defines the part that a program must supply.
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
from sparsity_tf.train import folder_lock, log, optimizers, run_folder, sparsity_settings, technique
from sparsity_tf.train.kept_checkpoints import KeptCheckpoints
from sparsity_tf.train.strategy import distribute, get_strategy, is_chief, prepare_for_workers, splits_data


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A run that is ready to train. Everything that the user could have got wrong has been checked.

    Attributes:
        task: The `Task`.
        recipe: The recipe.
        output_dir: Folder of the run.
        batches: The data.
        model: The compiled model, restored from the checkpoint if the run is resumed.
        algorithm: The callback that moves masks, or `None`.
        epochs: Number of epochs of the whole run.
        done: Number of epochs already done.
        steps: Number of steps in an epoch.
        strategy: The `tf.distribute` strategy, or on other backends `SingleDevice` or `DataParallel`.
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
        """Whether Keras's progress bar is shown instead of one printed line an epoch."""
        return sys.stdout.isatty() and self.chief

    @property
    def settled_epoch(self):
        """The number of epochs after which a model is final, and may be kept as `best.keras`."""
        return -(-technique.settled_from(self.recipe, self.algorithm, self.steps) // self.steps)

    def validation(self):
        """The held-out data for `fit` and `evaluate`; `None` if the task does not validate."""
        if not self.task.validates:
            return None
        if not splits_data(self.strategy):
            return self.batches.validation()
        return self.strategy.distribute_datasets_from_function(self.batches.validation)


@dataclasses.dataclass(frozen=True)
class RunResult:
    """The result of a run.

    Attributes:
        line: The last line that the run prints.
        collapsed: A sentence that says what is wrong with the network, or `None`.
        results: The content of `results.json`, a dict: the task's figures and, for a sound network, its sparsity.
    """

    line: str
    collapsed: object
    results: dict


def prepare(task, recipe, output_dir, resume=False, overwrite=False):
    """Opens the data, makes or restores the model and claims the folder.

    Args:
        task: A `Task`.
        recipe: A recipe of the task's program.
        output_dir: Folder of the run; it is made if missing.
        resume: Whether to continue the run in `output_dir` after its last checkpoint. If the recipe has no `data_dir`,
            it gets the `data_dir` of that run. A run that has no checkpoint yet begins anew.
        overwrite: Whether to remove the run that `output_dir` holds, finished or not.

    Returns:
        `Prepared`, for `train`.

    Raises:
        ValueError: A setting can't be used, the data have errors, `output_dir` holds a run and neither `resume` nor
            `overwrite` is true, or the run to continue had other settings or data.
        FileNotFoundError: The data are missing.
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
        # For lottery tickets the algorithm knows how many epochs all rounds take together.
        epochs = getattr(algorithm, "total_steps", recipe.epochs * steps) // steps
        if is_chief(strategy):
            lock = claim_folder(output_dir, recipe, resume, overwrite, identity)
            task.keep_data(batches, output_dir)
            print(f"data: {batches.source}")
            _warn_of_shortfall(recipe, algorithm, steps)
            if recipe.keep_best and task.error_of(recipe) is None:
                print(
                    f"{run_folder.BEST} will be the network of the last epoch: nothing is held out to choose a better "
                    "one by (validation_split=0), and the test set must not choose"
                )
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
    """A context that sets Keras's global precision policy to the recipe's, for making its network."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(recipe.dtype_policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def rehearse(task, recipe, batches):
    """Tries the recipe's algorithm on a network made for the trial, so that a misfit is an error now and not in `fit`.

    Raises:
        ValueError: The optimizer, the layers or the length of training do not suit the algorithm.
    """
    algorithm = make_algorithm(task, recipe, batches)
    technique.sparsity_callbacks(recipe)
    if algorithm is None:
        return
    steps = task.steps_per_epoch(recipe, batches)
    technique.check_begin(recipe, algorithm, steps)
    # The network of the run gives the same warnings later.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model = task.make_model(recipe, batches)
        compile_model(task, recipe, model, batches)
        with sparsity_settings.recipe_names(recipe):
            algorithm.prepare(model, recipe.epochs, steps)
    algorithm.detach()


def make_algorithm(task, recipe, batches, folder=None):
    """Makes the recipe's algorithm that moves masks, a callback, or `None`. `folder`: see `sparsity_settings.make`."""
    steps = task.steps_per_epoch(recipe, batches)
    return sparsity_settings.make(recipe, steps, lambda: task.first_batch(batches), folder)


def compile_model(task, recipe, model, batches, grid=None):
    """Compiles a fresh model.

    Args:
        task: The `Task`.
        recipe: The recipe.
        model: The recipe's network.
        batches: The recipe's data.
        grid: A divisor of the steps in an epoch. The number of steps in one call of the compiled function will divide
            it, unless the recipe sets that number.
    """
    steps = task.steps_per_epoch(recipe, batches)
    objective = task.objective(recipe, batches)
    objective["optimizer"] = optimizers.with_rate_of_technique(objective["optimizer"], recipe, model)
    model.compile(
        **objective,
        jit_compile=task.choose_jit_compile(recipe, model),
        steps_per_execution=task.choose_steps_per_execution(
            recipe, steps if recipe.steps_per_execution else grid or steps
        ),
    )


def claim_folder(folder, recipe, resume, overwrite, data):
    """Makes the folder of a run ready, as `run_folder.claim_folder` does, and keeps other processes out of it.

    A continued run waits for the process of the run before it, which may not have ended yet.

    Returns:
        `FolderLock`. `report` releases the lock, and so does the end of the process.

    Raises:
        ValueError: Another process uses the folder, or as for `run_folder.claim_folder`.
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
    """Warns if a run is too short for its schedule, and keeps the algorithm from warning a second time."""
    message = technique.shortfall(recipe, algorithm, steps)
    if message:
        log.warn(message)
        if algorithm is not None:
            algorithm.warns_at_start = False


def train(prepared):
    """Trains a prepared run to its end and reports on it.

    The run writes these files into its folder: `recipe.json`, `metrics.csv` and `tensorboard/`; after every epoch
    `checkpoint.keras`; with an algorithm that moves masks `sparsity_by_step.csv` (the numbers of dropped and grown
    entries, one row for each weight and epoch); at the end `results.json`, `sparsity.csv` and `model.keras`, the
    trained network without the optimizer (loading it needs only `import sparsity_tf`); `initial.keras` and `best.keras`
    if the recipe asks for them; and the task's own files. Of several workers only the first writes. On a CPU, two runs
    of a recipe, or a run and its continuation after a kill, give bit-identical weights.

    Args:
        prepared: The `Prepared` that `prepare` returned.

    Returns:
        `RunResult`. Its `line` is the last line that was printed.
    """
    if prepared.recipe.strategy == "multiworker":
        prepare_for_workers(prepared.model, first_of(prepared.batches.train()))
    diverged = prepared.done < prepared.epochs and fit(prepared)
    return report(prepared, diverged)


def fit(prepared):
    """Trains a prepared run from its last checkpoint to its end.

    If the network's numbers are not finite, algorithms that rank weights or gradients fail. Training then ends, as it
    does after an epoch whose loss is not finite, and the report says what happened.

    Returns:
        Bool: whether the run diverged in the middle of an epoch. `metrics.csv` has no row for this epoch.
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
                shuffle=False,  # the data are already shuffled
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
    callbacks += technique.sparsity_callbacks(recipe)
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
        settled = prepared.settled_epoch
        error = task.error_of(recipe)
        lowest = log.lowest_error(folder, error, settled) if error else math.inf
        callbacks.append(run_folder.Best(folder, error, lowest, settled))
    kept = None
    if recipe.save_every:
        kept = KeptCheckpoints(folder, recipe.save_every, recipe.keep_checkpoint_max, done)
    return [*callbacks, *task.more_callbacks(prepared), run_folder.Checkpoint(folder, kept)]


def _is_finite(model):
    """Whether all weights and all variables of the optimizer are finite."""
    variables = [*model.variables, *model.optimizer.variables]
    arrays = (keras.ops.convert_to_numpy(v) for v in variables if "float" in keras.backend.standardize_dtype(v.dtype))
    return all(np.isfinite(array.astype("float32", copy=False)).all() for array in arrays)


def report(prepared, diverged):
    """Measures the network of a finished run, prints the last lines and writes the last files.

    The sparsity of a broken network is not reported. Comparisons with NaN are false, so a diverged SparseVD net would
    count as "100 % sparse".

    Args:
        prepared: The run.
        diverged: Whether training broke off in the middle of an epoch.

    Returns:
        `RunResult`.
    """
    task, model, folder = prepared.task, prepared.model, prepared.output_dir
    table = inspection.sparsity_table(model, include_dense=True)
    rows = log.rows_of(prepared)
    # If there are no rows (the file was lost), the loss counts as finite, and only weights and outputs are checked.
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
        # JSON has no infinity, the compression of a network without a weight.
        compression = table.compression if math.isfinite(table.compression) else None
        left = "no weight is left" if compression is None else f"compression {compression:.1f}x"
        line = f"{line}, sparsity {100 * table.sparsity:.2f} %, {left}"
        results["sparsity"] = table.sparsity
        results["sparsity_of_sparse_weights"] = table.sparsity_of_sparse_weights
        results["compression"] = compression
        results["layers"] = {row.name: row.sparsity for row in table.rows}
    result = RunResult(line, findings.collapsed, results)
    if not prepared.chief:
        return result
    if not findings.collapsed:
        table.to_csv(os.path.join(folder, run_folder.SPARSITY))
        print(f"\n{table}")
        run_folder.save_without_optimizer(model, os.path.join(folder, run_folder.MODEL))
        best = os.path.join(folder, run_folder.BEST)
        if prepared.recipe.keep_best and task.error_of(prepared.recipe) is None and os.path.exists(best):
            # Earlier versions chose this file by the test error.
            run_folder.save_without_optimizer(model, best)
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
    """A line about what shipping the network would gain. An error here must not end the run: its files are written."""
    try:
        return deploy.shipping_gain(model)
    except Exception as error:  # a network may have layers of a user, which can raise any error
        return f"shipping: not known: {one_line(error)}"
