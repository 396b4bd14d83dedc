"""Turns the `SparsitySettings` of a recipe into a sparse network of any kind: its options, weights and penalty.

The module also knows the consequences of a schedule for the run: the step from which a model is final, and the parts of
the schedule for which the run is too short.
"""

import keras

from sparsity_tf import initializers, layers
from sparsity_tf.callbacks import (
    MEST,
    GraNet,
    IterativePruning,
    MagnitudePruning,
    NarangPruning,
    PenaltyRamp,
    RandomPruning,
    SparsityRamp,
)
from sparsity_tf.callbacks.penalty_ramp import entries_of_layers
from sparsity_tf.layers import set_sparsities
from sparsity_tf.load_masks import load_masks
from sparsity_tf.masks import structures
from sparsity_tf.train import setting_texts, sparsity_settings
from sparsity_tf.train.load_weights import load_weights

# Algorithms whose sparsity rises gradually up to a last step.
_GRADUAL = (MagnitudePruning, RandomPruning, NarangPruning)


def arguments(recipe):
    """The arguments for a builder of `sparsity_tf.models`: a dict of `technique`, `technique_options` and `where`.

    Raises:
        ValueError: The technique does not have one of the options.
    """
    if recipe.technique == "none":
        return {"technique": None, "technique_options": None, "where": None}
    if recipe.technique in sparsity_settings.ALGORITHMS:
        return {"technique": "masked", "technique_options": _structure_options(recipe), "where": recipe.where}
    options = dict(recipe.technique_options)
    known = layers.TECHNIQUES[recipe.technique].option_names()
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(
            f"`technique_options` of {recipe.technique} may hold {', '.join(known) or 'nothing'}. "
            f"Received: {', '.join(unknown)}"
        )
    if "sparsity" in known and recipe.final_sparsity is not None:
        options.setdefault("sparsity", recipe.final_sparsity)
    if sparsity_settings.ramps_sparsity(recipe.technique) and recipe.initial_sparsity is not None:
        options.setdefault("initial_sparsity", recipe.initial_sparsity)
    if "threshold_regularizer" in known and recipe.threshold_l2:
        options.setdefault("threshold_regularizer", keras.regularizers.L2(recipe.threshold_l2))
    return {"technique": recipe.technique, "technique_options": options, "where": recipe.where}


def _structure_options(recipe):
    """The structure, if layers must know it when they are made: with channels, heads or units, biases have masks."""
    callback = sparsity_settings.ALGORITHMS[recipe.technique].callback
    structure = getattr(callback, "fixed_structure", recipe.structure)
    return {"structure": structure} if structure in structures.TIED else {}


def begin_with(model, recipe):
    """Gives a fresh network the sparsities, weights and masks with which its recipe begins.

    Raises:
        FileNotFoundError, ValueError: A file is missing or does not fit, or the penalty factors do not.
    """
    if recipe.penalty_factors:
        entries_of_layers(model, recipe.penalty_factors, "penalty_factors")
    if recipe.distribution is not None and sparsity_settings.algorithm_of(recipe.technique) is None:
        set_sparsities(model, setting_texts.parse_distribution(recipe.distribution), recipe.final_sparsity)
    if recipe.load_weights is not None:
        load_weights(model, recipe.load_weights)
    if recipe.load_masks is not None:
        load_masks(model, recipe.load_masks)
    if recipe.reinitialize is not None:
        initializers.reinitialize(model, recipe.reinitialize, seed=recipe.seed)


def check_begin(recipe, algorithm, steps):
    """Raises a ValueError if the recipe's algorithm would prune nothing. `steps` is the number of steps in an epoch."""
    total = recipe.epochs * steps
    if isinstance(algorithm, _GRADUAL) and algorithm.end_step is not None and algorithm.begin_step >= total:
        raise ValueError(
            f"`begin_step` must come before the end of the run, or nothing is pruned: {_length(recipe)} "
            f"makes {total:,} steps. Received: begin_step={algorithm.begin_step}"
        )


def penalized(recipe):
    """Whether the recipe's technique has a penalty, whose weight follows a ramp."""
    return bool(getattr(layers.TECHNIQUES.get(recipe.technique), "penalized", False))


def _length(recipe):
    """The setting for the length of the run, as text for a message."""
    name = "train_steps" if hasattr(recipe, "train_steps") else "epochs"
    return f"{name}={getattr(recipe, name)}"


def _ramp(recipe, steps):
    """(first step, last step) of the penalty's ramp. A recipe gives it in epochs of `steps` steps, or in steps."""
    if hasattr(recipe, "penalty_begin_step"):
        return recipe.penalty_begin_step, recipe.penalty_end_step
    return round(recipe.penalty_begin_epoch * steps), round(recipe.penalty_end_epoch * steps)


def settled_from(recipe, algorithm, steps):
    """The step from which the schedule changes neither sparsity nor the penalty's weight any more.

    A model before this step is not final. The step is 0 for a fixed sparsity, for dynamic masks with a constant number
    of weights, and for learnt thresholds, which follow no schedule.

    Args:
        recipe: The recipe.
        algorithm: The recipe's algorithm, a callback, or `None`.
        steps: Number of steps in an epoch.
    """
    if isinstance(algorithm, IterativePruning):
        return algorithm.total_steps - (algorithm.steps_per_round - algorithm.rewind_step)  # the last ticket begins
    total_steps = recipe.epochs * steps
    if sparsity_settings.ramps_sparsity(recipe.technique):
        ramp = _sparsity_ramp(recipe)
        return ramp.default_end_step(total_steps) if ramp.end_step is None else ramp.end_step
    if isinstance(algorithm, GraNet | MEST):
        return algorithm.settled_step(total_steps)
    if isinstance(algorithm, _GRADUAL):
        return algorithm.default_end_step(total_steps) if algorithm.end_step is None else algorithm.end_step
    return _ramp(recipe, steps)[1] if _has_ramp(recipe) else 0


def shortfall(recipe, algorithm, steps):
    """Says which parts of its schedule a run is too short for: a sentence without a full stop, or `None`.

    Args:
        recipe: The recipe.
        algorithm: The recipe's algorithm, a callback, or `None`.
        steps: Number of steps in an epoch.
    """
    found, total_steps = [], recipe.epochs * steps
    penalty_begin_step, penalty_end_step = _ramp(recipe, steps) if _has_ramp(recipe) else (0, 0)
    begin, end = getattr(algorithm, "begin_step", 0), getattr(algorithm, "end_step", None)
    ramps = sparsity_settings.ramps_sparsity(recipe.technique)
    if ramps:
        end = recipe.end_step
    if isinstance(algorithm, _GRADUAL) or ramps:
        if end is not None and end > total_steps:
            goal = f" of {recipe.final_sparsity:g}" if recipe.final_sparsity else ""
            found.append(f"the final sparsity{goal} is reached only at end_step={end}")
    elif algorithm is not None and algorithm.scheduled and begin >= total_steps:
        found.append(f"masks never change, because begin_step={begin} comes later")
    if penalty_begin_step >= total_steps:
        found.append(f"the penalty stays 0, because it begins to rise at step {penalty_begin_step}")
    elif penalty_end_step > total_steps:
        found.append(f"the penalty does not reach its full weight, because it rises until step {penalty_end_step}")
    if not found:
        return None
    if recipe.keep_best and settled_from(recipe, algorithm, steps) > total_steps:
        found.append("no best.keras is kept")
    return f"the run ends after {total_steps:,} steps ({_length(recipe)}): {'; '.join(found)}"


def _sparsity_ramp(recipe):
    values = {name: getattr(recipe, name) for name in sparsity_settings.settings_of(recipe.technique)}
    values["final_sparsity"] = 0.9 if recipe.final_sparsity is None else recipe.final_sparsity
    return SparsityRamp(**{name: value for name, value in values.items() if value is not None})


def _has_ramp(recipe):
    return penalized(recipe) and recipe.penalty_schedule != "none"


def sparsity_callbacks(recipe):
    """A list with the callback that raises the sparsity of the technique's layers. It is empty for other techniques."""
    return [_sparsity_ramp(recipe)] if sparsity_settings.ramps_sparsity(recipe.technique) else []


def penalty_callbacks(recipe, num_examples, steps):
    """A list with the callback that moves the penalty weight. The list is empty for techniques without a penalty.

    Args:
        recipe: The recipe.
        num_examples: Number by which the recipe's `penalty_weight` is divided.
        steps: Number of steps in an epoch.
    """
    if not penalized(recipe):
        return []
    begin_step, end_step = _ramp(recipe, steps)
    return [
        PenaltyRamp(
            weight=recipe.penalty_weight,
            num_examples=num_examples,
            begin_step=begin_step,
            end_step=end_step,
            schedule=recipe.penalty_schedule,
            factors=recipe.penalty_factors or None,
        )
    ]
