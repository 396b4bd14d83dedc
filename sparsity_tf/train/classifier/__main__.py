"""Trains an image classifier with or without a sparsification technique.

    python -m sparsity_tf.train.classifier --config=lenet300_vd --data_dir=/data/mnist
    python -m sparsity_tf.train.classifier --config=wrn-28-2_snfs --data_dir=/data/cifar10
    python -m sparsity_tf.train.classifier --config=resnet50_str --data_dir=/data/imagenet --strategy=mirrored

`--config` names a recipe of `presets/`. Every setting of a recipe has a flag of the same name that
overrides it. The last line of the output is
`test error 1.92 %, sparsity 98.87 %, compression 88.5x`. If the network diverged or collapsed, the
last line says so and the exit status is 1. The exit status is 2 if flags, data or files can't be used.
"""

import dataclasses

from absl import flags

from sparsity_tf.train import flags as recipe_flags
from sparsity_tf.train.classifier import presets
from sparsity_tf.train.classifier.recipe import Recipe


def define_flags(flag_values=flags.FLAGS):
    """Defines one flag for each field of `Recipe`, and the flags of the run itself."""
    recipe_flags.define(Recipe, presets.PRESETS, "demo", flag_values)


def recipe_from_flags(flag_values):
    """The recipe that the flags ask for: the preset, in which given flags replace settings.

    Raises:
        ValueError: The preset is unknown or a value is not allowed. The message lists the allowed ones.
    """
    recipe = presets.get_preset(flag_values.config)
    if flag_values.model not in (None, recipe.model):
        # The preset's `model_options` are for the builder of its own network, so another network drops them.
        recipe = dataclasses.replace(recipe, model=flag_values.model, model_options={})
    if flag_values.lr_schedule not in (None, "piecewise"):
        # Likewise, another schedule drops the boundaries and factors of the preset's schedule.
        recipe = dataclasses.replace(recipe, lr_schedule=flag_values.lr_schedule, lr_boundaries=(), lr_factors=())
    return recipe_flags.recipe_from(flag_values, recipe)


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
