"""What each program of the console command does, and all its flags, from the absl flags."""

import importlib
import inspect

import markdown_docstrings
from absl import flags

import sparsity_tf_cli


def _module_of(program):
    name = sparsity_tf_cli.PROGRAMS[program][0]
    package = importlib.import_module(name)
    return importlib.import_module(f"{name}.__main__") if hasattr(package, "__path__") else package


def flags_of(program):
    """The flags of a program, sorted by name: list of `absl.flags.Flag`. Other spellings of a flag are left out."""
    module = _module_of(program)
    define = getattr(module, "define_flags", None) or module._define_flags
    if inspect.signature(define).parameters:
        values = flags.FlagValues()
        define(values)
    else:
        values = define()
    found = {values[name].name: values[name] for name in values}
    hidden = {"help", *(name for name, flag in found.items() if flag.help.startswith("Alias for --"))}
    return [found[name] for name in sorted(set(found) - hidden)]


def documentation_of(program):
    """The docstring of a program's module: list of lines."""
    return inspect.cleandoc(_module_of(program).__doc__).split("\n")


def chosen(word="", without=""):
    """The programs whose name begins with a word, or all but those whose name begins with another: list of str."""
    first = {name: name.split()[0] for name in sparsity_tf_cli.PROGRAMS}
    return [name for name in first if word in ("", first[name]) and without != first[name]]


def source(program):
    """The reStructuredText of a program: list of lines."""
    lines = [".. code-block:: bash", "", f"   sparsity-tf {program} [FLAGS]", ""]
    lines += [*markdown_docstrings.to_rst(documentation_of(program)), ""]
    lines += [f".. program:: sparsity-tf {program}", ""]
    for flag in flags_of(program):
        kind = "" if flag.boolean else f"={_kind(flag)}"
        default = (flag.default_as_str or "").strip("'")
        help = " ".join(flag.help.split())
        lines += [f".. option:: --{'[no]' if flag.boolean else ''}{flag.name}{kind}", ""]
        lines += [f"   {line}" for line in markdown_docstrings.to_rst([help])]
        lines[-1] += f" (default: ``{default}``)" if default else ""
        lines.append("")
    return lines


def _kind(flag):
    """What a flag takes, such as INTEGER, in the place of its value."""
    name = flag.flag_type()
    return {"string enum": "|".join(getattr(flag.parser, "enum_values", [])), "int": "INTEGER", "float": "NUMBER"}.get(
        name, "A,B,..." if "list" in name else "TEXT"
    )
