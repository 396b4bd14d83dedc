"""The text above the flags in the `--help` of the commands and the training programs."""

import re
import sys
import textwrap

# A help text fits a page of so many columns.
COLUMNS = 100
_MODULE = re.compile(r"python -m sparsity_tf(\.\w+)+")


def head(docstring):
    """A module's docstring as the head of its help: at most 100 columns wide, unless one word is longer.

    If the console command runs the program, as "sparsity-tf study", these words take the place of `python -m ...`.

    Args:
        docstring: The docstring: paragraphs, and commands that are indented or between lines of "```".

    Returns:
        The text.
    """
    # `sparsity_tf_cli.py` gives the name to the module that it runs.
    name = getattr(sys.modules["__main__"], "CALLED_AS", None)
    found, paragraph, fenced = [], [], False

    def end_paragraph():
        found.extend(textwrap.wrap(" ".join(paragraph), COLUMNS, break_long_words=False, break_on_hyphens=False))
        paragraph.clear()

    for line in docstring.strip("\n").split("\n"):
        fence = line.startswith("```")
        fenced ^= fence
        if line and not (fence or fenced or line.startswith(" ")):
            paragraph.append(line)
            continue
        end_paragraph()
        found += _command(_MODULE.sub(name, line) if name else line, bool(found) and found[-1].endswith("\\"))
    end_paragraph()
    return "\n".join(found)


def _command(line, continued):
    """The lines of a command that is too long for one line, joined by backslashes. `continued`: it is no first line."""
    indent = line[: len(line) - len(line.lstrip())]
    goes_on = line.endswith(" \\")
    parts = textwrap.wrap(
        line.removesuffix(" \\"),
        COLUMNS - 2,
        subsequent_indent=indent + "    " * (not continued),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [f"{part} \\" for part in parts[:-1]] + [parts[-1] + " \\" * goes_on] if parts else [line]
