"""Trains a recurrent network to predict characters, with or without a sparsification technique.

    python -m sparsity_tf.train.language_model --config=char_rnn_dsr --data_dir=/data/wikitext2
    python -m sparsity_tf.train.language_model --config=small_char_rnn_narang --output_dir=runs/narang --epochs=5

`--config` names a recipe of `presets.py`. Every setting of a recipe has a flag of the same name that overrides it. The
last line of the output is `bits per character 1.7512 (validation), 1.7489 (test), sparsity 90.00 %, compression 10.0x`.
If the network diverged or collapsed, the last line says so and the exit status is 1. The exit status is 2 if flags,
text or files can't be used.
"""

from absl import flags

from sparsity_tf.train import flags as recipe_flags
from sparsity_tf.train.fields import named
from sparsity_tf.train.language_model import presets
from sparsity_tf.train.language_model.recipe import LanguageRecipe


def define_flags(flag_values=flags.FLAGS):
    """Defines one flag for each field of `LanguageRecipe`, and the flags of the run itself."""
    recipe_flags.define(LanguageRecipe, presets.PRESETS, "small_char_rnn_dsr", flag_values)


def recipe_from_flags(flag_values):
    """The recipe that the flags ask for: the preset, in which given flags replace settings.

    Raises:
        ValueError: The preset is unknown or a value is not allowed. The message lists the allowed ones.
    """
    recipe = named(presets.PRESETS, flag_values.config)
    return recipe_flags.recipe_from(flag_values, recipe)


def make_task(flag_values):
    """The program's task. It is imported only here, so that wrong flags are reported at once."""
    from sparsity_tf.train.language_model.task import LanguageModelTask

    return LanguageModelTask()


def main(argv, flag_values=flags.FLAGS):
    """Runs the recipe that the flags ask for. The exit status is that of `recipe_flags.run`."""
    return recipe_flags.run(argv, flag_values, recipe_from_flags, make_task)


def run_main():
    """Entry point of the command line."""
    define_flags()
    recipe_flags.run_main(main)


if __name__ == "__main__":
    run_main()
