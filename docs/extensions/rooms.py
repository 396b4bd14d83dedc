"""The picture of the rooms: the packages and modules of sparsity_tf on floors, from the imports of the sources.

A room stands one floor above the highest room that it imports, so every import leads downwards. Nothing of the package
is imported to draw it.
"""

import ast
import functools
import html
import pathlib

PACKAGE = pathlib.Path(__file__).resolve().parents[2] / "sparsity_tf"
# Imports that lead upwards. tests/test_house.py lists the first two with their reasons. `train.evaluate` and its
# neighbours are other spellings of the commands in `tools`.
UPWARDS = {("sparsify", "deploy"), ("", "study"), ("train", "tools")}
# Another spelling of a command, beside the rooms.
LEFT_OUT = {"checkpoint_sparsity"}


@functools.cache
def rooms():
    """Dict from the name of a room ("" is the package itself) to its files."""
    found = {"": [PACKAGE / "__init__.py"]}
    for path in sorted(PACKAGE.iterdir()):
        if path.is_dir() and (path / "__init__.py").exists():
            found[path.name] = sorted(path.rglob("*.py"))
        elif path.suffix == ".py" and path.stem not in {"__init__", *LEFT_OUT}:
            found[path.stem] = [path]
    return found


@functools.cache
def imports(room):
    """The rooms that a room imports, anywhere in its files."""
    found = set()
    for path in rooms()[room]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            for name in names:
                package, _, rest = name.partition(".")
                if package == PACKAGE.name:
                    other = rest.partition(".")[0]
                    found.add(other if other in rooms() else "")
    return found - {room}


@functools.cache
def floor(room):
    """The number of the floor of a room, 0 for one that imports no other."""
    return 1 + max((floor(other) for other in imports(room) if (room, other) not in UPWARDS), default=-1)


def floors():
    """The rooms from the top floor to the ground: list of lists of names."""
    numbers = {room: floor(room) for room in rooms()}
    return [sorted(room for room in numbers if numbers[room] == n) for n in range(max(numbers.values()), -1, -1)]


def purpose(room):
    """The first sentence of a room's docstring."""
    text = ast.get_docstring(ast.parse(rooms()[room][0].read_text(encoding="utf-8"))) or ""
    first = " ".join(text.split("\n\n")[0].split())
    return first.split(". ")[0].removesuffix(".") + "."


def picture():
    """The picture as HTML: a row of boxes for each floor."""
    rows = []
    for names in floors():
        boxes = []
        for name in names:
            label = name or "import sparsity_tf"
            boxes.append(f"<div><b>{html.escape(label)}</b> {html.escape(purpose(name)).replace('`', '')}</div>")
        rows.append(f'<div class="floor">{"".join(boxes)}</div>')
    return f'<div class="rooms" role="img" aria-label="The rooms of sparsity_tf on floors">{"".join(rows)}</div>'
