"""One training run of the translator: corpus + Transformer + callbacks + fit, then translations and the report."""

import dataclasses
import math
import os
import shutil

import keras
import numpy as np

from sparsity_tf import inspection
from sparsity_tf.datasets.batches import first_of
from sparsity_tf.datasets.text import subwords
from sparsity_tf.train import algorithms, log, run_folder, trainer
from sparsity_tf.train.strategy import distribute, get_strategy, is_chief, prepare_for_workers
from sparsity_tf.train.translator import build
from sparsity_tf.train.translator import log as translation_log

_SAMPLES = 5


@dataclasses.dataclass(frozen=True)
class RunResult:
    """What a run came to.

    Attributes:
        line: The last line that the run prints.
        collapsed: What is wrong with the network, or `None`.
        perplexity: Of the validation set; NaN if outputs are not finite.
        bleu: SacreBLEU of the split that the recipe names, 0 to 100, or `None`.
        sparsity: Fraction of zeros among all kernels and embeddings; `None` if collapsed.
        compression: All weights / non-zero weights; `None` if collapsed.
    """

    line: str
    collapsed: object
    perplexity: float
    bleu: object
    sparsity: object
    compression: object


def prepare(recipe, output_dir, cache_dir=None, resume=False, overwrite=False):
    """Opens the corpus, makes or restores the model and claims the folder.

    Args:
        recipe: A `TranslationRecipe`.
        output_dir: Folder of the run; made if missing.
        cache_dir: Folder for trained vocabularies and encoded sentences, which runs may share. Defaults to `cache` in
            `output_dir`.
        resume: Continue the run in `output_dir` after its last checkpoint, with the `data_dir` of that run if the
            recipe has none; a run that has no checkpoint yet begins anew.
        overwrite: Remove the run that `output_dir` holds, finished or not.

    Returns:
        `Prepared`, for `train`.

    Raises:
        ValueError: A setting that can't be used, a corpus with errors, `output_dir` holds a run and neither flag is
            given, or the run to continue had other settings or data.
        FileNotFoundError: The corpus or the vocabulary is not there.
    """
    strategy = get_strategy(recipe.strategy)
    if resume:
        recipe = run_folder.with_data_of_run(output_dir, recipe)
    cache_dir = cache_dir or os.path.join(output_dir, "cache")
    corpus = build.open_corpus(recipe)
    own = os.path.join(output_dir, build.VOCABULARY)
    if resume and os.path.exists(own):
        vocabulary = subwords.load(own)
    else:
        vocabulary = build.make_vocabulary(recipe, corpus, cache_dir)
    replicas = strategy.num_replicas_in_sync
    batches = build.make_batches(recipe, corpus, vocabulary, cache_dir, replicas)
    lock = None
    with trainer.precision(recipe), strategy.scope():
        build.rehearse(recipe, batches)
        keras.utils.set_random_seed(recipe.seed)
        model, done = build.make_model(recipe, vocabulary.size), 0
        algorithm = build.make_algorithm(recipe, batches, output_dir)
        # Lottery tickets know how many epochs all rounds take.
        epochs = getattr(algorithm, "total_steps", recipe.train_steps) // recipe.eval_every
        if is_chief(strategy):
            lock = trainer.claim_folder(output_dir, recipe, resume, overwrite, build.describe(batches))
            if os.path.abspath(vocabulary.path) != os.path.abspath(own):
                shutil.copyfile(vocabulary.path, own)
        if resume:
            restored, done = run_folder.restore(output_dir, recipe.eval_every)
            model = restored or model
        if not done:
            grid = algorithms.update_grid(recipe, algorithm, recipe.eval_every)
            build.compile_model(recipe, model, vocabulary.size, grid)
            if recipe.keep_initial and is_chief(strategy):
                run_folder.save_without_optimizer(model, os.path.join(output_dir, run_folder.INITIAL))
    if is_chief(strategy):
        _introduce(recipe, batches, model, resume, done, replicas)
        trainer.warn_of_shortfall(build.shortfall(recipe, algorithm), algorithm)
    return trainer.Prepared(
        recipe, output_dir, batches, model, algorithm, epochs, done, recipe.eval_every, strategy, lock
    )


def _introduce(recipe, batches, model, resume, done, replicas):
    trained = sum(math.prod(variable.shape) for variable in model.trainable_variables)
    print(f"data: {batches.source}")
    if resume:
        print(f"resuming after step {done * recipe.eval_every:,}" if done else "no checkpoint yet: starting anew")
    print(
        f"{batches.num_examples:,} training and {batches.num_validation:,} validation pairs, "
        f"{batches.steps_per_epoch:,} steps see them once; {batches.vocabulary.size:,} subwords, "
        f"{trained:,} trained parameters, technique {recipe.technique}; "
        f"XLA {'on' if model.jit_compile else 'off'}, {model.steps_per_execution} steps a call"
        + (f", {replicas} replicas" if replicas > 1 else ""),
        flush=True,
    )


def train(prepared):
    """Trains a prepared run to its end and reports on it.

    Written into the folder: `recipe.json`, the vocabulary, `metrics.csv`, `tensorboard/`, `checkpoint.keras` every
    `eval_every` steps, `best.keras`, with an algorithm that moves masks `sparsity_by_step.csv`, and at the end
    `results.json`, `sparsity.csv`, `translations.txt` and `model.keras`, the network of the last step without its
    optimizer. Two runs of a recipe, or one run and its continuation after a kill, give bit-identical weights on a CPU.

    Args:
        prepared: What `prepare` returned.

    Returns:
        `RunResult`. Its `line` has been printed last.
    """
    if prepared.recipe.strategy == "multiworker":
        prepare_for_workers(prepared.model, first_of(prepared.batches.train()))
    diverged = prepared.done < prepared.epochs and _fit(prepared)
    return _report(prepared, diverged)


def _fit(prepared):
    recipe, batches, done, folder = prepared.recipe, prepared.batches, prepared.done, prepared.output_dir
    masks, _ = prepared.mask_callbacks()
    callbacks = [*build.penalty_callbacks(recipe, batches), *masks]
    callbacks.append(
        translation_log.TranslationLog(
            folder,
            prepared.epochs,
            build.penalty_examples(recipe, batches),
            first_epoch=done,
            print_lines=not prepared.bar,
            writes=prepared.chief,
        )
    )
    if prepared.chief:
        if recipe.keep_best:
            settled = -(-build.settled_from(recipe, prepared.algorithm) // recipe.eval_every)
            lowest = log.lowest_error(folder, "val_cross_entropy", settled)
            callbacks.append(run_folder.Best(folder, "val_cross_entropy", lowest, settled))
        callbacks.append(run_folder.Checkpoint(folder))
    data = distribute(prepared.strategy, batches, done * recipe.eval_every)
    return trainer.fit(prepared, data, callbacks, _validation(prepared))


def _validation(prepared):
    strategy, batches = prepared.strategy, prepared.batches
    if strategy.num_replicas_in_sync == 1:
        return batches.validation()
    return strategy.distribute_datasets_from_function(batches.validation)


def _report(prepared, diverged):
    recipe, model, folder = prepared.recipe, prepared.model, prepared.output_dir
    figures = model.evaluate(_validation(prepared), verbose=0, return_dict=True)
    table = inspection.sparsity_table(model, include_dense=True)
    rows = log.rows_of(prepared)
    perplexity = float(np.exp(figures["cross_entropy"]))
    finite = not diverged and math.isfinite(perplexity) and (not rows or math.isfinite(float(rows[-1]["loss"])))
    collapsed = None if finite and table.finite else "diverged: weights or losses that are not finite"
    results = {
        "recipe": run_folder.as_plain(recipe),
        "data": prepared.batches.source,
        "vocabulary_size": prepared.batches.vocabulary.size,
        "steps": int(rows[-1]["step"]) if rows else 0,
        "training_seconds": round(sum(float(row["seconds"]) for row in rows), 2),
        "validation": {**figures, "perplexity": perplexity} if finite else None,
        "keras": keras.__version__,
    }
    scores = {}
    if not collapsed and prepared.chief and recipe.bleu != "none":
        collapsed, scores = _translate(prepared)
    results.update(collapsed=collapsed, **scores)
    score = scores.get("bleu")
    if collapsed:
        line = f"{collapsed}; no sparsity is reported"
        result = RunResult(line, collapsed, perplexity, score, None, None)
    else:
        said = [f"BLEU {score:.2f} ({recipe.bleu})"] if score is not None else []
        said += [f"perplexity {perplexity:.2f}", f"sparsity {100 * table.sparsity:.2f} %"]
        line = ", ".join([*said, f"compression {table.compression:.1f}x"])
        result = RunResult(line, None, perplexity, score, table.sparsity, table.compression)
        results.update(trainer.sparsity_results(table))
    if not prepared.chief:
        return result
    if not collapsed:
        trainer.save_result(prepared, table)
    trainer.conclude(prepared, results, result.line, trainer.files_in(folder))
    return result


def _translate(prepared):
    """Translates the split that the recipe names: (what is wrong or `None`, figures for the report)."""
    recipe, batches = prepared.recipe, prepared.batches
    sources, references = zip(*batches.texts(recipe.bleu), strict=True)
    translations = translation_log.translate_texts(
        prepared.model,
        batches.vocabulary,
        sources,
        recipe.beam_size,
        recipe.length_penalty,
        recipe.extra_length,
        recipe.decode_batch_size,
    )
    path = os.path.join(prepared.output_dir, run_folder.TRANSLATIONS)
    with open(f"{path}.unfinished", "w", encoding="utf-8") as file:
        file.writelines(f"{' '.join(text.split())}\n" for text in translations)
    os.replace(f"{path}.unfinished", path)
    score, signature = translation_log.bleu(list(translations), list(references))
    copied, _ = translation_log.bleu(list(sources), list(references))
    print(
        f"\nBLEU {score:.2f} of {len(sources):,} {recipe.bleu} sentences ({signature}); "
        f"the sources copied: {copied:.2f}"
    )
    for k in range(0, len(sources), max(1, len(sources) // _SAMPLES))[:_SAMPLES]:
        print(f"  source       {sources[k]}\n  translation  {translations[k]}\n  reference    {references[k]}\n")
    collapsed = None
    if len(sources) > 1 and len(set(translations)) == 1 and len(set(sources)) > 1:
        collapsed = f"collapsed: every translation is {translations[0]!r}"
    return collapsed, {"bleu": score, "bleu_signature": signature, "bleu_of_copied_sources": copied}
