"""Reads the guides of the site (`docs/guides/*.md`), and runs one of them as a program.

A guide is a notebook in text form (MyST). The site runs it with Jupyter. Here its code cells run one after the other in
one process, so that the tests need no Jupyter:

    python -m tests.docs.guides docs/guides/resume.md

The last expression of a cell is printed, as a notebook prints it. A cell that begins with `%%writefile NAME` writes its
other lines into a file. With a folder as the second argument, the pictures that cells show are written there.
"""

import ast
import dataclasses
import pathlib
import re
import sys

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "docs" / "guides"
_CELL = re.compile(r"^```\{code-cell\} ipython3\n(?P<options>(?::[\w-]+:[^\n]*\n)*)(?P<code>.*?)^```$", re.M | re.S)
_FILE = re.compile(r"%%writefile (\S+)\n")


@dataclasses.dataclass(frozen=True)
class Cell:
    """A code cell: its source, the line of the guide where the source begins, and the file that it writes, if any."""

    code: str
    line: int
    file: str | None = None

    @property
    def tree(self):
        return ast.parse(self.code)


# Guides that are not notebooks: the study takes minutes, and its output is printed in the text.
PLAIN = {"index.md", "studies.md"}


def names():
    """The file names of all guides that are notebooks."""
    return sorted(path.name for path in FOLDER.glob("*.md") if path.name not in PLAIN)


def cells(text):
    """The code cells of a guide, a list of `Cell`s."""
    found = []
    for match in _CELL.finditer(text):
        code, line = match["code"], text[: match.start("code")].count("\n") + 1
        if magic := _FILE.match(code):
            found.append(Cell(code[magic.end() :], line + 1, magic[1]))
        else:
            found.append(Cell(code, line))
    return found


def run(path, pictures=None):
    """Runs the cells of a guide in this process and in the present folder.

    Args:
        path: `pathlib.Path` of the guide.
        pictures: Folder for the pictures that cells show, or `None`.

    Returns:
        Dict of the names that the cells define.
    """
    namespace = {"__name__": "__main__"}
    for cell in cells(path.read_text(encoding="utf-8")):
        if cell.file:
            pathlib.Path(cell.file).write_text(cell.code, encoding="utf-8")
            continue
        tree = ast.increment_lineno(cell.tree, cell.line - 1)
        shown = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, str(path), "exec"), namespace)
        if shown is not None:
            value = eval(compile(ast.Expression(shown.value), str(path), "eval"), namespace)
            _show(value, pictures, f"{path.stem}_{cell.line}.png")
    return namespace


def _show(value, pictures, name):
    if value is None:
        return
    picture = getattr(value, "_repr_png_", None)
    if picture is None:
        print(repr(value))
        return
    png = picture()
    print(f"[a picture of {len(png):,} bytes]")
    if pictures:
        pathlib.Path(pictures, name).write_bytes(png)


if __name__ == "__main__":
    run(pathlib.Path(sys.argv[1]).resolve(), *sys.argv[2:])
