"""The training programs as a study uses them: the recipe that flags ask for, and a run in this process.

The commands of `sparsity_tf.train` are not imported, because nobody imports a command. Their functions are called by
the name under which `python -m` finds them, so a run of a study is the run of that command line.
"""

import contextlib
import functools
import io
import json
import runpy

from absl import flags

PROGRAMS = ("classifier", "translator", "language_model", "text_classifier")
# Flags that a study itself gives to each run.
OF_THE_STUDY = ("config", "output_dir", "overwrite", "repeats", "resume", "seed")


@functools.cache
def _command(program):
    """The global names of a program's command."""
    return runpy.run_module(f"sparsity_tf.train.{program}.__main__", run_name=f"sparsity_tf.study.{program}")


def flag_of(name, value):
    """A setting as an argument of the command line.

    Example:

    >>> flag_of("lr_boundaries", [2, 5]), flag_of("keep_best", True)
    ('--lr_boundaries=2,5', '--keep_best=true')
    """
    if isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, dict):
        text = json.dumps(value)
    elif isinstance(value, list):
        text = ",".join(map(str, value))
    else:
        text = str(value)
    return f"--{name}={text}"


def _parsed(program, arguments):
    values = flags.FlagValues()
    _command(program)["define_flags"](values)
    values([program, *arguments])
    return values


def recipe_of(program, arguments):
    """The recipe that a command line asks for.

    A study asks for the recipe of every run, several times. The program's notes on it stand in the log of each run.

    Raises:
        absl.flags.Error: A flag is unknown, or its text has another type.
        ValueError: The preset is unknown, or a value is not allowed.
    """
    values = _parsed(program, arguments)
    with contextlib.redirect_stderr(io.StringIO()):
        return _command(program)["recipe_from_flags"](values)


def run(program, arguments):
    """Runs a program in this process. Returns its exit status, which is that of `train.flags.run`."""
    return _command(program)["main"]([program], _parsed(program, arguments))
