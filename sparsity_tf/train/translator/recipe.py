"""`TranslationRecipe`: the checked settings of one training run of the translator. Each field is also a flag."""

import dataclasses

from sparsity_tf.train.classifier.recipe import Recipe
from sparsity_tf.train.fields import check_copies, check_order, choice, like, number, other
from sparsity_tf.train.sparsity_settings import SparsitySettings

LR_SCHEDULES = ("rsqrt", "constant", "linear", "cosine")
SPLITS = ("none", "validation", "test")
# Dropout (residual, attention, ReLU) and label smoothing, under the names that *State of Sparsity* uses.
REGULARIZATIONS = {
    "none": {"dropout": 0.0, "attention_dropout": 0.0, "relu_dropout": 0.0, "label_smoothing": 0.0},
    "label_smoothing": {"dropout": 0.0, "attention_dropout": 0.0, "relu_dropout": 0.0, "label_smoothing": 0.1},
    "dropout+label_smoothing": {
        "dropout": 0.1,
        "attention_dropout": 0.1,
        "relu_dropout": 0.1,
        "label_smoothing": 0.1,
    },
    "moredropout+label_smoothing": {
        "dropout": 0.3,
        "attention_dropout": 0.1,
        "relu_dropout": 0.1,
        "label_smoothing": 0.1,
    },
    "muchmoredropout+label_smoothing": {
        "dropout": 0.5,
        "attention_dropout": 0.1,
        "relu_dropout": 0.1,
        "label_smoothing": 0.1,
    },
}


@dataclasses.dataclass(frozen=True)
class TranslationRecipe(SparsitySettings):
    """The settings of one training run of a Transformer, checked when made.

    The `help` metadata of a field documents it and is also the help text of its flag. An "epoch" always means
    `eval_every` steps, also in `frequency=epoch`.

    Raises:
        ValueError: A value is not allowed. The message names the setting and says which values are.
    """

    dataset: str = other("tsv", "Corpus: tsv, text, or a name of tfds such as wmt14_translate/de-en.")
    data_dir: str = other(
        None,
        "Folder with train, validation (or valid, dev) and test files, as .tsv or one file for each language; or one "
        ".tsv; or two text files separated by a comma. For a data set of tfds: the folder in which tfds keeps it.",
    )
    source_language: str = other(
        "en", "Language to translate from: the end of the file names, or the key in the tfds features."
    )
    target_language: str = other("de", "Language to translate into, named in the same way.")
    reverse: bool = other(False, "Exchange the columns of a TSV (or the two languages).")
    held_out: int = number(
        1000,
        "Number of pairs for validation, and again for test, if the corpus is one file. They are cut off its end.",
        1,
    )
    vocabulary: str = other(
        None, "Vocabulary file, of SentencePiece or tensor2tensor; otherwise one is trained on the training pairs."
    )
    vocabulary_size: int = number(32_768, "Size of the vocabulary that is trained.", 300)
    vocabulary_kind: str = choice("bpe", ("bpe", "unigram"), "Kind of the vocabulary that is trained.")
    batch_tokens: int = number(4096, "Subwords in a batch on each side, padding included, over all replicas.", 1)
    max_length: int = number(
        256, "Largest number of subwords in a training sentence, its end included. Also the length of packed rows.", 2
    )
    packed: bool = other(False, "Pack several sentences into each row.")
    too_long: str = choice("drop", ("drop", "error"), "What to do with training pairs longer than max_length.")
    eval_batch_tokens: int = number(4096, "As batch_tokens, in evaluation.", 1)
    eval_max_length: int = number(1024, "Subwords in a validation or test sentence at most.", 2)
    eval_too_long: str = choice(
        "error", ("drop", "error"), "What to do with validation and test pairs longer than eval_max_length."
    )
    bucket_growth: float = number(
        1.1, "Sentences of similar length form a bucket: ratio of the lengths of neighbouring buckets.", above=1
    )
    pad_to: str = choice(
        "bucket", ("bucket", "longest"), "Pad sentences to their bucket, or to the longest of a batch."
    )
    num_layers: int = number(6, "Layers of the encoder, and of the decoder.", 1)
    hidden_size: int = number(512, "Number of units at each position (the width of the network).", 1)
    filter_size: int = number(2048, "Inner units of the feed-forward layers.", 1)
    num_heads: int = number(8, "Attention heads.", 1)
    split_heads: bool = other(False, "Use a matrix of its own for the query, key and value of each head.")
    dropout: float = number(0.1, "Dropout after the inputs and after each part of a layer.", 0, below=1)
    attention_dropout: float = number(0.1, "Dropout of attention probabilities.", 0, below=1)
    relu_dropout: float = number(0.1, "Dropout between the feed-forward layers.", 0, below=1)
    label_smoothing: float = number(
        0.1, "Share of each target that is spread evenly over the other subwords.", 0, below=1
    )
    learning_rate: float = number(
        2.0,
        "With lr_schedule=rsqrt, the constant c in c min(1, t / warmup_steps) / sqrt(max(t, warmup_steps) "
        "hidden_size); otherwise the highest learning rate.",
        above=0,
    )
    lr_schedule: str = choice(
        "rsqrt",
        LR_SCHEDULES,
        "Course of the learning rate: rsqrt; or a warm-up, then constant, linear or cosine (constant for the share "
        "lr_decay_from of the run, then falling to 0).",
    )
    warmup_steps: int = number(8000, "Steps in which the learning rate rises.", 1)
    lr_decay_from: float = like(Recipe, "lr_decay_from")
    beta_1: float = number(0.9, "Adam's decay of the mean gradient.", 0, below=1)
    beta_2: float = number(0.997, "Adam's decay of the mean square.", 0, below=1)
    epsilon: float = number(1e-9, "Adam's epsilon.", above=0)
    penalty_weight: float = number(1.0, "Weight of the technique's penalty (vd, l0), divided by penalty_examples.", 0)
    penalty_examples: int = number(
        0, "Number that the penalty is divided by; 0: the number of training pairs. (For WMT: 4,500,000.)", 0
    )
    penalty_begin_step: int = number(0, "Step until which the penalty is 0.", 0)
    penalty_end_step: int = number(0, "Step from which the penalty has its full weight.", 0)
    penalty_schedule: str = like(Recipe, "penalty_schedule")
    train_steps: int = number(500_000, "Steps of the whole run.", 1)
    eval_every: int = number(
        10_000, "Steps between evaluations, log rows and checkpoints; a divisor of train_steps.", 1
    )
    seed: int = like(Recipe, "seed")
    jit_compile: str = like(Recipe, "jit_compile", help="Compile with XLA. auto: only on a GPU.")
    dtype_policy: str = like(Recipe, "dtype_policy")
    strategy: str = like(Recipe, "strategy")
    steps_per_execution: int = like(Recipe, "steps_per_execution")
    keep_initial: bool = like(Recipe, "keep_initial")
    keep_best: bool = other(
        True,
        "Keep the model with the lowest validation loss as best.keras. Only models with the final sparsity and "
        "penalty count.",
    )
    save_every: int = like(Recipe, "save_every")
    keep_checkpoint_max: int = like(Recipe, "keep_checkpoint_max")
    bleu: str = choice("validation", SPLITS, "Split to translate and score at the end.")
    beam_size: int = number(
        4, "Number of partial translations that the beam search keeps, at the end of the run; 1: greedy.", 1
    )
    length_penalty: float = number(0.6, "Alpha of the length penalty ((5 + length) / 6)^alpha.", 0)
    extra_length: int = number(100, "How many subwords longer than its source a translation may be.", 0)
    decode_batch_size: int = number(32, "Sentences translated at a time.", 1)

    def __post_init__(self):
        super().__post_init__()
        if self.hidden_size % self.num_heads:
            raise ValueError(
                "`num_heads` must divide `hidden_size`. "
                f"Received: num_heads={self.num_heads}, hidden_size={self.hidden_size}"
            )
        if self.train_steps % self.eval_every:
            raise ValueError(
                "`train_steps` must be a multiple of `eval_every`. "
                f"Received: train_steps={self.train_steps}, eval_every={self.eval_every}"
            )
        check_order(self, "penalty_begin_step", "penalty_end_step")
        check_copies(self)
        if self.batch_tokens < self.max_length:
            raise ValueError(
                "`batch_tokens` must be at least `max_length`. "
                f"Received: batch_tokens={self.batch_tokens}, max_length={self.max_length}"
            )

    @property
    def epochs(self):
        """Number of evaluations. `fit` calls the steps between two of them an epoch."""
        return self.train_steps // self.eval_every
