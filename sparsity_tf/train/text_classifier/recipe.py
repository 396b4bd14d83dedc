"""`TextRecipe`: the checked settings of one training run of a text classifier. Each field is also a flag."""

import dataclasses

from sparsity_tf.train.classifier.recipe import Recipe
from sparsity_tf.train.fields import check_copies, check_order, choice, like, number, other
from sparsity_tf.train.sparsity_settings import SparsitySettings

LR_SCHEDULES = ("constant", "linear", "cosine")


@dataclasses.dataclass(frozen=True)
class TextRecipe(SparsitySettings):
    """The settings of one training run of a text classifier, checked when made.

    The `help` metadata of a field documents it and is also the help text of its flag.

    Raises:
        ValueError: A value is not allowed. The message names the setting and says which values are.
    """

    data_dir: str = other(
        None,
        "File of labelled texts (.tsv or .txt, also .gz or .xz), or folder with files for train, valid and test. A "
        "line is label<TAB>text or number<TAB>rating<TAB>text. presets.py names a package that has such a file.",
    )
    vocabulary_size: int = number(
        0, "Largest number of ids, padding and unknown words included; the rarest words are unknown. 0: no limit.", 0
    )
    min_count: int = number(1, "Words that occur less often in the training texts are unknown.", 1)
    held_out: float = number(
        0.1, "Share of the texts for validation, and again for test, if data_dir is a single file.", above=0, below=0.5
    )
    split_seed: int = number(
        0, "Seed that draws the texts to hold out, so that runs of several seeds hold out the same ones.", 0
    )
    length: int = number(200, "Number of words that are used of a text, the first ones.", 1)
    embedding_size: int = number(300, "Numbers that stand for a word.", 1)
    hidden_size: int = number(128, "Units of the LSTM.", 1)
    kernel_l2: float = number(
        0.0, "L2 factor c of the embedding and the kernels: adds 2 c w to the gradient of a weight w.", 0
    )
    batch_size: int = number(128, "Number of texts in a step.", 1)
    eval_batch_size: int = number(256, "Number of texts in a step of evaluation.", 1)
    learning_rate: float = number(5e-4, "Highest learning rate of Adam.", above=0)
    lr_schedule: str = choice(
        "constant",
        LR_SCHEDULES,
        "Course of the learning rate: constant; linear or cosine (constant for the share lr_decay_from of the run, "
        "then falling to 0).",
    )
    lr_decay_from: float = like(Recipe, "lr_decay_from")
    clip_norm: float = number(0.0, "Largest norm of all gradients together; 0: not clipped.", 0)
    penalty_weight: float = number(
        1.0, "Weight of the technique's penalty (gvd, vd, l0), divided by the number of training texts.", 0
    )
    penalty_begin_epoch: float = like(Recipe, "penalty_begin_epoch")
    penalty_end_epoch: float = like(Recipe, "penalty_end_epoch")
    penalty_schedule: str = like(Recipe, "penalty_schedule")
    epochs: int = like(Recipe, "epochs")
    seed: int = like(Recipe, "seed")
    jit_compile: str = like(Recipe, "jit_compile", help="Compile with XLA. auto: only on a GPU.")
    dtype_policy: str = like(Recipe, "dtype_policy")
    strategy: str = choice("none", ("none", "data_parallel"), "data_parallel takes all devices (JAX).")
    steps_per_execution: int = like(Recipe, "steps_per_execution")
    save_every: int = like(Recipe, "save_every")
    keep_checkpoint_max: int = like(Recipe, "keep_checkpoint_max")
    keep_best: bool = like(
        Recipe,
        "keep_best",
        help="Keep the model of the lowest validation error once masks and penalties are final, as best.keras.",
    )

    def __post_init__(self):
        super().__post_init__()
        if self.vocabulary_size in (1, 2):
            raise ValueError(
                f"`vocabulary_size` must be 0 or at least 3. Received: vocabulary_size={self.vocabulary_size}"
            )
        check_order(self, "penalty_begin_epoch", "penalty_end_epoch")
        check_copies(self)
