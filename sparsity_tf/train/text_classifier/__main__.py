"""Trains an LSTM to classify texts, with or without a sparsification technique.

    python -m sparsity_tf.train.text_classifier --config=reviews_groups --data_dir=movieReviewSnippets_GroundTruth.txt

`--config` names a recipe of `presets.py`, which also says where the texts come from. Every setting of a recipe has a
flag of the same name that overrides it. The last line of the output is
`test error 23.96 %, 2,414 of 6,151 words, 32 of 32 units, sparsity 96.81 %, compression 31.3x`. If the network diverged
or collapsed, the last line says so and the exit status is 1. The exit status is 2 if flags, texts or files can't be
used.
"""

from absl import flags

from sparsity_tf.train import flags as recipe_flags
from sparsity_tf.train.text_classifier import presets
from sparsity_tf.train.text_classifier.recipe import TextRecipe


def define_flags(flag_values=flags.FLAGS):
    """Defines one flag for each field of `TextRecipe`, and the flags of the run itself."""
    recipe_flags.define(TextRecipe, presets.PRESETS, "reviews_groups", flag_values)


def recipe_from_flags(flag_values):
    """The recipe that the flags ask for: the preset, in which given flags replace settings.

    Raises:
        ValueError: The preset is unknown or a value is not allowed. The message lists the allowed ones.
    """
    recipe = presets.get_preset(flag_values.config)
    return recipe_flags.recipe_from(flag_values, recipe)


def make_task(flag_values):
    """The program's task. It is imported only here, so that wrong flags are reported at once."""
    from sparsity_tf.train.text_classifier.task import TextClassifierTask

    return TextClassifierTask()


def main(argv, flag_values=flags.FLAGS):
    """Runs the recipe that the flags ask for. The exit status is that of `recipe_flags.run`."""
    return recipe_flags.run(argv, flag_values, recipe_from_flags, make_task)


def run_main():
    """Entry point of the command line."""
    define_flags()
    recipe_flags.run_main(main)


if __name__ == "__main__":
    run_main()
