"""One training run: data + model + callbacks + fit, then the report.

Two ideas live here: a run in a folder, prepared and then trained; and the verdict that keeps a
broken network from being praised. One with weights that are not finite, or that predicts a single
class, has no sparsity worth reporting (comparisons with NaN are false, so a diverged SparseVD net
would read "100 % sparse").
"""

import dataclasses
import math
import os

import keras

from sparsity_tf import inspection
from sparsity_tf.datasets.batches import first_of
from sparsity_tf.train import algorithms, log, run_folder, trainer
from sparsity_tf.train.classifier import build, pictures
from sparsity_tf.train.classifier.batches import describe, load_data, make_batches
from sparsity_tf.train.classifier.evaluation import Evaluation
from sparsity_tf.train.strategy import distribute, get_strategy, is_chief, prepare_for_workers


@dataclasses.dataclass(frozen=True)
class RunResult:
    """What a run came to.

    Attributes:
        line: The last line that the run prints.
        collapsed: What is wrong with the network, or `None`.
        test_error: Share of wrong test predictions, 0 to 1; NaN if outputs are not finite.
        top5_error: Share of test images whose class is not among the five likeliest; NaN as above.
        sparsity: Fraction of zeros among all kernels, those of layers left dense too; `None` if
            collapsed.
        compression: All weights / non-zero weights; `None` if collapsed.
    """

    line: str
    collapsed: object
    test_error: float
    top5_error: float
    sparsity: object
    compression: object


def prepare(recipe, output_dir, resume=False, overwrite=False):
    """Loads the data, makes or restores the model and claims the folder.

    Args:
        recipe: A `Recipe`.
        output_dir: Folder of the run; made if missing.
        resume: Continue the run in `output_dir` after its last checkpoint, with the `data_dir` of that run
            if the recipe has none; a run that has no checkpoint yet begins anew.
        overwrite: Remove the run that `output_dir` holds, finished or not.

    Returns:
        `Prepared`, for `train`.

    Raises:
        ValueError: A setting that can't be used, `output_dir` holds a run and neither flag is given, or the run to
            continue had other settings or data.
        FileNotFoundError: The data set is not there.
        ModuleNotFoundError: A package that the data set needs is not installed.
    """
    strategy = get_strategy(recipe.strategy)
    _check_strategy(recipe, strategy)
    keras.utils.set_random_seed(recipe.seed)
    if resume:
        recipe = run_folder.with_data_of_run(output_dir, recipe)
    data = load_data(recipe)
    batches = make_batches(recipe, data)
    steps = batches.steps_per_epoch
    lock = None
    with trainer.precision(recipe), strategy.scope():
        build.rehearse(recipe, batches)
        keras.utils.set_random_seed(recipe.seed)
        model, done = build.make_model(recipe, batches), 0
        algorithm = build.make_algorithm(recipe, batches, output_dir)
        # Lottery tickets know how many epochs all rounds take.
        epochs = getattr(algorithm, "total_steps", recipe.epochs * steps) // steps
        if is_chief(strategy):
            lock = trainer.claim_folder(output_dir, recipe, resume, overwrite, describe(data))
            print(f"data: {batches.source}")
            trainer.warn_of_shortfall(build.shortfall(recipe, algorithm, steps), algorithm)
        if resume:
            restored, done = run_folder.restore(output_dir, steps)
            model = restored or model
            print(f"resuming after epoch {done}" if done else "no checkpoint yet: starting anew")
        if not done:
            build.compile_model(recipe, model, steps, algorithms.update_grid(recipe, algorithm, steps))
            if recipe.keep_initial and is_chief(strategy):
                run_folder.save_without_optimizer(model, os.path.join(output_dir, run_folder.INITIAL))
    replicas = strategy.num_replicas_in_sync
    print(
        f"{batches.num_examples:,} training and {batches.num_test:,} test images; {model.name}, "
        f"technique {recipe.technique}; XLA {'on' if model.jit_compile else 'off'}, "
        f"{model.steps_per_execution} steps a call" + (f", {replicas} replicas" if replicas > 1 else ""),
        flush=True,
    )
    return trainer.Prepared(recipe, output_dir, batches, model, algorithm, epochs, done, steps, strategy, lock)


def _check_strategy(recipe, strategy):
    replicas = strategy.num_replicas_in_sync
    if recipe.batch_size % replicas:
        raise ValueError(
            f"`batch_size` must be a multiple of the {replicas} replicas. Received: batch_size={recipe.batch_size}"
        )
    if recipe.strategy in ("mirrored", "multiworker") and recipe.steps_per_execution > 1:
        raise ValueError(
            f"`steps_per_execution` must be 0 or 1 with strategy={recipe.strategy}. "
            f"Received: steps_per_execution={recipe.steps_per_execution}"
        )
    if recipe.strategy != "none" and recipe.technique == "lottery":
        raise ValueError(
            "`strategy` must be none with technique lottery, whose snapshot is one process's. "
            f"Received: strategy={recipe.strategy}"
        )


def train(prepared):
    """Trains a prepared run to its end and reports on it.

    Written into the folder: `recipe.json`, `metrics.csv`, `tensorboard/`, `checkpoint.keras`
    after every epoch, with an algorithm that moves masks `sparsity_by_step.csv` (what it dropped and
    grew, a row a weight and epoch), and at the end `results.json`, `sparsity.csv`, pictures and `model.keras`,
    the trained network without the optimizer (`import sparsity_tf` is all that loading it needs); `initial.keras` and
    `best.keras` if the recipe says so. Of several workers the first writes. Two runs of a
    recipe, or one run and its continuation after a kill, give bit-identical weights on a CPU.

    Args:
        prepared: What `prepare` returned.

    Returns:
        `RunResult`. Its `line` has been printed last.
    """
    diverged = False
    if prepared.done < prepared.epochs:
        with prepared.batches.naming_errors():
            diverged = _fit(prepared)
    return _report(prepared, diverged)


def _fit(prepared):
    recipe, batches, done, folder = prepared.recipe, prepared.batches, prepared.done, prepared.output_dir
    masks, monitor = prepared.mask_callbacks()
    callbacks = [*build.penalty_callbacks(recipe, batches.num_examples, prepared.steps), *masks]
    callbacks.append(
        log.RunLog(
            folder,
            batches,
            epochs=prepared.epochs,
            every=recipe.log_every,
            first_epoch=done,
            print_lines=not prepared.bar,
            writes=prepared.chief,
            monitor=monitor,
        )
    )
    if prepared.chief:
        if recipe.keep_best:
            settled = -(-build.settled_from(recipe, prepared.algorithm, prepared.steps) // prepared.steps)
            lowest = log.lowest_error(folder, "test_error", settled)
            callbacks.append(run_folder.Best(folder, "test_error", lowest, settled))
        callbacks.append(pictures.Frames(folder, recipe.frame_every, prepared.epochs, done))
        callbacks.append(run_folder.Checkpoint(folder))
    if recipe.strategy == "multiworker":
        prepare_for_workers(prepared.model, first_of(batches.train()))
    return trainer.fit(prepared, distribute(prepared.strategy, batches, done * prepared.steps), callbacks)


def verdict(table, test, loss):
    """Says what is wrong with a network, or `None` if its sparsity may be reported.

    Args:
        table: `SparsityTable` of the network.
        test: `TestFigures` of the network.
        loss: Training loss of its last epoch.

    Returns:
        A sentence without a full stop that begins with "diverged:" or "collapsed:", or `None`.
    """
    if not table.finite:
        names = ", ".join(row.name for row in table.rows if not row.finite)
        return f"diverged: weights that are not finite in {names}; no sparsity is reported"
    if not test.finite:
        return "diverged: outputs that are not finite; no sparsity is reported"
    if not math.isfinite(loss):
        return "diverged: a training loss that is not finite; no sparsity is reported"
    if test.only_class is not None:
        return f"collapsed: the network predicts class {test.only_class} for every test image; no sparsity is reported"
    return None


def _report(prepared, diverged):
    model, output_dir = prepared.model, prepared.output_dir
    figures = Evaluation(model, prepared.batches).run()
    table = inspection.sparsity_table(model, include_dense=True)
    rows = log.rows_of(prepared)
    # Without rows (the file was lost) the network's weights and outputs have to do.
    loss = math.nan if diverged else float(rows[-1]["loss"]) if rows else 0.0
    collapsed = verdict(table, figures, loss)
    results = {
        "recipe": run_folder.as_plain(prepared.recipe),
        "data": prepared.batches.source,
        "epochs": int(rows[-1]["epoch"]) if rows else 0,
        "training_seconds": round(sum(float(row["seconds"]) for row in rows), 2),
        "collapsed": collapsed,
        "test_error": None if math.isnan(figures.error) else figures.error,
        "test_top5_error": None if math.isnan(figures.top5_error) else figures.top5_error,
        "keras": keras.__version__,
    }
    if collapsed:
        result = RunResult(collapsed, collapsed, figures.error, figures.top5_error, None, None)
    else:
        flops = inspection.count_flops(model)
        line = (
            f"test error {100 * figures.error:.2f} %, sparsity {100 * table.sparsity:.2f} %, "
            f"compression {table.compression:.1f}x"
        )
        result = RunResult(line, None, figures.error, figures.top5_error, table.sparsity, table.compression)
        results.update(trainer.sparsity_results(table), macs={"dense": flops.dense, "sparse": flops.sparse})
    if not prepared.chief:
        return result
    files = []
    if not collapsed:
        trainer.save_result(prepared, table)
        print(
            f"multiply-accumulates an image: {flops.dense:,} dense, {flops.sparse:,} without the "
            f"zeros ({100 * flops.ratio:.2f} %)"
        )
        files = [run_folder.METRICS, run_folder.RESULTS, run_folder.MODEL, *pictures.draw(model, output_dir)]
    trainer.conclude(prepared, results, result.line, files)
    return result
