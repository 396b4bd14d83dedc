"""One training run of a character model: text + network + callbacks + fit, then the report."""

import dataclasses
import math

import keras

from sparsity_tf import inspection
from sparsity_tf.train import algorithms, log, run_folder, trainer
from sparsity_tf.train.language_model import build


@dataclasses.dataclass(frozen=True)
class RunResult:
    """What a run came to.

    Attributes:
        line: The last line that the run prints.
        collapsed: What is wrong with the network, or `None`.
        validation, test: Bits per character; NaN if outputs are not finite.
        sparsity: Fraction of zeros among all kernels; `None` if collapsed.
        compression: All weights / non-zero weights; `None` if collapsed.
    """

    line: str
    collapsed: object
    validation: float
    test: float
    sparsity: object
    compression: object


def prepare(recipe, output_dir, resume=False, overwrite=False):
    """Reads the text, makes or restores the model and claims the folder.

    Args:
        recipe: A `LanguageRecipe`.
        output_dir: Folder of the run; made if missing.
        resume: Continue the run in `output_dir` after its last checkpoint, with the `data_dir` of that run if the
            recipe has none; a run that has no checkpoint yet begins anew.
        overwrite: Remove the run that `output_dir` holds, finished or not.

    Returns:
        `Prepared`, for `train`.

    Raises:
        ValueError: A setting that can't be used, a text with errors, `output_dir` holds a run and neither flag is
            given, or the run to continue had other settings or another text.
        FileNotFoundError: The text is not there.
    """
    if resume:
        recipe = run_folder.with_data_of_run(output_dir, recipe)
    batches = build.make_batches(recipe)
    steps = build.steps_per_epoch(recipe, batches)
    with trainer.precision(recipe):
        build.rehearse(recipe, batches)
        keras.utils.set_random_seed(recipe.seed)
        model, done = build.make_model(recipe, len(batches.corpus.vocabulary)), 0
        algorithm = build.make_algorithm(recipe, batches, output_dir)
        # Lottery tickets know how many epochs all rounds take.
        epochs = getattr(algorithm, "total_steps", recipe.epochs * steps) // steps
        lock = trainer.claim_folder(output_dir, recipe, resume, overwrite, build.describe(batches))
        if resume:
            restored, done = run_folder.restore(output_dir, steps)
            model = restored or model
        if not done:
            grid = algorithms.update_grid(recipe, algorithm, steps)
            build.compile_model(recipe, model, steps, grid)
    corpus = batches.corpus
    print(f"data: {corpus.source}")
    trainer.warn_of_shortfall(build.shortfall(recipe, algorithm, steps), algorithm)
    if resume:
        print(f"resuming after epoch {done}" if done else "no checkpoint yet: starting anew")
    trainable = sum(math.prod(variable.shape) for variable in model.trainable_variables)
    print(
        f"{len(corpus.train):,} training, {len(corpus.validation):,} validation and {len(corpus.test):,} test "
        f"characters, of {len(corpus.vocabulary)} kinds ({sum(corpus.unknown.values()):,} unknown); "
        f"{batches.steps_per_epoch:,} steps see the text once; {trainable:,} trainable parameters, "
        f"technique {recipe.technique}; XLA {'on' if model.jit_compile else 'off'}, "
        f"{model.steps_per_execution} steps a call",
        flush=True,
    )
    return trainer.Prepared(recipe, output_dir, batches, model, algorithm, epochs, done, steps, lock=lock)


class LanguageLog(log.EpochLog):
    """The `EpochLog` of character models: what `fit` found on training and validation text, in bits per character."""

    def figures(self, logs):
        return {name: float(logs[name]) for name in ("bits_per_character", "val_bits_per_character")}

    def line(self, row):
        return (
            f"epoch {row['epoch']:>{len(str(self.epochs))}}/{self.epochs}  loss {row['loss']:.4f}  "
            f"bits/character {row['bits_per_character']:.4f}, validation {row['val_bits_per_character']:.4f}  "
            f"{log.sparsity_of(row)}  {row['seconds']:.1f} s"
        )


def train(prepared):
    """Trains a prepared run to its end and reports on it.

    Written into the folder: `recipe.json`, `metrics.csv`, `tensorboard/`, `checkpoint.keras` after every epoch, with an
    algorithm that moves masks `sparsity_by_step.csv`, and at the end `results.json`, `sparsity.csv` and `model.keras`,
    the network without its optimizer. Two runs of a recipe, or one run and its continuation after a kill, give
    bit-identical weights on a CPU.

    Args:
        prepared: What `prepare` returned.

    Returns:
        `RunResult`. Its `line` has been printed last.
    """
    diverged = prepared.done < prepared.epochs and _fit(prepared)
    return _report(prepared, diverged)


def _fit(prepared):
    recipe, batches, folder = prepared.recipe, prepared.batches, prepared.output_dir
    masks, _ = prepared.mask_callbacks()
    callbacks = [
        *build.penalty_callbacks(recipe, batches),
        *masks,
        LanguageLog(
            folder,
            prepared.epochs,
            build.penalty_examples(batches),
            first_epoch=prepared.done,
            print_lines=not prepared.bar,
        ),
        run_folder.Checkpoint(folder),
    ]
    return trainer.fit(prepared, batches.train(prepared.done * prepared.steps), callbacks, batches.validation())


def _report(prepared, diverged):
    recipe, model, folder, batches = prepared.recipe, prepared.model, prepared.output_dir, prepared.batches
    bits = {}
    for split, data in (("validation", batches.validation()), ("test", batches.test())):
        bits[split] = float(model.evaluate(data, verbose=0, return_dict=True)["bits_per_character"])
    table = inspection.sparsity_table(model, include_dense=True)
    rows = log.rows_of(prepared)
    losses = [math.nan] if diverged else [float(row["loss"]) for row in rows[-1:]]
    collapsed = _verdict(model, batches, table, [*bits.values(), *losses])
    results = {
        "recipe": run_folder.as_plain(recipe),
        "data": batches.corpus.source,
        "vocabulary": "".join(batches.corpus.vocabulary),
        "unknown_characters": batches.corpus.unknown,
        "epochs": int(rows[-1]["epoch"]) if rows else 0,
        "training_seconds": round(sum(float(row["seconds"]) for row in rows), 2),
        "collapsed": collapsed,
        "bits_per_character": {split: value if math.isfinite(value) else None for split, value in bits.items()},
        "keras": keras.__version__,
    }
    if collapsed:
        result = RunResult(f"{collapsed}; no sparsity is reported", collapsed, *bits.values(), None, None)
    else:
        line = (
            f"bits per character {bits['validation']:.4f} (validation), {bits['test']:.4f} (test), "
            f"sparsity {100 * table.sparsity:.2f} %, compression {table.compression:.1f}x"
        )
        result = RunResult(line, None, *bits.values(), table.sparsity, table.compression)
        results.update(trainer.sparsity_results(table))
        trainer.save_result(prepared, table)
    trainer.conclude(prepared, results, result.line, trainer.files_in(folder))
    return result


def _verdict(model, batches, table, figures):
    """What is wrong with the network, or `None`."""
    if not table.finite or not all(math.isfinite(figure) for figure in figures):
        return "diverged: weights, losses or outputs that are not finite"
    if build.ignores_its_input(model, batches):
        return "collapsed: the network predicts the same whatever the text"
    return None
