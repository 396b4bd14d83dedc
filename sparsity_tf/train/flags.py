"""Functions that the training programs of this folder share: make flags from a recipe, and a recipe from flags."""

import dataclasses
import errno
import json
import os
import sys

from absl import app, flags, logging

from sparsity_tf import help_text
from sparsity_tf.bounded_files import LONGEST_COMPLAINT, one_line
from sparsity_tf.train import aliases, levels, sparsity_settings
from sparsity_tf.train.fields import choices

# --help lists the flags that are defined here under the program that defines them, not under this module.
flags.disclaim_key_flags()


def define(recipe, presets, default, flag_values):
    """Defines one flag for each field of a recipe, and the flags of the run itself.

    Args:
        recipe: Dataclass of recipes.
        presets: Dict of recipes by name.
        default: Name of the preset that `--config` defaults to.
        flag_values: The `absl.flags.FlagValues` on which the flags are defined.
    """
    own = {"flag_values": flag_values}
    flags.DEFINE_string("config", default, f"Recipe: {', '.join(presets)}.", **own)
    flags.DEFINE_string("output_dir", None, "Folder of the run; default runs/CONFIG.", **own)
    flags.DEFINE_bool("show_recipe", False, "Print every setting of the run as JSON, and do nothing else.", **own)
    flags.DEFINE_bool("resume", False, "Continue the run that output_dir holds, exactly.", **own)
    flags.DEFINE_bool("overwrite", False, "Remove the run that output_dir holds, finished or not.", **own)
    flags.DEFINE_integer(
        "repeats",
        None,
        "Make that many runs, with the seeds seed, seed + 1, ..., each in output_dir/seed-SEED, and summarize them. A "
        "second start skips the finished ones and continues the others.",
        lower_bound=1,
        **own,
    )
    for field in dataclasses.fields(recipe):
        help = field.metadata["help"]
        if "choices" in field.metadata:
            help += f" One of {', '.join(choices(field))}."
        # DEFINE_enum is not used: the recipe checks the values, both from flags and from Python.
        define_one = {
            bool: flags.DEFINE_bool,
            int: flags.DEFINE_integer,
            float: flags.DEFINE_float,
            tuple: flags.DEFINE_list,
        }.get(field.type, flags.DEFINE_string)
        define_one(field.name, None, help, **own)
    flags.DEFINE_float(
        "density", None, "Fraction of weights that stay, 1 - final_sparsity: give it in place of final_sparsity.", **own
    )
    names = {"repeats", *(field.name for field in dataclasses.fields(recipe))}
    for old, name in aliases.same():
        if name in names and old not in names:
            flags.DEFINE_alias(old, name, **own)


def at_level(flag_values, recipe, published):
    """The recipe with the published settings of the sparsity that the flags ask for, if the preset has levels.

    A line on standard error says which settings these are, or that none are published for this sparsity.

    Args:
        flag_values: Parsed flags that `define` defined.
        recipe: The recipe that `--config` names.
        published: Its `levels.Levels`, or `None`.

    Returns:
        `(recipe, picked)`: whether the settings of the recipe are those of the sparsity that is asked for.

    Raises:
        ValueError: As for `levels.pick`.
    """
    sparsity, technique = _sparsity_flag(flag_values), flag_values.technique or recipe.technique
    if published is None or sparsity is None or not _same_technique(technique, recipe):
        return recipe, False
    if flag_values.resume and _began_without_levels(folder_of(flag_values)):
        return recipe, False
    found, note = levels.pick(flag_values.config, recipe, published, sparsity)
    print(f"note: {note}", file=sys.stderr)
    return found, found is not recipe


def recipe_from(flag_values, recipe, changes=None, picked=False):
    """The preset `recipe`, in which given flags replace settings.

    Args:
        flag_values: Parsed flags that `define` defined.
        recipe: The recipe that `--config` names.
        changes: Dict of settings that replace the preset's. Flags override these, too.
        picked: Whether `at_level` picked the recipe. A technique that takes no `final_sparsity` then needs none.

    Raises:
        ValueError: A value is not allowed. The message lists the allowed values.
    """
    technique = flag_values.technique or recipe.technique
    if not _same_technique(technique, recipe):
        recipe = _with_another_technique(recipe, technique)
    changes = dict(changes or {})
    for field in dataclasses.fields(recipe):
        value = flag_values[field.name].value
        if value is None:
            continue
        if field.type is dict:
            value = {**getattr(recipe, field.name), **_json_object(field.name, value)}
        elif field.type is tuple:
            value = _numbers(field.name, value)
        changes[field.name] = value
    sparsity = _sparsity_flag(flag_values)
    if sparsity is not None:
        changes["final_sparsity"] = sparsity
    if picked and "final_sparsity" not in sparsity_settings.settings_of(technique):
        changes["final_sparsity"] = None
    return dataclasses.replace(recipe, **changes)


def _began_without_levels(folder):
    """Whether a version without levels began the run in a folder. Its recipes have no `save_every` either."""
    from sparsity_tf.train import run_folder

    settings = run_folder.read_recipe(folder)
    return settings is not None and "save_every" not in settings


def _same_technique(technique, recipe):
    return sparsity_settings.identity(technique) is sparsity_settings.identity(recipe.technique)


def _sparsity_flag(flag_values):
    """The sparsity that the flag `final_sparsity` or `density` asks for; `None` if neither is given."""
    density, final_sparsity = flag_values.density, flag_values.final_sparsity
    if density is None:
        return final_sparsity
    if final_sparsity is not None:
        raise ValueError(
            f"`density` and `final_sparsity` exclude each other: give only one of them. Received: density={density}, "
            f"final_sparsity={final_sparsity}"
        )
    if not 0 < density <= 1:
        raise ValueError(f"`density` must be a number above 0 and at most 1. Received: density={density}")
    return round(1 - density, 12)


def _with_another_technique(recipe, technique):
    """The preset with another technique. The old technique's settings are dropped; the sparsity stays if it is used."""
    changes = dict.fromkeys(sparsity_settings.SETTINGS)
    if technique == "none":
        changes["where"] = None
    if not sparsity_settings.has_option(technique, "threshold_regularizer"):
        changes["threshold_l2"] = 0.0
    if hasattr(recipe, "technique_rate"):
        changes["technique_rate"] = 1.0
    if not getattr(sparsity_settings.identity(technique), "penalized", False):
        changes["penalty_factors"] = {}
    if "final_sparsity" in sparsity_settings.settings_of(technique):
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


def folder_of(flag_values):
    """The folder of the run that the flags ask for."""
    return flag_values.output_dir or os.path.join("runs", flag_values.config)


def run(argv, flag_values, recipe_of, task_of):
    """Runs a program once its flags are parsed.

    Args:
        argv: The command line without its flags, program name first.
        flag_values: Parsed flags.
        recipe_of: Function that takes the flags and returns the recipe, or raises an error for a user's mistake.
        task_of: Function that takes the flags and returns the program's `Task`.

    Returns:
        Exit status: 0, 1 if the network (with `--repeats`: any network) diverged or collapsed, 2 if flags, data or
        files can't be used, 130 if interrupted. For status 2, also after a full disk, one line says what is wrong;
        absl's --verbosity=1 shows the place in the code.
    """
    if len(argv) > 1:
        return _complain(f"Every argument must be a flag, such as --epochs=5. Received: {' '.join(argv[1:])}")
    output_dir = folder_of(flag_values)
    if os.path.exists(output_dir) and not os.path.isdir(output_dir):
        return _complain(f"`output_dir` must be a folder. Received: output_dir={output_dir}")
    go_on = f"the same command with --resume{' in the place of --overwrite' if flag_values.overwrite else ''}"
    try:
        recipe = recipe_of(flag_values)
        if flag_values.show_recipe:
            print(json.dumps(dataclasses.asdict(recipe), indent=2))
            return 0
        # Only here, so that wrong flags are reported at once.
        from sparsity_tf.train import repeats, run_folder, trainer

        task, resume, overwrite = task_of(flag_values), flag_values.resume, flag_values.overwrite
        if flag_values.repeats is not None:
            run_folder.check_exclusive(resume, overwrite)
            collapsed = repeats.run(task, recipe, output_dir, flag_values.repeats, overwrite)
        else:
            collapsed = trainer.train(trainer.prepare(task, recipe, output_dir, resume, overwrite)).collapsed
    except Exception as error:
        full = _full_disk(error)
        if full is None and not isinstance(error, (ValueError, OSError, ImportError)):
            raise
        logging.debug("Raised by:", exc_info=True)
        if full is None:
            return _complain(error)
        path = getattr(error, "filename", None) or output_dir
        return _complain(
            f"[Errno {full}] {os.strerror(full)}: {path!r}; free some space on the disk, then {go_on} continues the run"
        )
    except KeyboardInterrupt:
        print(f"\ninterrupted; {go_on} continues the run in {output_dir}", file=sys.stderr)
        return 130
    return 1 if collapsed else 0


def _full_disk(error):
    """The system's error number if a file could not grow, for example on a full disk; otherwise `None`.

    HDF5 and TensorFlow raise errors of their own, which hold the number only in their text.
    """
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        if getattr(error, "errno", None) == number or os.strerror(number) in str(error):
            return number
    return None


def run_main(main):
    """Runs `main` with the command line. An unknown flag gives one line of error and exit status 2."""
    app.run(main, flags_parser=parse)


def parse(argv):
    """The command line without its flags."""
    if {"--help", "-help", "-h", "-?"} & {*argv[1:]}:
        # Asked of absl, help would end with the exit status of an error.
        print(help_text.head(sys.modules["__main__"].__doc__ or ""))
        print(flags.FLAGS.main_module_help())
        sys.exit(0)
    argv, notes = aliases.without_unused(argv, flags.FLAGS)
    try:
        rest = flags.FLAGS(argv)
    except flags.UnrecognizedFlagError as error:
        advice = aliases.advice(error.flagname, flags.FLAGS)
        sys.exit(_complain(f"{error} {advice}" if advice else error))
    except flags.Error as error:
        sys.exit(_complain(error))
    if flags.FLAGS["verbosity"].using_default_value:
        # Otherwise absl would show the notes of libraries, such as of JAX on devices that the machine does not have.
        flags.FLAGS.verbosity = logging.WARNING
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    return rest


def _complain(message):
    print(f"error: {one_line(message, LONGEST_COMPLAINT)}", file=sys.stderr)
    return 2
