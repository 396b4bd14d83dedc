"""From a `LanguageRecipe` to what `fit` needs: batches, compiled model, callbacks."""

import math
import zlib

import keras
import numpy as np
from keras import ops

from sparsity_tf import models
from sparsity_tf.datasets.text.characters import CharacterBatches, character_corpus
from sparsity_tf.train import algorithms, technique, trainer
from sparsity_tf.train.optimizers import HoldThenDecay


@keras.saving.register_keras_serializable("sparsity_tf")
class BitsPerCharacter(keras.metrics.MeanMetricWrapper):
    """Mean cross-entropy of the characters, in bits: nats / ln 2. Logits `(..., V)`, ids `(...)`."""

    def __init__(self, name="bits_per_character", dtype=None):
        super().__init__(_bits, name=name, dtype=dtype)

    def get_config(self):
        return {"name": self.name, "dtype": self.dtype}


def _bits(y_true, y_pred):
    nats = ops.sparse_categorical_crossentropy(y_true, ops.cast(y_pred, "float32"), from_logits=True)
    return nats / math.log(2)


def make_batches(recipe):
    """The recipe's `CharacterBatches`."""
    corpus = character_corpus(recipe.data_dir, recipe.vocabulary_size or None, recipe.held_out)
    return CharacterBatches(
        corpus,
        recipe.batch_size,
        recipe.window,
        recipe.seed,
        recipe.eval_batch_size,
        recipe.eval_characters or None,
    )


def describe(batches):
    """By what a text is told from others: a dict of plain values, for `state.claim_folder`."""
    corpus = batches.corpus
    checksum = zlib.crc32("".join(corpus.vocabulary).encode())
    counts = {}
    for split in ("train", "validation", "test"):
        ids = getattr(corpus, split)
        counts[f"{split}_characters"] = len(ids)
        checksum = zlib.crc32(ids, checksum)
    return {"vocabulary_size": len(corpus.vocabulary), **counts, "checksum": checksum}


def steps_per_epoch(recipe, batches):
    """Steps between evaluations."""
    return recipe.epoch_steps or batches.steps_per_epoch


def make_model(recipe, vocabulary_size):
    """The recipe's network with its technique, not compiled.

    Raises:
        ValueError: An option that the technique does not have, or a value it refuses; masks that do not fit.
    """
    with algorithms.naming_options(recipe, "technique_options"):
        model = models.CharRNN(
            vocabulary_size,
            hidden_size=recipe.hidden_size,
            depth=recipe.depth,
            cell=recipe.cell,
            kernel_regularizer=keras.regularizers.L2(recipe.kernel_l2) if recipe.kernel_l2 else None,
            **technique.arguments(recipe),
        )
    technique.begin_with(model, recipe)
    return model


def make_optimizer(recipe, steps):
    """The recipe's Keras optimizer; `steps` is the steps an epoch."""
    rate = recipe.learning_rate
    if recipe.lr_schedule != "constant":
        rate = HoldThenDecay(rate, recipe.epochs * steps, recipe.lr_decay_from, recipe.lr_schedule)
    clip = {"global_clipnorm": recipe.clip_norm} if recipe.clip_norm else {}
    if recipe.optimizer == "adam":
        return keras.optimizers.Adam(rate, **clip)
    # PyTorch adds its epsilon of 1e-8 to the root, Keras to what is under it.
    return keras.optimizers.RMSprop(rate, rho=0.99, epsilon=1e-16, **clip)


def compile_model(recipe, model, steps, grid):
    """Compiles a fresh model.

    Args:
        recipe: A `LanguageRecipe`.
        model: Its network.
        steps: Steps an epoch.
        grid: What the number of steps in one call of the compiled function must divide.
    """
    # Keras turns it off again where cuDNN does the work.
    jit_compile = recipe.jit_compile == "true" if recipe.jit_compile != "auto" else trainer.always_compiles()
    limit = recipe.steps_per_execution or 10
    per_call = steps if recipe.steps_per_execution else grid
    model.compile(
        make_optimizer(recipe, steps),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=[BitsPerCharacter()],
        jit_compile=jit_compile,
        steps_per_execution=trainer.largest_divisor(per_call, limit),
    )


def make_algorithm(recipe, batches, folder=None):
    """The recipe's algorithm that moves masks, a callback, or `None`."""
    return algorithms.make(recipe, steps_per_epoch(recipe, batches), lambda: batches.batch(0), folder)


def rehearse(recipe, batches):
    """`techniques.rehearse` of the recipe's algorithm, on a network of its own."""
    steps = steps_per_epoch(recipe, batches)

    def make():
        model = make_model(recipe, len(batches.corpus.vocabulary))
        compile_model(recipe, model, steps, steps)
        return model

    technique.rehearse(recipe, make_algorithm(recipe, batches), make, steps)


def penalty_callbacks(recipe, batches):
    """`techniques.penalty_callbacks` with a ramp in epochs."""
    ramp = technique.ramp_in_epochs(recipe, steps_per_epoch(recipe, batches))
    return technique.penalty_callbacks(recipe, penalty_examples(batches), *ramp)


def shortfall(recipe, algorithm, steps):
    """`techniques.shortfall` of the recipe; `steps` is the steps an epoch."""
    ramp = technique.ramp_in_epochs(recipe, steps)
    return technique.shortfall(recipe, algorithm, recipe.epochs * steps, *ramp)


def penalty_examples(batches):
    """What the penalty weight is divided by: the characters that training once over the text predicts."""
    return batches.num_examples * batches.window


def ignores_its_input(model, batches):
    """Whether the network predicts the same whatever the text: nothing is left in it that could be called a model."""
    logits = np.asarray(model.predict_on_batch(batches.batch(0)[0]), np.float32)
    return bool((np.ptp(logits, axis=(0, 1)) < 1e-6).all())
