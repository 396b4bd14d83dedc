"""The sparsity settings of a recipe, their checks, and the table from which the mask algorithm's callback is made.

`SparsitySettings` holds the fields that every recipe has. The table `ALGORITHMS` says which settings each algorithm of
`sparsity_tf.callbacks` takes, and which argument each setting becomes. `make` makes the callback. All these algorithms
train masked layers. A setting that is `None` is not passed on, so that the callback's default holds. A setting that a
technique does not take is an error. `technique_options` gives a callback its other arguments.
"""

import contextlib
import dataclasses
import inspect
import itertools
import math
import os
import re
import typing

from sparsity_tf import callbacks, layers
from sparsity_tf.train import run_folder
from sparsity_tf.train.fields import check_field, check_penalty_factors, choice, number, other, string
from sparsity_tf.train.setting_texts import parse_distribution, parse_frequency


class Algorithm(typing.NamedTuple):
    """A row of the table: the callback, and for each setting of a recipe the callback's argument."""

    callback: type
    settings: dict


def _same(*names):
    return {name: name for name in names}


# The one setting whose name is not that of every argument that it becomes. Algorithms that hold a sparsity call it
# `sparsity`. With one name for all algorithms, a study can compare them along one axis.
_TARGET = {"final_sparsity": "sparsity", **_same("distribution", "dense")}
_WHEN = _same("begin_step", "end_step", "frequency")
_GRADUAL = {**_TARGET, **_WHEN, **_same("final_sparsity", "initial_sparsity", "structure")}
_DROP_AND_GROW = {**_TARGET, **_WHEN, **_same("drop_fraction", "decay", "drop", "grow", "redistribution")}

ALGORITHMS = {
    "magnitude": Algorithm(callbacks.MagnitudePruning, {**_GRADUAL, **_same("scope")}),
    "random": Algorithm(callbacks.RandomPruning, _GRADUAL),
    "static": Algorithm(callbacks.StaticSparsity, {**_TARGET, **_same("structure")}),
    "set": Algorithm(callbacks.SET, _DROP_AND_GROW),
    "rigl": Algorithm(callbacks.RigL, _DROP_AND_GROW),
    "sparse_momentum": Algorithm(callbacks.SparseMomentum, _DROP_AND_GROW),
    "srigl": Algorithm(callbacks.SRigL, {**_TARGET, **_WHEN, **_same("drop_fraction", "decay")}),
    "mest": Algorithm(callbacks.MEST, {**_TARGET, **_WHEN, **_same("drop_fraction")}),
    "granet": Algorithm(callbacks.GraNet, {**_TARGET, **_WHEN, **_same("initial_sparsity", "drop_fraction", "decay")}),
    "acdc": Algorithm(
        callbacks.ACDC, {**_WHEN, **_same("final_sparsity", "distribution", "dense", "structure", "scope")}
    ),
    "slimming": Algorithm(callbacks.NetworkSlimming, _same("final_sparsity", "end_step", "scope", "distribution")),
    "dsr": Algorithm(
        callbacks.DynamicSparseReparameterization,
        {**_TARGET, **_WHEN, **_same("prune_target", "redistribution", "structure")},
    ),
    "deepr": Algorithm(callbacks.DeepRewiring, {**_TARGET, **_WHEN}),
    "narang": Algorithm(callbacks.NarangPruning, _WHEN),
    "snip": Algorithm(callbacks.SNIP, {**_TARGET, **_same("scope")}),
    "grasp": Algorithm(callbacks.GraSP, {**_TARGET, **_same("scope")}),
    "lottery": Algorithm(callbacks.IterativePruning, _same("final_sparsity", "rounds", "rewind_step", "scope")),
}
ALGORITHMS["gmp"] = ALGORITHMS["magnitude"]
ALGORITHMS["snfs"] = ALGORITHMS["sparse_momentum"]

# Settings of the technique "masked" itself.
_OF_MASKED = ("load_masks", "reinitialize")
# Settings of the techniques of layers whose sparsity `callbacks.SparsityRamp` raises.
_OF_RAMP = ("final_sparsity", "initial_sparsity", "begin_step", "end_step")
SETTINGS = tuple(dict.fromkeys([*itertools.chain(*(a.settings for a in ALGORITHMS.values())), *_OF_MASKED]))

# Arguments that come from the run itself or from settings. `technique_options` must not hold any of them.
_GIVEN = {"where", "seed", "data", "steps_per_round", "snapshot"}
_GIVEN.update(itertools.chain(*(algorithm.settings.values() for algorithm in ALGORITHMS.values())))


def identity(technique):
    """The class behind a technique's name or alias: a callback or a `layers.Technique`; `None` for "none"."""
    algorithm = ALGORITHMS.get(technique)
    return algorithm.callback if algorithm else layers.TECHNIQUES.get(technique)


def algorithm_of(technique):
    """The `Algorithm` whose callback a run of a technique has, or `None`.

    The layers of powerpropagation have masks, but no zeros of their own. Magnitude pruning makes the zeros.
    """
    if layers.TECHNIQUES.get(technique) is layers.PowerPropagation:
        return ALGORITHMS["magnitude"]
    return ALGORITHMS.get(technique)


def has_option(technique, name):
    """Whether the name is a technique of layers that has an option `name`."""
    return technique in layers.TECHNIQUES and name in layers.TECHNIQUES[technique].option_names()


def ramps_sparsity(technique):
    """Whether the name is a technique of layers whose sparsity rises during training."""
    return hasattr(layers.TECHNIQUES.get(technique), "assign_sparsity")


def settings_of(technique):
    """The settings in `SETTINGS` that a technique takes, a tuple."""
    if algorithm_of(technique) is not None:
        return tuple(algorithm_of(technique).settings)
    layer_technique = layers.TECHNIQUES.get(technique)
    if layer_technique is layers.Masked:
        return _OF_MASKED
    if ramps_sparsity(technique):
        return _OF_RAMP
    return ("final_sparsity", "distribution") if has_option(technique, "sparsity") else ()


def _technique_names():
    return ("none", *layers.TECHNIQUES, *ALGORITHMS)


@dataclasses.dataclass(frozen=True)
class SparsitySettings:
    """The sparsity settings of a recipe, checked when made. The programs' recipes add data, network and training.

    The `help` metadata of a field documents it and is also the help text of its flag. An algorithm's settings default
    to `None`, which means the callback's own default.

    Raises:
        ValueError: A value is not allowed. The message names the setting and says which values are.
    """

    # Values for programs whose recipes do not have these settings.
    strategy = "none"
    keep_initial = False
    keep_best = False
    log_every = 1
    save_every = 0
    keep_checkpoint_max = 0

    technique: str = choice(
        "none",
        _technique_names,
        "Technique that makes weights sparse: a technique of layers, or an algorithm that changes masks.",
    )
    technique_options: dict = other(
        dict,
        "More options of the technique. The flag takes a JSON object, which changes only the options that it names.",
    )
    where: str = other(None, "Regular expression for the names of the layers to make sparse; otherwise all.")
    final_sparsity: float = number(
        None,
        "Fraction of zeros at the end, or during the whole run (algorithms that change masks; dnw, top_kast, "
        "powerprop, movement).",
        0,
        below=1,
    )
    initial_sparsity: float = number(
        None, "Fraction of zeros at begin_step (magnitude, random, granet, movement).", 0, below=1
    )
    begin_step: int = number(None, "Optimizer step after which masks begin to change.", 0)
    end_step: int = number(None, "Last optimizer step after which masks change. Default: depends on the algorithm.", 1)
    frequency: str = string(
        "Steps between two changes of the masks: an integer; epoch; or pairs such as 0:100,25:200, which means every "
        "100 steps, and from epoch 25 on every 200 steps (pairs not with algorithms that read gradients).",
    )
    distribution: str = string(
        "How final_sparsity is divided among the layers (algorithms, dnw): uniform, er, erk, by_size, a budget's "
        ".csv file, FILE.csv:COLUMN, str:90.23 (a published budget of STR), or pairs such as "
        "stage.*=0.91,classifier=0.8.",
    )
    dense: str = string(
        "Layers kept dense: first, last, first_and_last, or names and regular expressions separated by commas."
    )
    structure: str = string(
        "Which weights are pruned together: 2:4 (N:M), 4x1 (blocks), filter, ... (magnitude, random, static, acdc; dsr "
        "moves blocks and filters)."
    )
    scope: str = choice(
        None,
        ("layer", "global"),
        "Which weights compete: those of one layer, or of all layers (magnitude, acdc, slimming, snip, grasp, "
        "lottery).",
    )
    drop_fraction: float = number(
        None, "Share of live weights to drop at first (set, rigl, srigl, mest, granet, sparse_momentum).", 0, most=1
    )
    decay: str = choice(None, ("cosine", "linear", "constant"), "How drop_fraction falls.")
    grow: str = string("Which weights grow (set, rigl, sparse_momentum): random, gradient, momentum, ...")
    drop: str = string("Which weights are dropped (set, rigl, sparse_momentum): magnitude, SET, threshold, ...")
    redistribution: str = string(
        "How the weights to grow are divided among the layers: in proportion to momentum, magnitude, nonzeros, ... "
        "(set, rigl, sparse_momentum) or to survivors, pruned, zeros, ... (dsr).",
    )
    prune_target: float = number(
        None,
        "How many weights each update should prune: a number, or a fraction below 1 of all parameters (dsr).",
        above=0,
    )
    load_masks: str = string(
        "Checkpoint whose masks to use; they stay fixed. With the seed of its run, training begins with the same "
        "weights (masked)."
    )
    load_weights: str = other(
        None,
        "File whose weights training begins with: a .keras file such as a run's initial.keras, a TensorFlow checkpoint "
        "of State of Sparsity, or a PyTorch checkpoint of STR (.pth). It must have the same layers. Weights of another "
        "technique are loaded with their values at inference. If the number of classes differs, the last layer keeps "
        "its initial weights, and a warning says so.",
    )
    reinitialize: str = choice(
        None,
        ("per_unit", "per_layer", "augmented"),
        "Draws the weights under the masks anew, scaled to the connections that are left (masked).",
    )
    rounds: int = number(
        None, "How often the network is pruned, set back to earlier weights and trained again (lottery).", 1
    )
    rewind_step: int = number(
        None, "Step whose weights each round begins with: a multiple of the steps in an epoch (lottery).", 0
    )
    threshold_l2: float = number(
        0.0,
        "L2 factor c of the thresholds: adds 2 c s to the gradient of a threshold s (techniques with the option "
        "threshold_regularizer, such as str).",
        0,
    )
    penalty_factors: dict = other(
        dict,
        "Factors of the penalty of layers, by name or regular expression (techniques with a penalty, such as sbp and "
        "vd). The flag takes a JSON object, which changes only the layers that it names.",
    )

    def __post_init__(self):
        for field in dataclasses.fields(self):
            check_field(field, getattr(self, field.name))
        check_settings(self)


def check_settings(recipe):
    """Raises a ValueError if the recipe has a setting that its technique does not take."""
    taken = settings_of(recipe.technique)
    for name in SETTINGS:
        value = getattr(recipe, name)
        if value is not None and name not in taken:
            hint = ""
            if name == "dense" and recipe.technique != "none":
                hint = "; `where` chooses the layers to make sparse, for example --where='(?!classifier$).*'"
            raise ValueError(
                f"`{name}` is not used by technique {recipe.technique}, which takes "
                f"{', '.join(taken) or 'no such setting'}{hint}. Received: {name}={value}"
            )
    if recipe.technique == "none":
        for name in ("technique_options", "where"):
            if getattr(recipe, name):
                raise ValueError(f"`{name}` is not used by technique none. Received: {name}={getattr(recipe, name)}")
    if recipe.threshold_l2 and not has_option(recipe.technique, "threshold_regularizer"):
        raise ValueError(
            f"`threshold_l2` is not used by technique {recipe.technique}, which has no thresholds to learn. "
            f"Received: threshold_l2={recipe.threshold_l2}"
        )
    check_penalty_factors(recipe, getattr(layers.TECHNIQUES.get(recipe.technique), "penalized", False))
    if recipe.frequency is not None:
        parse_frequency(recipe.frequency, 1)


def make(recipe, steps, batch, folder=None):
    """Makes the recipe's algorithm, a callback, or returns `None` if the recipe has none.

    Args:
        recipe: A `Recipe`.
        steps: Number of steps in an epoch.
        batch: Function that returns training arrays (x, y), for pruning at initialisation.
        folder: Folder of the run, in which an algorithm may keep a file beside the model. `None` keeps it in memory.

    Raises:
        ValueError: The callback refuses a setting or an option. The message uses the recipe's names.
    """
    if algorithm_of(recipe.technique) is None:
        return None
    callback, settings = algorithm_of(recipe.technique)
    # Where the technique is one of layers, its options are the layers' options.
    options = recipe.technique_options if recipe.technique in ALGORITHMS else {}
    values = {name: getattr(recipe, name) for name in settings}
    if recipe.frequency is not None:
        values["frequency"] = parse_frequency(recipe.frequency, steps)
    if recipe.distribution is not None:
        values["distribution"] = parse_distribution(recipe.distribution)
    if recipe.dense is not None:
        names = recipe.dense.split(",")
        values["dense"] = names if len(names) > 1 else names[0]
    arguments = {settings[name]: value for name, value in values.items() if value is not None}
    known = _option_names(callback)
    run = {"seed": recipe.seed, "data": None, "steps_per_round": recipe.epochs * steps}
    run["snapshot"] = folder and os.path.join(folder, run_folder.SNAPSHOT)
    if "data" in known:
        run["data"] = batch()
    arguments.update({name: value for name, value in run.items() if name in known})
    _check_complete(recipe, callback, arguments)
    _check_options(recipe, options, known - _GIVEN)
    if (recipe.rewind_step or 0) % steps:
        raise ValueError(
            f"`rewind_step` must be a multiple of the {steps} steps of an epoch. "
            f"Received: rewind_step={recipe.rewind_step}"
        )
    with naming_options(recipe, "technique_options"), recipe_names(recipe):
        return callback(**arguments, **options)


def _check_complete(recipe, callback, arguments):
    for name in getattr(callback, "required", ()):
        if name not in arguments:
            raise ValueError(f"`{name}` must be given with technique {recipe.technique}. Received: {name}=None")


def _check_options(recipe, options, known):
    unknown = sorted(set(options) - known)
    if unknown:
        raise ValueError(
            f"`technique_options` of {recipe.technique} may hold {', '.join(sorted(known)) or 'nothing'} (the others "
            f"have flags of their own). Received: {', '.join(unknown)}"
        )


def _option_names(callback):
    """The names of all arguments of a callback, including arguments that it passes on to its base classes."""
    names = set()
    for base in callback.__mro__:
        parameters = inspect.signature(base.__init__).parameters.values()
        names.update(parameter.name for parameter in parameters if parameter.kind == parameter.POSITIONAL_OR_KEYWORD)
        if all(parameter.kind != parameter.VAR_KEYWORD for parameter in parameters):
            return names - {"self"}
    return names - {"self"}


@contextlib.contextmanager
def naming_options(recipe, *names):
    """A context that turns a TypeError of a builder, technique or callback into a ValueError that names the setting."""
    given = {name: getattr(recipe, name) for name in names if getattr(recipe, name)}
    try:
        yield
    except TypeError as error:
        if not given:
            raise
        received = ", ".join(f"{name}={value}" for name, value in given.items())
        raise ValueError(
            f"`{'` or `'.join(given)}` must hold values that can be used ({error}). Received: {received}"
        ) from error


@contextlib.contextmanager
def recipe_names(recipe):
    """A context in which errors of the recipe's callback name the recipe's settings, not the callback's arguments."""
    try:
        yield
    except ValueError as error:
        message = str(error)
        for name, argument in algorithm_of(recipe.technique).settings.items():
            message = message.replace(f"`{argument}`", f"`{name}`")
            message = re.sub(rf"\b{argument}=", f"{name}=", message)
        raise ValueError(message) from error


def update_grid(recipe, algorithm, steps):
    """The largest divisor of an epoch's steps that divides every step at which the algorithm may change masks."""
    if algorithm is None or "frequency" not in algorithm_of(recipe.technique).settings:
        return steps
    frequency = algorithm.frequency
    periods = [frequency] if isinstance(frequency, int) else getattr(frequency, "values", ())
    return math.gcd(steps, algorithm.begin_step, algorithm.end_step or 0, *periods)
