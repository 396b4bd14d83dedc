"""Trains a recurrent network to predict characters, with or without a sparsification technique.

    python -m sparsity_tf.train.language_model --config=char_rnn_dsr --data_dir=/data/wikitext2
    python -m sparsity_tf.train.language_model --config=small_char_rnn_narang --output_dir=runs/narang --epochs=5

`--config` names a recipe of `train/language_presets.py`; every setting of it has a flag of the same name that
overrides it. The last line of the output is `bits per character 1.7512 (validation), 1.7489 (test), sparsity 90.00 %,
compression 10.0x`; exit status 1 and another line if the network diverged or collapsed, 2 if the flags or the text
can't be used.
"""

import dataclasses
import os
import sys

from absl import app, flags

from sparsity_tf.train import algorithms, classifier, language_presets
from sparsity_tf.train.language_recipe import LanguageRecipe
from sparsity_tf.train.recipe import choices


def define_flags(flag_values=flags.FLAGS):
    """Defines one flag for each field of `LanguageRecipe`, and those of the run itself."""
    own = {"flag_values": flag_values}
    flags.DEFINE_string("config", "small_char_rnn_dsr", f"Recipe: {', '.join(language_presets.PRESETS)}.", **own)
    flags.DEFINE_string("output_dir", None, "Folder of the run; default runs/CONFIG.", **own)
    flags.DEFINE_bool("resume", False, "Continue the run that output_dir holds, exactly.", **own)
    flags.DEFINE_bool("overwrite", False, "Remove the run that output_dir holds, finished or not.", **own)
    kinds = {bool: flags.DEFINE_bool, int: flags.DEFINE_integer, float: flags.DEFINE_float}
    for field in dataclasses.fields(LanguageRecipe):
        help = field.metadata["help"]
        if "choices" in field.metadata:
            help += f" One of {', '.join(choices(field))}."
        # Not DEFINE_enum: the recipe checks the values, for flags as for callers from Python.
        kinds.get(field.type, flags.DEFINE_string)(field.name, None, help, **own)
    flags.DEFINE_float("density", None, "Another way to say final_sparsity: 1 - density.", **own)
    flags.DEFINE_alias("sparsity", "final_sparsity", **own)


def recipe_from_flags(flag_values):
    """The recipe that the flags ask for: the preset, with the settings given as flags replaced.

    Raises:
        ValueError: Unknown preset or a value that is not allowed; the message lists what is.
    """
    recipe = language_presets.get_preset(flag_values.config)
    technique = flag_values.technique or recipe.technique
    if algorithms.identity(technique) is not algorithms.identity(recipe.technique):
        recipe = classifier._with_another_technique(recipe, technique)
    changes = {}
    for field in dataclasses.fields(LanguageRecipe):
        value = flag_values[field.name].value
        if value is None:
            continue
        if field.type is dict:
            value = {**getattr(recipe, field.name), **classifier._json_object(field.name, value)}
        changes[field.name] = value
    if flag_values.density is not None:
        changes["final_sparsity"] = classifier._sparsity_of(flag_values.density, flag_values.final_sparsity)
    return dataclasses.replace(recipe, **changes)


def main(argv, flag_values=flags.FLAGS):
    """Runs the recipe that the flags ask for.

    Returns:
        Exit status: 0, 1 if the network diverged or collapsed, 2 if the flags or the text can't be used, 130 if
        interrupted.
    """
    if len(argv) > 1:
        return classifier._complain(f"only flags are expected. Received: {' '.join(argv[1:])}")
    output_dir = flag_values.output_dir or os.path.join("runs", flag_values.config)
    try:
        recipe = recipe_from_flags(flag_values)
        from sparsity_tf.train import language_loop  # late, so that wrong flags are reported at once

        run = language_loop.prepare(recipe, output_dir, flag_values.resume, flag_values.overwrite)
    except (ValueError, FileNotFoundError, ModuleNotFoundError) as error:
        return classifier._complain(error)
    try:
        result = language_loop.train(run)
    except KeyboardInterrupt:
        print(f"\ninterrupted; --resume --output_dir={output_dir} continues", file=sys.stderr)
        return 130
    return 1 if result.collapsed else 0


def run_main():
    """Entry point of the command line."""
    define_flags()
    app.run(main, flags_parser=classifier._parse)


if __name__ == "__main__":
    run_main()
