"""Trains a Transformer to translate, with or without a sparsification technique.

    python -m sparsity_tf.train.translator --config=tiny_magnitude --data_dir=/data/ende
    python -m sparsity_tf.train.translator --config=transformer_vd --dataset=wmt14_translate/de-en --strategy=mirrored

`--config` names a recipe of `presets.py`. Every setting of a recipe has a flag of the same name that overrides it. The
last line of the output is `BLEU 21.43 (validation), perplexity 5.81, sparsity 90.00 %, compression 10.0x`. If the
network diverged or collapsed, the last line says so and the exit status is 1. The exit status is 2 if flags, data or
files can't be used.
"""

from absl import flags

from sparsity_tf.train import flags as recipe_flags
from sparsity_tf.train.fields import named
from sparsity_tf.train.translator import presets
from sparsity_tf.train.translator.recipe import REGULARIZATIONS, TranslationRecipe


def define_flags(flag_values=flags.FLAGS):
    """Defines one flag for each field of `TranslationRecipe`, and the flags of the run itself."""
    recipe_flags.define(TranslationRecipe, presets.PRESETS, "tiny_magnitude", flag_values)
    own = {"flag_values": flag_values}
    flags.DEFINE_string(
        "cache_dir", None, "Folder for trained vocabularies and encoded text; default cache in output_dir.", **own
    )
    flags.DEFINE_string(
        "regularization",
        None,
        f"Named setting of all dropouts and of label smoothing: {', '.join(REGULARIZATIONS)}.",
        **own,
    )


def recipe_from_flags(flag_values):
    """The recipe that the flags ask for: the preset, in which given flags replace settings.

    Raises:
        ValueError: The preset is unknown or a value is not allowed. The message lists the allowed ones.
    """
    recipe = named(presets.PRESETS, flag_values.config)
    recipe, picked = recipe_flags.at_level(flag_values, recipe, presets.LEVELS.get(flag_values.config))
    return recipe_flags.recipe_from(flag_values, recipe, _regularization(flag_values.regularization), picked)


def _regularization(name):
    if name is None:
        return {}
    if name not in REGULARIZATIONS:
        raise ValueError(
            f"`regularization` must be one of {', '.join(REGULARIZATIONS)}. Received: regularization={name}"
        )
    return dict(REGULARIZATIONS[name])


def make_task(flag_values):
    """The program's task. It is imported only here, so that wrong flags are reported at once."""
    from sparsity_tf.train.translator.task import TranslatorTask

    return TranslatorTask(flag_values.cache_dir)


def main(argv, flag_values=flags.FLAGS):
    """Runs the recipe that the flags ask for. The exit status is that of `recipe_flags.run`."""
    return recipe_flags.run(argv, flag_values, recipe_from_flags, make_task)


def run_main():
    """Entry point of the command line."""
    define_flags()
    recipe_flags.run_main(main)


if __name__ == "__main__":
    run_main()
