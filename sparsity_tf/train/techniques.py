"""From the `SparsitySettings` of a recipe to a sparse network, whatever the network: options, weights, penalty."""

import keras

from sparsity_tf import initializers, layers
from sparsity_tf.budgets import set_sparsities
from sparsity_tf.callbacks import PenaltyRamp
from sparsity_tf.load_masks import load_masks
from sparsity_tf.train import algorithms
from sparsity_tf.train.load_weights import load_weights


def arguments(recipe):
    """What a builder of `sparsity_tf.models` is told: a dict of `technique`, `technique_options` and `where`.

    Raises:
        ValueError: An option that the technique does not have.
    """
    if recipe.technique == "none":
        return {"technique": None, "technique_options": None, "where": None}
    if recipe.technique in algorithms.ALGORITHMS:
        return {"technique": "masked", "technique_options": {}, "where": recipe.where}
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
    if "threshold_regularizer" in known and recipe.threshold_l2:
        options.setdefault("threshold_regularizer", keras.regularizers.L2(recipe.threshold_l2))
    return {"technique": recipe.technique, "technique_options": options, "where": recipe.where}


def begin_with(model, recipe):
    """Gives a fresh network the sparsities, weights and masks that its recipe begins with.

    Raises:
        FileNotFoundError, ValueError: A file is not there, or does not fit.
    """
    if recipe.distribution is not None and recipe.technique not in algorithms.ALGORITHMS:
        set_sparsities(model, algorithms.parse_distribution(recipe.distribution), recipe.final_sparsity)
    if recipe.load_weights is not None:
        load_weights(model, recipe.load_weights)
    if recipe.load_masks is not None:
        load_masks(model, recipe.load_masks)
    if recipe.reinitialize is not None:
        initializers.reinitialize(model, recipe.reinitialize, seed=recipe.seed)


def rehearse(recipe, algorithm, make_model, steps):
    """Prepares an algorithm on a network of its own: what does not fit is an error now, and not in `fit`.

    Args:
        recipe: The recipe.
        algorithm: Its algorithm, a callback of its own for the rehearsal, or `None`.
        make_model: Function that makes a compiled network.
        steps: Steps an epoch.

    Raises:
        ValueError: The optimizer, the layers or the length of the training do not suit the algorithm.
    """
    if algorithm is None:
        return
    model = make_model()
    with algorithms.recipe_names(recipe):
        algorithm.prepare(model, recipe.epochs, steps)
    algorithm.finish()


def penalized(recipe):
    """Whether the recipe's technique has a penalty, which a ramp moves."""
    return bool(getattr(layers.TECHNIQUES.get(recipe.technique), "penalized", False))


def penalty_callbacks(recipe, num_examples, begin_step, end_step):
    """The callback that moves the penalty weight, in a list; empty for techniques without one.

    Args:
        recipe: The recipe.
        num_examples: What its `penalty_weight` is divided by.
        begin_step: Step until which the penalty is 0.
        end_step: Step from which it is in full.
    """
    if not penalized(recipe):
        return []
    return [
        PenaltyRamp(
            weight=recipe.penalty_weight,
            num_examples=num_examples,
            begin_step=begin_step,
            end_step=end_step,
            schedule=recipe.penalty_schedule,
        )
    ]
