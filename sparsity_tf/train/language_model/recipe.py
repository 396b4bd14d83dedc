"""`LanguageRecipe`: the checked settings of one training run of a character model. Each field is also a flag."""

import dataclasses

from sparsity_tf.models.char_rnn import CELLS
from sparsity_tf.train.classifier.recipe import Recipe
from sparsity_tf.train.fields import check_copies, check_order, choice, like, number, other
from sparsity_tf.train.sparsity_settings import SparsitySettings

OPTIMIZERS = ("rmsprop", "adam")
LR_SCHEDULES = ("constant", "linear", "cosine")


@dataclasses.dataclass(frozen=True)
class LanguageRecipe(SparsitySettings):
    """The settings of one training run of a character model, checked when made.

    The `help` metadata of a field documents it and is also the help text of its flag.

    Raises:
        ValueError: A value is not allowed. The message names the setting and says which values are.
    """

    data_dir: str = other(
        None,
        "Text file (.txt, also .xz or .gz), or folder with files for train, valid and test; default: Shakespeare's "
        "sonnets, which come with the package.",
    )
    vocabulary_size: int = number(
        0, "Largest number of different characters: the rarest ones share one symbol; 0: no limit.", 0
    )
    held_out: float = number(
        0.05, "Share of the text for validation, and again for test, if data_dir is a single file.", above=0, below=0.5
    )
    window: int = number(
        50, "Number of characters in a training window: gradients and states do not reach beyond it.", 1
    )
    batch_size: int = number(128, "Number of windows in a step.", 1)
    eval_batch_size: int = number(256, "Number of windows in a step of evaluation.", 1)
    eval_characters: int = number(
        0, "How many characters of the validation and test texts to predict, from their beginning; 0: all.", 0
    )
    cell: str = choice("rnn", tuple(CELLS), "Recurrent cell.")
    hidden_size: int = number(1024, "Units of a recurrent layer.", 1)
    depth: int = number(2, "Recurrent layers.", 1)
    kernel_l2: float = number(
        5e-6,
        "L2 factor c of kernels and biases: adds 2 c w to the gradient of a weight w. For a weight decay d of "
        "PyTorch give c = d / 2.",
        0,
    )
    optimizer: str = choice("rmsprop", OPTIMIZERS, "Optimizer; rmsprop with PyTorch's decay 0.99.")
    learning_rate: float = number(2e-3, "Highest learning rate.", above=0)
    lr_schedule: str = choice(
        "constant",
        LR_SCHEDULES,
        "Course of the learning rate: constant; linear or cosine (constant for the share lr_decay_from of the run, "
        "then falling to 0).",
    )
    lr_decay_from: float = like(Recipe, "lr_decay_from")
    clip_norm: float = number(0.0, "Largest norm of all gradients together; 0: not clipped.", 0)
    penalty_weight: float = number(
        1.0, "Weight of the technique's penalty (vd, l0), divided by the characters of an epoch.", 0
    )
    penalty_begin_epoch: float = like(Recipe, "penalty_begin_epoch")
    penalty_end_epoch: float = like(Recipe, "penalty_end_epoch")
    penalty_schedule: str = like(Recipe, "penalty_schedule")
    epochs: int = like(Recipe, "epochs")
    epoch_steps: int = number(
        0,
        "Number of steps in an epoch. The model is evaluated after each epoch; 0: the steps that see the text once.",
        0,
    )
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
        help="Keep the model of the fewest validation bits per character once masks and penalties are final, as "
        "best.keras.",
    )

    def __post_init__(self):
        super().__post_init__()
        if self.vocabulary_size == 1:
            raise ValueError("`vocabulary_size` must be 0 or at least 2. Received: vocabulary_size=1")
        check_order(self, "penalty_begin_epoch", "penalty_end_epoch")
        check_copies(self)
