"""Trains an image classifier with or without a sparsification technique.

    python -m sparsity_tf.train.classifier --config=lenet300_vd --data_dir=/data/mnist
    python -m sparsity_tf.train.classifier --config=wrn-28-2_snfs --data_dir=/data/cifar10
    python -m sparsity_tf.train.classifier --config=resnet50_str --data_dir=/data/imagenet --strategy=mirrored

`--config` names a recipe of `presets/`. Every setting of a recipe has a flag of the same name that
overrides it. The last line of the output is
`test error 1.92 %, sparsity 98.87 %, compression 88.5x`. If the network diverged or collapsed, the
last line says so and the exit status is 1. The exit status is 2 if flags, data or files can't be used.

With `--validation_split=0.1` a tenth of the training images is held out. Their error is logged and chooses
`best.keras`, and the test set is measured once, at the end. `--repeats=5` makes five runs that differ in the seed.
"""

import dataclasses
import os

from absl import flags

from sparsity_tf.train import flags as recipe_flags
from sparsity_tf.train import run_folder
from sparsity_tf.train.classifier import presets
from sparsity_tf.train.classifier.recipe import Recipe, from_settings
from sparsity_tf.train.fields import named


def define_flags(flag_values=flags.FLAGS):
    """Defines one flag for each field of `Recipe`, and the flags of the run itself."""
    recipe_flags.define(Recipe, presets.PRESETS, "demo", flag_values)


def recipe_from_flags(flag_values):
    """The recipe that the flags ask for: the preset, in which given flags replace settings.

    Raises:
        ValueError: The preset is unknown or a value is not allowed. The message lists the allowed ones.
    """
    preset = recipe = named(presets.PRESETS, flag_values.config)
    if flag_values.resume:
        recipe = _of_earlier_version(flag_values, recipe)
    # A run of an earlier version is continued with its own settings, not with those of a level.
    published = presets.LEVELS.get(flag_values.config) if recipe == preset else None
    recipe, picked = recipe_flags.at_level(flag_values, recipe, published)
    if flag_values.model not in (None, recipe.model):
        # The preset's `model_options` are for the builder of its own network, so another network drops them.
        recipe = dataclasses.replace(recipe, model=flag_values.model, model_options={})
    if flag_values.lr_schedule not in (None, "piecewise"):
        # Likewise, another schedule drops the boundaries and factors of the preset's schedule.
        recipe = dataclasses.replace(recipe, lr_schedule=flag_values.lr_schedule, lr_boundaries=(), lr_factors=())
    if flag_values.validation_split == 0 and flag_values.validation_seed is None:
        # Without a split, the preset's seed for drawing it is dropped.
        recipe = dataclasses.replace(
            recipe,
            validation_split=0.0,
            validation_seed=0,
            validation_stratified=bool(flag_values.validation_stratified),
        )
    return recipe_flags.recipe_from(flag_values, recipe, picked=picked)


def _of_earlier_version(flag_values, preset):
    """The recipe of the run in the folder, if an earlier version began it and the preset is for such a run.

    A preset may have changed since that run began, for example to hold out a part of the training images. The run is
    continued with the settings that the preset had then.
    """
    folder = recipe_flags.folder_of(flag_values)
    settings = run_folder.read_recipe(folder)
    if settings is None or run_folder.ADDED.keys() <= settings.keys():
        return preset
    before = from_settings(settings, os.path.join(folder, run_folder.RECIPE))
    for name in ("dataset", "model", "technique"):
        given = getattr(flag_values, name)
        if getattr(before, name) != (getattr(preset, name) if given is None else given):
            return preset
    # The options tell networks of one kind apart, such as wide ResNets.
    own_options = flag_values.model is None and flag_values.model_options is None
    return preset if own_options and before.model_options != preset.model_options else before


def make_task(flag_values):
    """The program's task. It is imported only here, so that wrong flags are reported at once."""
    from sparsity_tf.train.classifier.task import ClassifierTask

    return ClassifierTask()


def main(argv, flag_values=flags.FLAGS):
    """Runs the recipe that the flags ask for. The exit status is that of `recipe_flags.run`."""
    return recipe_flags.run(argv, flag_values, recipe_from_flags, make_task)


def run_main():
    """Entry point of the command line."""
    define_flags()
    recipe_flags.run_main(main)


if __name__ == "__main__":
    run_main()
