"""From a `TranslationRecipe` to what `fit` needs: corpus, vocabulary, batches, compiled model, callbacks."""

import hashlib
import itertools
import os
import zlib

import keras
from keras import ops

from sparsity_tf import models
from sparsity_tf.datasets.batches import first_of
from sparsity_tf.datasets.text import parallel_corpus, subwords, translation_batches
from sparsity_tf.train import algorithms, technique, trainer
from sparsity_tf.train.losses import SmoothedCrossentropy
from sparsity_tf.train.optimizers import HoldThenDecay, WarmUp

VOCABULARY = "vocabulary.subwords"
_DESCRIBED_PAIRS = 1000


@keras.saving.register_keras_serializable("sparsity_tf")
class ReciprocalSquareRoot(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate of the Transformer: c min(1, t / w) / sqrt(max(t, w) d) at step t.

    Source: Vaswani et al., arXiv 1706.03762, equation 3; tensor2tensor's
    `constant*linear_warmup*rsqrt_decay*rsqrt_hidden_size`.

    Args:
        constant: c, > 0; 2 in tensor2tensor's base model.
        warmup_steps: w, >= 1: steps in which the rate rises linearly from 0.
        hidden_size: d, the units of a position.

    Example:
        >>> schedule = ReciprocalSquareRoot(2.0, warmup_steps=8000, hidden_size=512)
        >>> [f"{float(schedule(step)):.3e}" for step in (0, 8000, 100_000)]
        ['0.000e+00', '9.882e-04', '2.795e-04']
    """

    def __init__(self, constant, warmup_steps, hidden_size):
        for name, value in (("constant", constant), ("warmup_steps", warmup_steps), ("hidden_size", hidden_size)):
            if not value > 0:
                raise ValueError(f"`{name}` must be positive. Received: {name}={value}")
        self.constant, self.warmup_steps, self.hidden_size = constant, warmup_steps, hidden_size

    def __call__(self, step):
        step = ops.cast(step, "float32")
        rise = ops.minimum(1.0, step / self.warmup_steps)
        return self.constant * self.hidden_size**-0.5 * rise * ops.rsqrt(ops.maximum(step, float(self.warmup_steps)))

    def get_config(self):
        return {name: getattr(self, name) for name in ("constant", "warmup_steps", "hidden_size")}


@keras.saving.register_keras_serializable("sparsity_tf")
class TokenCrossentropy(keras.metrics.MeanMetricWrapper):
    """Mean cross-entropy of the tokens in nats, without label smoothing; its exponential is the perplexity."""

    def __init__(self, name="cross_entropy", dtype=None):
        super().__init__(_crossentropy, name=name, dtype=dtype)

    def get_config(self):
        return {"name": self.name, "dtype": self.dtype}


def _crossentropy(y_true, y_pred):
    return ops.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)


def open_corpus(recipe):
    """The recipe's `ParallelCorpus`."""
    return parallel_corpus.parallel_corpus(
        recipe.dataset,
        recipe.data_dir,
        recipe.source_language,
        recipe.target_language,
        recipe.reverse,
        recipe.held_out,
    )


def make_vocabulary(recipe, corpus, cache_dir):
    """The recipe's vocabulary: the file that it names, or one trained on the training pairs and kept in `cache_dir`.

    Raises:
        FileNotFoundError, ValueError: As `subwords.load` and `subwords.train`.
    """
    if recipe.vocabulary is not None:
        return subwords.load(recipe.vocabulary)
    settings = recipe.vocabulary_size, recipe.vocabulary_kind, recipe.seed, corpus.train.fingerprint
    key = hashlib.sha256(repr(settings).encode()).hexdigest()[:20]
    path = os.path.join(cache_dir, f"vocabulary-{key}.model")
    if os.path.exists(path):
        return subwords.load(path)
    texts = (text for pair in corpus.train for text in pair)
    return subwords.train(texts, path, recipe.vocabulary_size, recipe.vocabulary_kind, seed=recipe.seed)


def make_batches(recipe, corpus, vocabulary, cache_dir, replicas=1):
    """The recipe's `TranslationBatches`."""
    names = ("batch_tokens", "max_length", "packed", "too_long", "bucket_growth", "pad_to", "seed")
    names += ("eval_batch_tokens", "eval_max_length", "eval_too_long")
    options = {name: getattr(recipe, name) for name in names}
    return translation_batches.translation_batches(
        corpus, vocabulary, replicas=replicas, cache_dir=cache_dir, **options
    )


def describe(batches):
    """By what a corpus is told from others: a dict of plain values, for `state.claim_folder`.

    The checksum is of the vocabulary's file and of the first pairs of each split: reading all takes minutes.
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


def make_model(recipe, vocabulary_size, packed=None):
    """The recipe's Transformer with its technique, not compiled.

    Args:
        recipe: A `TranslationRecipe`.
        vocabulary_size: Number of subwords.
        packed: Whether it takes packed rows; default: as the recipe has it.

    Raises:
        ValueError: An option that the technique does not have, or a value it refuses; masks or weights that do not fit.
    """
    sparse = technique.arguments(recipe)
    options = sparse.pop("technique_options") or {}
    sizes = ("num_layers", "hidden_size", "filter_size", "num_heads", "split_heads")
    rates = ("dropout", "attention_dropout", "relu_dropout")
    with algorithms.naming_options(recipe, "technique_options"):
        model = models.Transformer(
            vocabulary_size,
            **{name: getattr(recipe, name) for name in (*sizes, *rates)},
            packed=recipe.packed if packed is None else packed,
            seed=recipe.seed,
            **sparse,
            **options,
        )
    technique.begin_with(model, recipe)
    return model


def learning_rate(recipe):
    """The recipe's learning rate, a Keras schedule."""
    rate, warmup = recipe.learning_rate, recipe.warmup_steps
    if recipe.lr_schedule == "rsqrt":
        return ReciprocalSquareRoot(rate, warmup, recipe.hidden_size)
    if recipe.lr_schedule != "constant":
        rate = HoldThenDecay(rate, recipe.train_steps, recipe.lr_decay_from, recipe.lr_schedule)
    return WarmUp(rate, warmup)


def compile_model(recipe, model, vocabulary_size, grid):
    """Compiles a fresh model: Adam, token-mean smoothed cross-entropy, padding weighted out.

    Args:
        recipe: A `TranslationRecipe`.
        model: Its network.
        vocabulary_size: Number of subwords.
        grid: What the number of steps in one call of the compiled function must divide.
    """
    jit_compile = recipe.jit_compile == "true" if recipe.jit_compile != "auto" else trainer.always_compiles()
    # Of several replicas TensorFlow 2.21 can't run the loop over steps.
    limit = (recipe.steps_per_execution or 20) if recipe.strategy == "none" else 1
    per_call = recipe.eval_every if recipe.steps_per_execution else grid
    # The share is of the other subwords, and that of all, the right one included, is larger.
    smoothing = recipe.label_smoothing * vocabulary_size / (vocabulary_size - 1)
    model.compile(
        keras.optimizers.Adam(learning_rate(recipe), recipe.beta_1, recipe.beta_2, recipe.epsilon),
        SmoothedCrossentropy(smoothing, reduction="mean_with_sample_weight"),
        weighted_metrics=[keras.metrics.SparseCategoricalAccuracy("accuracy"), TokenCrossentropy()],
        jit_compile=jit_compile,
        steps_per_execution=trainer.largest_divisor(per_call, limit),
    )


def make_algorithm(recipe, batches, folder=None):
    """The recipe's algorithm that moves masks, a callback, or `None`; an epoch is `eval_every` steps."""

    def first_batch():
        features, targets, _ = first_of(batches.train())
        return features, targets

    return algorithms.make(recipe, recipe.eval_every, first_batch, folder)


def rehearse(recipe, batches):
    """`techniques.rehearse` of the recipe's algorithm, on a network of its own."""

    def make():
        model = make_model(recipe, batches.vocabulary.size)
        compile_model(recipe, model, batches.vocabulary.size, recipe.eval_every)
        return model

    technique.rehearse(recipe, make_algorithm(recipe, batches), make, recipe.eval_every)


def penalty_callbacks(recipe, batches):
    """`techniques.penalty_callbacks` with the recipe's ramp, which is in steps."""
    return technique.penalty_callbacks(recipe, penalty_examples(recipe, batches), *_ramp(recipe))


def _ramp(recipe):
    return recipe.penalty_begin_step, recipe.penalty_end_step


def shortfall(recipe, algorithm):
    """`techniques.shortfall` of the recipe."""
    return technique.shortfall(recipe, algorithm, recipe.train_steps, *_ramp(recipe))


def penalty_examples(recipe, batches):
    """What the recipe's penalty weight is divided by."""
    return recipe.penalty_examples or batches.num_examples


def settled_from(recipe, algorithm):
    """`techniques.settled_from` of the recipe."""
    return technique.settled_from(recipe, algorithm, recipe.train_steps, recipe.penalty_end_step)
