"""`LanguageRecipe`: a checked set of settings of one training run of a character model. Each field is also a flag."""

import dataclasses

from sparsity_tf.models.char_rnn import CELLS
from sparsity_tf.train import algorithms
from sparsity_tf.train.recipe import _check_field, _choice, _number, _other
from sparsity_tf.train.translation_recipe import _as_for_images

OPTIMIZERS = ("rmsprop", "adam")
LR_SCHEDULES = ("constant", "linear", "cosine")


@dataclasses.dataclass(frozen=True)
class LanguageRecipe:
    """The settings of one training run of a character model, checked when made.

    Every field is documented by its `help` metadata, which is also the help of the flag. Those of an algorithm default
    to `None`: the callback's own.

    Raises:
        ValueError: A value that is not allowed; the message names it and says what is.
    """

    data_dir: str = _other(
        None,
        "Text file (.txt, also .xz or .gz), or folder with files for train, valid and test; default: Shakespeare's "
        "sonnets, which come with the package.",
    )
    vocabulary_size: int = _number(0, "Characters at most, the rarest become one; 0: no limit.", 0)
    held_out: float = _number(0.05, "Share of a single file that validation and test take each.", above=0, below=0.5)
    window: int = _number(50, "Characters through which gradients reach back; state is not carried further.", 1)
    batch_size: int = _number(128, "Windows a step.", 1)
    eval_batch_size: int = _number(256, "Windows a step in evaluation.", 1)
    eval_characters: int = _number(0, "Characters of validation and of test to predict, the first ones; 0: all.", 0)
    cell: str = _choice("rnn", tuple(CELLS), "Recurrent cell.")
    hidden_size: int = _number(1024, "Units of a recurrent layer.", 1)
    depth: int = _number(2, "Recurrent layers.", 1)
    technique: str = _as_for_images("technique")
    technique_options: dict = _as_for_images("technique_options")
    where: str = _as_for_images("where")
    final_sparsity: float = _as_for_images("final_sparsity")
    initial_sparsity: float = _as_for_images("initial_sparsity")
    begin_step: int = _as_for_images("begin_step")
    end_step: int = _as_for_images("end_step")
    frequency: str = _as_for_images("frequency")
    distribution: str = _as_for_images("distribution")
    dense_layers: str = _as_for_images("dense_layers")
    structure: str = _as_for_images("structure")
    scope: str = _as_for_images("scope")
    drop_fraction: float = _as_for_images("drop_fraction")
    drop_fraction_decay: str = _as_for_images("drop_fraction_decay")
    growth: str = _as_for_images("growth")
    death: str = _as_for_images("death")
    redistribution: str = _as_for_images("redistribution")
    prune_target: float = _as_for_images("prune_target")
    load_masks: str = _as_for_images("load_masks")
    reinitialize: str = _as_for_images("reinitialize")
    rounds: int = _as_for_images("rounds")
    rewind_step: int = _as_for_images("rewind_step")
    threshold_l2: float = _as_for_images("threshold_l2")
    kernel_l2: float = _number(
        5e-6,
        "Keras L2 factor c of kernels and biases: adds 2 c w, so that PyTorch's weight decay d is c = d / 2.",
        0,
    )
    optimizer: str = _choice("rmsprop", OPTIMIZERS, "Optimizer; rmsprop with PyTorch's decay 0.99.")
    learning_rate: float = _number(2e-3, "Highest learning rate.", above=0)
    lr_schedule: str = _choice(
        "constant", LR_SCHEDULES, "Learning rate: constant; linear or cosine down to 0 from lr_decay_from on."
    )
    lr_decay_from: float = _as_for_images("lr_decay_from")
    clip_norm: float = _number(0.0, "Largest norm of all gradients together; 0: not clipped.", 0)
    penalty_weight: float = _number(
        1.0, "Weight of the technique's penalty (vd, l0), divided by the characters of an epoch.", 0
    )
    penalty_begin_epoch: float = _as_for_images("penalty_begin_epoch")
    penalty_end_epoch: float = _as_for_images("penalty_end_epoch")
    penalty_schedule: str = _as_for_images("penalty_schedule")
    epochs: int = _as_for_images("epochs")
    epoch_steps: int = _number(0, "Steps of an epoch, after which the model is evaluated; 0: once over the text.", 0)
    seed: int = _as_for_images("seed")
    jit_compile: str = _as_for_images("jit_compile", help="XLA; auto: on a GPU.")
    dtype_policy: str = _as_for_images("dtype_policy")
    steps_per_execution: int = _as_for_images("steps_per_execution")

    def __post_init__(self):
        for field in dataclasses.fields(self):
            _check_field(field, getattr(self, field.name))
        algorithms.check_settings(self)
        if self.vocabulary_size == 1:
            raise ValueError("`vocabulary_size` must be 0 or at least 2. Received: vocabulary_size=1")
        if self.penalty_end_epoch and self.penalty_end_epoch < self.penalty_begin_epoch:
            raise ValueError(
                "`penalty_end_epoch` must not come before `penalty_begin_epoch`. Received: "
                f"{self.penalty_end_epoch} and {self.penalty_begin_epoch}"
            )
