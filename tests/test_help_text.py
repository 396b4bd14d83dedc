"""The head of `--help`: its width, its commands, and the name by which the user called the program."""

import ast
import pathlib
import sys

import pytest

import sparsity_tf_cli
from sparsity_tf import help_text

ROOT = pathlib.Path(__file__).resolve().parent.parent
EXAMPLE = """\
Counts things. This sentence is one of several that together are longer than a line of a hundred columns may be.
It goes on here.

```
python -m sparsity_tf.tools.count --first=1 [--second=2] [--third=3] [--fourth=4] [--fifth=5] [--sixth=6] [--seventh=7]
```

    python -m sparsity_tf.tools.count --first=1 \\
        --second=a_value_that_takes_room --third=another_value_that_takes_room --fourth=a_third_value_that_takes_room
"""


def test_paragraphs_are_filled_and_commands_continue_after_a_backslash():
    assert help_text.head(EXAMPLE).split("\n") == [
        "Counts things. This sentence is one of several that together are longer than a line of a hundred",
        "columns may be. It goes on here.",
        "",
        "```",
        "python -m sparsity_tf.tools.count --first=1 [--second=2] [--third=3] [--fourth=4] [--fifth=5] \\",
        "    [--sixth=6] [--seventh=7]",
        "```",
        "",
        "    python -m sparsity_tf.tools.count --first=1 \\",
        "        --second=a_value_that_takes_room --third=another_value_that_takes_room \\",
        "        --fourth=a_third_value_that_takes_room",
    ]


@pytest.fixture
def called_as(monkeypatch):
    """A function that sets the name under which the console command runs this process."""
    return lambda name: monkeypatch.setattr(sys.modules["__main__"], "CALLED_AS", name, raising=False)


def test_commands_have_the_name_by_which_the_user_called_them(called_as):
    called_as("sparsity-tf count")
    text = help_text.head(EXAMPLE)
    assert "python -m" not in text and text.count("sparsity-tf count --first=1") == 2


@pytest.mark.parametrize("name", sparsity_tf_cli.PROGRAMS)
def test_the_help_of_every_program_is_at_most_100_columns_wide(name, called_as):
    path = ROOT / (sparsity_tf_cli.PROGRAMS[name][0].replace(".", "/") + ".py")
    path = path if path.exists() else path.with_suffix("") / "__main__.py"
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    text = help_text.head(docstring)
    assert max(map(len, text.split("\n"))) <= 100
    assert text.replace("\\\n", " ").split() == docstring.replace("\\\n", " ").split()
    called_as(f"sparsity-tf {name}")
    text = help_text.head(docstring)
    assert max(map(len, text.split("\n"))) <= 100
    assert f"sparsity-tf {name} " in text and not any(
        line.lstrip().startswith("python -m") for line in text.split("\n")
    )
