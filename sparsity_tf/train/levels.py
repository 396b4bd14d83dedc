"""Published settings at several sparsities: `--final_sparsity` picks those of its level, where a preset has levels.

A preset is one recipe, with the settings of one sparsity. Some sources publish the settings of several. `pick` finds
the recipe of the sparsity that a user asks for. `of_checkpoints` reads settings from the names of the checkpoints that
*The State of Sparsity* (Gale et al., arXiv 1902.09574) published.
"""

import dataclasses
import math
import typing

from sparsity_tf.checkpoints.published import published_checkpoints
from sparsity_tf.train import sparsity_settings


class Levels(typing.NamedTuple):
    """The levels of a preset.

    Attributes:
        recipes: Dict from sparsity to recipe.
        remark: A sentence that a user must know about the settings, or "".
    """

    recipes: dict
    remark: str = ""


def of_checkpoints(model, technique, settings):
    """The settings of each published checkpoint of a network and technique.

    Args:
        model, technique: As in the list of the checkpoints: "Transformer", "Magnitude Pruning".
        settings: Function from a `PublishedCheckpoint` to a dict of settings of a recipe.

    Returns:
        Dict from sparsity to settings. The sparsity is the schedule's own target where the checkpoint names one.
    """
    chosen = [one for one in published_checkpoints() if (one.model, one.technique) == (model, technique)]
    return {one.sparsity if one.target_sparsity is None else one.target_sparsity: settings(one) for one in chosen}


def of_recipe(recipe, settings, remark=""):
    """The `Levels` of a preset.

    Args:
        recipe: The preset.
        settings: Dict from sparsity to the settings that replace the preset's there. `final_sparsity` is added if the
            technique takes it. `technique_options` replaces only the options that it names.
        remark: A sentence that a user must know about the settings.
    """
    takes = "final_sparsity" in sparsity_settings.settings_of(recipe.technique)
    recipes = {}
    for sparsity, changes in settings.items():
        changes = {**({"final_sparsity": sparsity} if takes else {}), **changes}
        if "technique_options" in changes:
            changes["technique_options"] = {**recipe.technique_options, **changes["technique_options"]}
        recipes[sparsity] = dataclasses.replace(recipe, **changes)
    return Levels(recipes, remark)


def pick(config, recipe, levels, sparsity):
    """Picks the recipe of a level.

    Args:
        config: Name of the preset, for messages.
        recipe: The preset.
        levels: Its `Levels`.
        sparsity: The sparsity that is asked for.

    Returns:
        `(recipe, note)`. The note is a text for the user. For a sparsity without published settings, the recipe is the
        preset's, whose technique then brings the network to that sparsity, and the note says so.

    Raises:
        ValueError: The sparsity has no published settings, and the technique can't be told a sparsity.
    """
    published = ", ".join(f"{level:g}" for level in sorted(levels.recipes))
    for level, found in levels.recipes.items():
        if math.isclose(level, sparsity, abs_tol=1e-9):
            changed = [
                f"{field.name}={_shown(getattr(found, field.name))}"
                for field in dataclasses.fields(found)
                if getattr(found, field.name) != getattr(recipe, field.name)
            ]
            differ = f"; other than in the preset: {', '.join(changed)}" if changed else ""
            remark = f". {levels.remark}" if levels.remark else ""
            return found, f"{config} with the published settings for final_sparsity={level:g}{differ}{remark}"
    if "final_sparsity" not in sparsity_settings.settings_of(recipe.technique):
        raise ValueError(
            f"`final_sparsity` must be one of {published} with config={config}: technique {recipe.technique} can't be "
            "told a sparsity, and settings are published only for these. To try another, change the settings "
            f"themselves. Received: final_sparsity={sparsity:g}"
        )
    return recipe, (
        f"{config} has no published settings for final_sparsity={sparsity:g}, only for {published}: all other settings "
        f"are those of {recipe.final_sparsity:g}"
    )


def _shown(value):
    return f"{value:g}" if isinstance(value, float) else value
