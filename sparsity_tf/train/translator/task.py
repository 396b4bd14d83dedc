"""The task of the translators: tells the trainer their sentence pairs, Transformer, perplexity and BLEU."""

import hashlib
import itertools
import math
import os
import shutil
import zlib

import keras
import numpy as np

from sparsity_tf import models
from sparsity_tf.datasets.text import parallel_corpus, subwords, translation_batches
from sparsity_tf.decoding import Decoder
from sparsity_tf.decoding.sentences import translate
from sparsity_tf.train import log, optimizers, run_folder, technique
from sparsity_tf.train.losses import SmoothedCrossentropy
from sparsity_tf.train.metrics import TokenCrossentropy
from sparsity_tf.train.sparsity_settings import naming_options
from sparsity_tf.train.task import Findings, Task
from sparsity_tf.train.translator.scores import sacrebleu_score

VOCABULARY = "vocabulary.subwords"
_DESCRIBED_PAIRS = 1000
_SAMPLES = 5


class TranslatorLog(log.EpochLog):
    """The `EpochLog` of the translators: the figures of training and validation data.

    Accuracies are fractions. Cross-entropies are in nats a subword, and their exponentials are perplexities.
    """

    def figures(self, logs):
        found = {}
        for prefix in ("", "val_"):
            found.update({prefix + name: float(logs[prefix + name]) for name in ("accuracy", "cross_entropy")})
            found[f"{prefix}perplexity"] = float(np.exp(found[f"{prefix}cross_entropy"]))
        found["val_loss"] = float(logs["val_loss"])
        return found

    def line(self, row):
        return (
            f"step {row['step']:,}  loss {row['loss']:.4f}  validation: perplexity {row['val_perplexity']:.2f}, "
            f"accuracy {100 * row['val_accuracy']:.2f} %  {log.sparsity_of(row)}  {row['seconds']:.1f} s"
        )


class TranslatorTask(Task):
    """Translators: `batches` are `TranslationBatches`. An "epoch" always means `eval_every` steps.

    Args:
        cache_dir: Folder for trained vocabularies and encoded sentences, which runs may share. Defaults to `cache` in
            the folder of the run.
    """

    log = TranslatorLog
    unit = "step"
    error = "val_cross_entropy"
    validates = True

    def __init__(self, cache_dir=None):
        self.cache_dir = cache_dir

    def open_data(self, recipe, folder, resume, replicas):
        cache_dir = self.cache_dir or os.path.join(folder, "cache")
        corpus = parallel_corpus.parallel_corpus(
            recipe.dataset,
            recipe.data_dir,
            recipe.source_language,
            recipe.target_language,
            recipe.reverse,
            recipe.held_out,
        )
        own = os.path.join(folder, VOCABULARY)
        if resume and os.path.exists(own):
            vocabulary = subwords.load(own)
        else:
            vocabulary = _make_vocabulary(recipe, corpus, cache_dir)
        names = ("batch_tokens", "max_length", "packed", "too_long", "bucket_growth", "pad_to", "seed")
        names += ("eval_batch_tokens", "eval_max_length", "eval_too_long")
        options = {name: getattr(recipe, name) for name in names}
        batches = translation_batches.translation_batches(
            corpus, vocabulary, replicas=replicas, cache_dir=cache_dir, **options
        )
        return batches, _describe(batches)

    def keep_data(self, batches, folder):
        """Copies the vocabulary, without which the network can't be used."""
        own = os.path.join(folder, VOCABULARY)
        if os.path.abspath(batches.vocabulary.path) != os.path.abspath(own):
            shutil.copyfile(batches.vocabulary.path, own)

    def steps_per_epoch(self, recipe, batches):
        return recipe.eval_every

    def penalty_examples(self, recipe, batches):
        return recipe.penalty_examples or batches.num_examples

    def make_model(self, recipe, batches):
        sparse = technique.arguments(recipe)
        options = sparse.pop("technique_options") or {}
        sizes = ("num_layers", "hidden_size", "filter_size", "num_heads", "split_heads")
        rates = ("dropout", "attention_dropout", "relu_dropout")
        with naming_options(recipe, "technique_options"):
            model = models.Transformer(
                batches.vocabulary.size,
                **{name: getattr(recipe, name) for name in (*sizes, *rates)},
                packed=recipe.packed,
                seed=recipe.seed,
                **sparse,
                **options,
            )
        technique.begin_with(model, recipe)
        return model

    def objective(self, recipe, batches):
        """Adam, and the smoothed cross-entropy as a mean over tokens, in which padding has weight 0."""
        rate = optimizers.learning_rate(recipe, recipe.eval_every)
        # The recipe's smoothing is the share that goes to the wrong subwords. The loss spreads its share over all
        # subwords, the right one included, so the loss needs a larger number.
        smoothing = recipe.label_smoothing * batches.vocabulary.size / (batches.vocabulary.size - 1)
        return {
            "optimizer": keras.optimizers.Adam(rate, recipe.beta_1, recipe.beta_2, recipe.epsilon),
            "loss": SmoothedCrossentropy(smoothing, reduction="mean_with_sample_weight"),
            "weighted_metrics": [keras.metrics.SparseCategoricalAccuracy("accuracy"), TokenCrossentropy()],
        }

    def introduction(self, recipe, batches, model):
        trained = sum(math.prod(variable.shape) for variable in model.trainable_variables)
        return (
            f"{batches.num_examples:,} training and {batches.num_validation:,} validation pairs, "
            f"{batches.steps_per_epoch:,} steps see them once; {batches.vocabulary.size:,} subwords, "
            f"{trained:,} trained parameters"
        )

    def examine(self, prepared, table, loss):
        recipe, vocabulary = prepared.recipe, prepared.batches.vocabulary
        figures = prepared.model.evaluate(prepared.validation(), verbose=0, return_dict=True)
        perplexity = float(np.exp(figures["cross_entropy"]))
        finite = math.isfinite(perplexity) and math.isfinite(loss)
        collapsed = None if finite and table.finite else "diverged: weights or losses that are not finite"
        results = {
            "vocabulary_size": vocabulary.size,
            "validation": {**figures, "perplexity": perplexity} if finite else None,
        }
        said = [f"perplexity {perplexity:.2f}"]
        if not collapsed and prepared.chief and recipe.bleu != "none":
            collapsed, scores = _translate(prepared)
            said.insert(0, f"BLEU {scores['bleu']:.2f} ({recipe.bleu})")
            results.update(scores)
        return Findings(collapsed, f"{collapsed}; no sparsity is reported" if collapsed else ", ".join(said), results)


def _make_vocabulary(recipe, corpus, cache_dir):
    """The recipe's vocabulary: read from its file, or trained on the training pairs and kept in `cache_dir`."""
    if recipe.vocabulary is not None:
        return subwords.load(recipe.vocabulary)
    settings = recipe.vocabulary_size, recipe.vocabulary_kind, recipe.seed, corpus.train.fingerprint
    key = hashlib.sha256(repr(settings).encode()).hexdigest()[:20]
    path = os.path.join(cache_dir, f"vocabulary-{key}.model")
    if os.path.exists(path):
        return subwords.load(path)
    texts = (text for pair in corpus.train for text in pair)
    return subwords.train(texts, path, recipe.vocabulary_size, recipe.vocabulary_kind, seed=recipe.seed)


def _describe(batches):
    """Describes a corpus, so that a continued run recognises it: a dict of plain values.

    The checksum covers the vocabulary's file and the first pairs of each split. Reading all pairs would take minutes.
    """
    with open(batches.vocabulary.path, "rb") as file:
        checksum = zlib.crc32(file.read())
    for split in ("train", "validation", "test"):
        for pair in itertools.islice(getattr(batches.corpus, split), _DESCRIBED_PAIRS):
            checksum = zlib.crc32("\t".join(pair).encode(), checksum)
    return {
        "train_pairs": batches.num_examples,
        "validation_pairs": batches.num_validation,
        "test_pairs": batches.num_test,
        "vocabulary_size": batches.vocabulary.size,
        "checksum": checksum,
    }


def _translate(prepared):
    """Translates the recipe's split and scores it; returns (what is wrong or `None`, figures for the report)."""
    recipe, vocabulary = prepared.recipe, prepared.batches.vocabulary
    sources, references = map(list, zip(*prepared.batches.texts(recipe.bleu), strict=True))
    decoder = Decoder(prepared.model)

    def search(inputs, extra_length):
        if recipe.beam_size == 1:
            return decoder.greedy(inputs, extra_length)
        return decoder.beam_search(inputs, recipe.beam_size, recipe.length_penalty, extra_length)

    found = translate(search, vocabulary.encode_all(sources), recipe.extra_length, recipe.decode_batch_size)
    translations = [vocabulary.decode(ids) for ids in found]
    with run_folder.writing(os.path.join(prepared.output_dir, run_folder.TRANSLATIONS)) as file:
        file.writelines(f"{' '.join(text.split())}\n" for text in translations)
    score, signature = sacrebleu_score(translations, [references])
    copied, _ = sacrebleu_score(sources, [references])
    print(
        f"\nBLEU {score.score:.2f} of {len(sources):,} {recipe.bleu} sentences ({signature}); "
        f"the sources copied: {copied.score:.2f}"
    )
    for k in range(0, len(sources), max(1, len(sources) // _SAMPLES))[:_SAMPLES]:
        print(f"  source       {sources[k]}\n  translation  {translations[k]}\n  reference    {references[k]}\n")
    collapsed = None
    if len(sources) > 1 and len(set(translations)) == 1 and len(set(sources)) > 1:
        collapsed = f"collapsed: every translation is {translations[0]!r}"
    return collapsed, {"bleu": score.score, "bleu_signature": signature, "bleu_of_copied_sources": copied.score}
