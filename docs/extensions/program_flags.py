"""The directive `programs`: what each program of the console command does, and all its flags, from the absl flags.

```
.. programs:: train classifier
.. programs::
   :without: train
```

Its argument is a program of `sparsity_tf_cli.PROGRAMS`. Without one it shows all programs but those whose name begins
with a word of `:without:`, each in a section of its own. So a new program appears on the site by itself.
"""

import importlib
import inspect

import markdown_docstrings
from absl import flags
from docutils import nodes
from docutils.parsers.rst import Directive, directives
from docutils.statemachine import StringList

import sparsity_tf_cli


def flags_of(program):
    """The flags of a program, sorted by name: list of `absl.flags.Flag`."""
    module = importlib.import_module(sparsity_tf_cli.PROGRAMS[program][0])
    if program.startswith("train "):
        module = importlib.import_module(f"{module.__name__}.__main__")
    define = getattr(module, "define_flags", None) or module._define_flags
    if inspect.signature(define).parameters:
        values = flags.FlagValues()
        define(values)
    else:
        values = define()
    found = {values[name].name: values[name] for name in values}
    return [found[name] for name in sorted(found) if name != "help"]


def documentation_of(program):
    """The docstring of a program's module: list of lines."""
    module = importlib.import_module(sparsity_tf_cli.PROGRAMS[program][0])
    if program.startswith("train "):
        module = importlib.import_module(f"{module.__name__}.__main__")
    return inspect.cleandoc(module.__doc__).split("\n")


def source(program):
    """The reStructuredText of a program: list of lines."""
    lines = [".. code-block:: bash", "", f"   sparsity-tf {program} [FLAGS]", ""]
    lines += [*markdown_docstrings.to_rst(_with_code(documentation_of(program))), ""]
    lines += [f".. program:: sparsity-tf {program}", ""]
    for flag in flags_of(program):
        kind = "" if flag.boolean else f"={_kind(flag)}"
        default = "" if flag.default is None else f" (default: ``{flag.default_as_str.strip(chr(39))}``)"
        help = " ".join(flag.help.split())
        lines += [f".. option:: --{'[no]' if flag.boolean else ''}{flag.name}{kind}", ""]
        lines += [f"   {line}" for line in markdown_docstrings.to_rst([help])]
        lines[-1] += f"{default}"
        lines.append("")
    return lines


def _kind(flag):
    """What a flag takes, such as INTEGER, in the place of its value."""
    name = flag.flag_type()
    return {"string enum": "|".join(getattr(flag.parser, "enum_values", [])), "int": "INTEGER", "float": "NUMBER"}.get(
        name, "A,B,..." if "list" in name else "TEXT"
    )


def _with_code(lines):
    """Commands that a docstring indents become fenced code."""
    result, fenced, inside = [], False, False
    for line in [*lines, ""]:
        indented = line.startswith("    ") and not fenced
        if indented != inside:
            result += ["```bash" if indented else "```"]
            inside = indented
        fenced ^= line.startswith("```")
        result.append(line.removeprefix("    ") if indented else line)
    return result


class Programs(Directive):
    optional_arguments = 1
    final_argument_whitespace = True
    option_spec = {"without": directives.unchanged}

    def run(self):
        if self.arguments:
            return self._parsed(source(self.arguments[0]), nodes.container()).children
        left_out = self.options.get("without", "").split()
        sections = []
        for program, (_, summary) in sparsity_tf_cli.PROGRAMS.items():
            if program.split()[0] in left_out:
                continue
            section = nodes.section(ids=[program], names=[program])
            section += nodes.title(text=program)
            section += nodes.paragraph(text=f"{summary[0].upper()}{summary[1:]}.")
            sections.append(self._parsed(source(program), section))
        return sections

    def _parsed(self, lines, node):
        node.document = self.state.document
        self.state.nested_parse(StringList(lines, source="programs"), 0, node)
        return node


def setup(app):
    app.add_directive("programs", Programs)
    return {"parallel_read_safe": True}
