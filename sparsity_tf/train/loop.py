"""One training run: data + model + callbacks + fit, then the report.

Two ideas live here: a run in a folder, prepared and then trained; and the verdict that keeps a
broken network from being praised. One with weights that are not finite, or that predicts a single
class, has no sparsity worth reporting (comparisons with NaN are false, so a diverged SparseVD net
would read "100 % sparse").
"""

import dataclasses
import json
import math
import os
import sys

import keras

from sparsity_tf import datasets, inspection
from sparsity_tf.callbacks import SparsityMonitor
from sparsity_tf.train import algorithms, build, log, pictures, state


@dataclasses.dataclass(frozen=True)
class RunResult:
    """What a run came to.

    Attributes:
        line: The last line that the run prints.
        collapsed: What is wrong with the network, or `None`.
        test_error: Share of wrong test predictions, 0 to 1; NaN if outputs are not finite.
        sparsity: Fraction of zeros among all kernels, those of layers left dense too; `None` if
            collapsed.
        compression: All weights / non-zero weights; `None` if collapsed.
    """

    line: str
    collapsed: object
    test_error: float
    sparsity: object
    compression: object


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A run that is ready to train: everything that the user could have got wrong is checked.

    Attributes:
        recipe: The `Recipe`.
        output_dir: Folder of the run.
        data: `ImageData`.
        model: The compiled model, restored from the checkpoint if the run is resumed.
        algorithm: The callback that moves masks, or `None`.
        epochs: Number of epochs of the whole run.
        done: Number of epochs already done.
        steps: Steps an epoch.
    """

    recipe: object
    output_dir: str
    data: object
    model: object
    algorithm: object
    epochs: int
    done: int
    steps: int


def prepare(recipe, output_dir, resume=False, overwrite=False):
    """Loads the data, makes or restores the model and claims the folder.

    Args:
        recipe: A `Recipe`.
        output_dir: Folder of the run; made if missing.
        resume: Continue the run in `output_dir` after its last checkpoint; a run that has none
            yet begins anew.
        overwrite: Remove the run that `output_dir` holds, finished or not.

    Returns:
        `Prepared`, for `train`.

    Raises:
        ValueError: A setting that can't be used, or `output_dir` holds a run and neither flag is
            given.
        FileNotFoundError: The data set is not there.
        ModuleNotFoundError: A package that the data set needs is not installed.
    """
    keras.utils.set_random_seed(recipe.seed)
    data = build.load_data(recipe)
    steps = datasets.steps_per_epoch(data, recipe.batch_size)
    build.rehearse(recipe, data, steps)
    keras.utils.set_random_seed(recipe.seed)
    model, done = build.make_model(recipe, data), 0
    algorithm = build.make_algorithm(recipe, data, steps, output_dir)
    # Lottery tickets know how many epochs all rounds take.
    epochs = getattr(algorithm, "total_steps", recipe.epochs * steps) // steps
    state.claim_folder(output_dir, recipe, resume, overwrite)
    print(f"data: {data.source}")
    if resume:
        restored, done = state.restore(output_dir, steps)
        model = restored or model
        print(f"resuming after epoch {done}" if done else "no checkpoint yet: starting anew")
    if not done:
        build.compile_model(recipe, model, steps, algorithms.update_grid(recipe, algorithm, steps))
    print(
        f"{len(data.x_train):,} training and {len(data.x_test):,} test images; {model.name}, "
        f"technique {recipe.technique}; XLA {'on' if model.jit_compile else 'off'}, "
        f"{model.steps_per_execution} steps a call",
        flush=True,
    )
    return Prepared(recipe, output_dir, data, model, algorithm, epochs, done, steps)


def train(prepared):
    """Trains a prepared run to its end and reports on it.

    Written into the folder: `recipe.json`, `metrics.csv`, `tensorboard/`, `checkpoint.keras`
    after every epoch, with an algorithm that moves masks `sparsity_by_step.csv` (what it dropped and
    grew, a row a weight and epoch), and at the end `results.json`, `sparsity.csv`, pictures and `model.keras`,
    the trained network without the optimizer (`import sparsity_tf` is all that loading it needs). Two runs of a
    recipe, or one run and its continuation after a kill, give bit-identical weights on a CPU.

    Args:
        prepared: What `prepare` returned.

    Returns:
        `RunResult`. Its `line` has been printed last.
    """
    test = build.test_arrays(prepared.recipe, prepared.data)
    if prepared.done < prepared.epochs:
        _fit(prepared, test)
    return _report(prepared, test)


def _fit(prepared, test):
    recipe, data, done, steps = prepared.recipe, prepared.data, prepared.done, prepared.steps
    bar = sys.stdout.isatty()
    masks, monitor = [], None
    if prepared.algorithm is not None:
        monitor = SparsityMonitor(os.path.join(prepared.output_dir, state.SPARSITY_BY_STEP))
        masks = [prepared.algorithm, monitor]
    callbacks = [
        *build.penalty_callbacks(recipe, len(data.x_train), steps),
        *masks,
        log.RunLog(
            prepared.output_dir,
            *test,
            num_examples=len(data.x_train),
            epochs=prepared.epochs,
            every=recipe.log_every,
            first_epoch=done,
            print_lines=not bar,
            monitor=monitor,
        ),
        pictures.Frames(prepared.output_dir, recipe.frame_every, prepared.epochs, done),
        state.Checkpoint(prepared.output_dir),
    ]
    prepared.model.fit(
        build.train_batches(recipe, data, first_epoch=done),
        epochs=prepared.epochs,
        initial_epoch=done,
        steps_per_epoch=steps,
        shuffle=False,  # the pipeline shuffles
        callbacks=callbacks,
        verbose=1 if bar else 0,
    )


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
        return f"collapsed: the network predicts class {test.only_class} for every test digit; no sparsity is reported"
    return None


def _report(prepared, test):
    model, output_dir = prepared.model, prepared.output_dir
    figures = log.evaluate(model, *test)
    table = inspection.sparsity_table(model, include_dense=True)
    rows = log.read_metrics(output_dir)
    # Without rows (the file was lost) the network's weights and outputs have to do.
    collapsed = verdict(table, figures, float(rows[-1]["loss"]) if rows else 0.0)
    results = {
        "recipe": state.as_plain(prepared.recipe),
        "data": prepared.data.source,
        "epochs": int(rows[-1]["epoch"]) if rows else 0,
        "training_seconds": round(sum(float(row["seconds"]) for row in rows), 2),
        "collapsed": collapsed,
        "test_error": None if math.isnan(figures.error) else figures.error,
        "keras": keras.__version__,
    }
    if collapsed:
        result = RunResult(collapsed, collapsed, figures.error, None, None)
    else:
        flops = inspection.count_flops(model)
        line = (
            f"test error {100 * figures.error:.2f} %, sparsity {100 * table.sparsity:.2f} %, "
            f"compression {table.compression:.1f}x"
        )
        result = RunResult(line, None, figures.error, table.sparsity, table.compression)
        results.update(
            sparsity=table.sparsity,
            compression=table.compression,
            layers={row.name: row.sparsity for row in table.rows},
            macs={"dense": flops.dense, "sparse": flops.sparse},
        )
        table.to_csv(os.path.join(output_dir, state.SPARSITY))
        print(f"\n{table}")
        print(
            f"multiply-accumulates an image: {flops.dense:,} dense, {flops.sparse:,} without the "
            f"zeros ({100 * flops.ratio:.2f} %)"
        )
        _without_optimizer(model).save(os.path.join(output_dir, state.MODEL))
        made = [state.MODEL, *pictures.draw(model, output_dir)]
        print(f"in {output_dir}: {', '.join(['metrics.csv', 'results.json', *made])}")
    with open(os.path.join(output_dir, state.RESULTS), "w", encoding="utf-8") as file:
        json.dump(results, file, indent=2)
    print(f"training took {results['training_seconds']:.0f} s")
    print(result.line, flush=True)
    return result


def _without_optimizer(model):
    """A copy to save: the `.keras` file of a compiled model carries its optimizer."""
    copy = type(model).from_config(model.get_config())
    copy.set_weights(model.get_weights())
    return copy
