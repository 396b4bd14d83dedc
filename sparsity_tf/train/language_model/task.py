"""The task of the character models: tells the trainer their text, recurrent network and bits per character."""

import math
import zlib

import keras
import numpy as np

from sparsity_tf import models
from sparsity_tf.backend import predict_on_batch
from sparsity_tf.datasets.text.characters import CharacterBatches, character_corpus
from sparsity_tf.train import log, optimizers, technique
from sparsity_tf.train.metrics import BitsPerCharacter
from sparsity_tf.train.sparsity_settings import naming_options
from sparsity_tf.train.task import Findings, Task


class LanguageModelLog(log.EpochLog):
    """The `EpochLog` of character models: the figures of training and validation text, in bits per character."""

    def figures(self, logs):
        return {name: float(logs[name]) for name in ("bits_per_character", "val_bits_per_character")}

    def line(self, row):
        return (
            f"epoch {row['epoch']:>{len(str(self.epochs))}}/{self.epochs}  loss {row['loss']:.4f}  "
            f"bits/character {row['bits_per_character']:.4f}, validation {row['val_bits_per_character']:.4f}  "
            f"{log.sparsity_of(row)}  {row['seconds']:.1f} s"
        )


class LanguageModelTask(Task):
    """Character models: `batches` are `CharacterBatches`."""

    log = LanguageModelLog
    error = "val_bits_per_character"
    validates = True
    steps_per_call = 10

    def check(self, recipe, replicas):
        for name in ("batch_size", "eval_batch_size"):
            if getattr(recipe, name) % replicas:
                raise ValueError(
                    f"`{name}` must be a multiple of the {replicas} replicas. Received: {name}={getattr(recipe, name)}"
                )

    def open_data(self, recipe, folder, resume, replicas):
        corpus = character_corpus(recipe.data_dir, recipe.vocabulary_size or None, recipe.held_out)
        batches = CharacterBatches(
            corpus,
            recipe.batch_size,
            recipe.window,
            recipe.seed,
            recipe.eval_batch_size,
            recipe.eval_characters or None,
        )
        return batches, _describe(corpus)

    def steps_per_epoch(self, recipe, batches):
        return recipe.epoch_steps or batches.steps_per_epoch

    def penalty_examples(self, recipe, batches):
        """The number of characters that one pass over the training text predicts."""
        return batches.num_examples * batches.window

    def make_model(self, recipe, batches):
        with naming_options(recipe, "technique_options"):
            model = models.CharRNN(
                len(batches.corpus.vocabulary),
                hidden_size=recipe.hidden_size,
                depth=recipe.depth,
                cell=recipe.cell,
                kernel_regularizer=keras.regularizers.L2(recipe.kernel_l2) if recipe.kernel_l2 else None,
                **technique.arguments(recipe),
            )
        technique.begin_with(model, recipe)
        return model

    def objective(self, recipe, batches):
        return {
            "optimizer": _optimizer(recipe, self.steps_per_epoch(recipe, batches)),
            "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            "weighted_metrics": [BitsPerCharacter()],
        }

    def introduction(self, recipe, batches, model):
        corpus = batches.corpus
        trainable = sum(math.prod(variable.shape) for variable in model.trainable_variables)
        return (
            f"{len(corpus.train):,} training, {len(corpus.validation):,} validation and {len(corpus.test):,} test "
            f"characters, of {len(corpus.vocabulary)} kinds ({sum(corpus.unknown.values()):,} unknown); "
            f"{batches.steps_per_epoch:,} steps see the text once; {trainable:,} trainable parameters"
        )

    def examine(self, prepared, table, loss):
        model, batches = prepared.model, prepared.batches
        bits = {}
        for split, data in (("validation", batches.validation()), ("test", batches.test())):
            bits[split] = float(model.evaluate(data, verbose=0, return_dict=True)["bits_per_character"])
        results = {
            "vocabulary": "".join(batches.corpus.vocabulary),
            "unknown_characters": batches.corpus.unknown,
            "bits_per_character": {split: value if math.isfinite(value) else None for split, value in bits.items()},
        }
        collapsed = None
        if not table.finite or not all(math.isfinite(figure) for figure in (*bits.values(), loss)):
            collapsed = "diverged: weights, losses or outputs that are not finite"
        elif _ignores_its_input(model, batches):
            collapsed = "collapsed: the network predicts the same whatever the text"
        if collapsed:
            return Findings(collapsed, f"{collapsed}; no sparsity is reported", results)
        line = f"bits per character {bits['validation']:.4f} (validation), {bits['test']:.4f} (test)"
        return Findings(None, line, results)


def _describe(corpus):
    """Describes a text, so that a continued run recognises it: a dict of plain values."""
    checksum = zlib.crc32("".join(corpus.vocabulary).encode())
    counts = {}
    for split in ("train", "validation", "test"):
        ids = getattr(corpus, split)
        counts[f"{split}_characters"] = len(ids)
        checksum = zlib.crc32(ids, checksum)
    return {"vocabulary_size": len(corpus.vocabulary), **counts, "checksum": checksum}


def _optimizer(recipe, steps):
    rate = optimizers.learning_rate(recipe, steps)
    clip = {"global_clipnorm": recipe.clip_norm} if recipe.clip_norm else {}
    if recipe.optimizer == "adam":
        return keras.optimizers.Adam(rate, **clip)
    # PyTorch adds its epsilon of 1e-8 to the square root. Keras adds its epsilon under the root, hence 1e-16.
    return keras.optimizers.RMSprop(rate, rho=0.99, epsilon=1e-16, **clip)


def _ignores_its_input(model, batches):
    """Whether the network predicts the same for every text. Such a network has collapsed."""
    logits = np.asarray(predict_on_batch(model, batches.batch(0)[0]), np.float32)
    return bool((np.ptp(logits, axis=(0, 1)) < 1e-6).all())
