"""Trains an image classifier with or without a sparsification technique.

    python -m sparsity_tf.train.classifier --config=lenet300_vd --data_dir=/data/mnist
    python -m sparsity_tf.train.classifier --config=wrn-28-2_snfs --data_dir=/data/cifar10
    python -m sparsity_tf.train.classifier --config=resnet50_str --data_dir=/data/imagenet --strategy=mirrored

`--config` names a recipe of `train/presets.py`; every setting of it has a flag of the same name
that overrides it. The last line of the output is
`test error 1.92 %, sparsity 98.87 %, compression 88.5x`; exit status 1 and another line if the
network diverged or collapsed, 2 if the flags can't be used.
"""

import dataclasses
import json
import os
import sys

from absl import app, flags

from sparsity_tf.train import algorithms, presets
from sparsity_tf.train.recipe import Recipe, choices


def define_flags(flag_values=flags.FLAGS):
    """Defines one flag for each field of `Recipe`, and those of the run itself."""
    own = {"flag_values": flag_values}
    names = ", ".join(presets.PRESETS)
    flags.DEFINE_string("config", "demo", f"Recipe: {names}.", **own)
    flags.DEFINE_string("output_dir", None, "Folder of the run; default runs/CONFIG.", **own)
    flags.DEFINE_bool("resume", False, "Continue the run that output_dir holds, exactly.", **own)
    flags.DEFINE_bool("overwrite", False, "Remove the run that output_dir holds, finished or not.", **own)
    for field in dataclasses.fields(Recipe):
        help = field.metadata["help"]
        if "choices" in field.metadata:
            help += f" One of {', '.join(choices(field))}."
        # Not DEFINE_enum: `Recipe` checks the values, for flags as for callers from Python.
        define = {
            bool: flags.DEFINE_bool,
            int: flags.DEFINE_integer,
            float: flags.DEFINE_float,
            tuple: flags.DEFINE_list,
        }.get(field.type, flags.DEFINE_string)
        define(field.name, None, help, **own)
    flags.DEFINE_float("density", None, "Another way to say final_sparsity: 1 - density.", **own)
    flags.DEFINE_alias("sparsity", "final_sparsity", **own)


def recipe_from_flags(flag_values):
    """The recipe that the flags ask for: the preset, with the settings given as flags replaced.

    Raises:
        ValueError: Unknown preset or a value that is not allowed; the message lists what is.
    """
    recipe = presets.get_preset(flag_values.config)
    technique = flag_values.technique or recipe.technique
    if algorithms.identity(technique) is not algorithms.identity(recipe.technique):
        recipe = _with_another_technique(recipe, technique)
    changes = {}
    for field in dataclasses.fields(Recipe):
        value = flag_values[field.name].value
        if value is None:
            continue
        if field.type is dict:
            value = {**getattr(recipe, field.name), **_json_object(field.name, value)}
        elif field.type is tuple:
            value = _numbers(field.name, value)
        changes[field.name] = value
    if flag_values.density is not None:
        changes["final_sparsity"] = _sparsity_of(flag_values.density, flag_values.final_sparsity)
    return dataclasses.replace(recipe, **changes)


def _sparsity_of(density, final_sparsity):
    if final_sparsity is not None:
        raise ValueError(
            "`density` and `final_sparsity` exclude each other. "
            f"Received: density={density}, final_sparsity={final_sparsity}"
        )
    if not 0 < density <= 1:
        raise ValueError(f"`density` must be a number above 0 and at most 1. Received: density={density}")
    return round(1 - density, 12)


def _with_another_technique(recipe, technique):
    """The preset with another technique: of the settings of its own only the sparsity stays, where it is used."""
    changes = dict.fromkeys(algorithms.SETTINGS)
    if "final_sparsity" in algorithms.settings_of(technique):
        changes["final_sparsity"] = recipe.final_sparsity
    return dataclasses.replace(recipe, technique=technique, technique_options={}, **changes)


def _json_object(name, text):
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"`{name}` must be a JSON object ({error}). Received: {text}") from error
    if not isinstance(value, dict):
        raise ValueError(f"`{name}` must be a JSON object. Received: {text}")
    return value


def _numbers(name, texts):
    try:
        return tuple(float(text) for text in texts)
    except ValueError as error:
        raise ValueError(f"`{name}` must be numbers separated by commas. Received: {','.join(texts)}") from error


def main(argv, flag_values=flags.FLAGS):
    """Runs the recipe that the flags ask for.

    Returns:
        Exit status: 0, 1 if the network diverged or collapsed, 2 if the flags can't be used, 130
        if interrupted.
    """
    if len(argv) > 1:
        return _complain(f"only flags are expected. Received: {' '.join(argv[1:])}")
    output_dir = flag_values.output_dir or os.path.join("runs", flag_values.config)
    try:
        recipe = recipe_from_flags(flag_values)
        from sparsity_tf.train import loop  # late, so that wrong flags are reported at once

        run = loop.prepare(recipe, output_dir, flag_values.resume, flag_values.overwrite)
    except (ValueError, FileNotFoundError, ModuleNotFoundError) as error:
        return _complain(error)
    try:
        result = loop.train(run)
    except KeyboardInterrupt:
        print(f"\ninterrupted; --resume --output_dir={output_dir} continues", file=sys.stderr)
        return 130
    return 1 if result.collapsed else 0


def _complain(message):
    print(f"error: {message}", file=sys.stderr)
    return 2


def _parse(argv):
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        sys.exit(_complain(error))


def run_main():
    """Entry point of the command line."""
    define_flags()
    app.run(main, flags_parser=_parse)


if __name__ == "__main__":
    run_main()
