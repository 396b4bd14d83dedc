"""Every guide of the site runs, and uses only names and arguments that exist."""

import ast
import functools
import importlib.util
import inspect
import os
import pathlib
import re
import subprocess
import sys

import keras
import pytest

import sparsity_tf
from tests.docs import guides

ROOT = guides.FOLDER.parents[1]
HEADER = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---
"""
# Packages that a guide needs beside a backend and `mlxtend`.
NEEDS = {
    "distillation.md": ["ai_edge_litert"],
    "many_devices.md": ["jax"],
    "training_loops.md": ["jax", "torch"],
    "prune_and_ship.md": ["ai_edge_litert"],
}


@functools.cache
def text_of(name):
    return (guides.FOLDER / name).read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.parametrize("name", guides.names())
def test_a_guide_runs(name, tmp_path):
    for package in NEEDS.get(name, ()):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}")
    done = subprocess.run(
        [sys.executable, "-m", "tests.docs.guides", str(guides.FOLDER / name)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


@pytest.mark.parametrize("name", guides.names())
def test_a_guide_is_a_notebook_with_a_title(name):
    text = text_of(name)
    assert text.startswith(HEADER + "\n# ")
    assert text.count("```{code-cell}") == len(guides.cells(text)) > 0
    assert "\n## Where to go next\n" in text
    for cell in guides.cells(text):
        assert cell.tree.body, f"{name}, line {cell.line}: an empty cell"


@pytest.mark.parametrize("name", guides.names())
def test_the_links_of_a_guide_exist(name):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text_of(name)):
        if not target.startswith("http"):
            assert (guides.FOLDER / target).exists(), target


@pytest.mark.parametrize("name", guides.names())
def test_the_names_and_arguments_of_a_guide_exist(name):
    cells = guides.cells(text_of(name))
    modules = [[cell] for cell in cells if cell.file] + [[cell for cell in cells if not cell.file]]
    for module in modules:
        known = {}
        for cell in module:
            for problem in problems(cell.tree, known):
                raise AssertionError(f"{name}, line {cell.line - 1 + problem[0]}: {problem[1]}")


ROOMS = (
    "budgets|callbacks|checkpoints|datasets|deploy|distributions|inspection|initializers|layers|models|schedules|study"
)


@pytest.mark.parametrize("name", guides.names())
def test_the_names_in_the_text_of_a_guide_exist(name):
    for span in re.findall(r"`([^`\n]+)`", text_of(name)):
        for path in re.findall(rf"(?<![\w./-])((?:sparsity_tf|{ROOMS})(?:\.[a-zA-Z]\w*)+)", span):
            parts = path.removeprefix("sparsity_tf.").split(".")
            if parts[-1] not in ("py", "csv", "keras", "md") and not _is_module(parts):
                assert resolve(sparsity_tf, parts) is not None, f"{name}: {path}"


def _is_module(parts):
    return pathlib.Path(ROOT, "sparsity_tf", *parts).with_suffix(".py").exists()


def resolve(value, parts):
    """The object that a dotted name stands for. `None` if an attribute is missing. Stops at instances and calls."""
    for part in parts:
        if not (inspect.ismodule(value) or inspect.isclass(value)):
            return value
        if not hasattr(value, part):
            return None
        value = getattr(value, part)
    return value


def problems(tree, known):
    """Yields (line, problem) for each unknown name or argument of the package and of Keras. `known`: imported names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in ("keras", "sparsity_tf"):
                    known[alias.asname or alias.name.split(".")[0]] = {"keras": keras, "sparsity_tf": sparsity_tf}[
                        alias.name.split(".")[0]
                    ]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("keras", "sparsity_tf"):
            module = importlib.import_module(node.module)
            for alias in node.names:
                if not hasattr(module, alias.name):
                    yield node.lineno, f"{node.module} has no {alias.name}"
                else:
                    known[alias.asname or alias.name] = getattr(module, alias.name)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and (parts := dotted(node)) and parts[0] in known:
            if resolve(known[parts[0]], parts[1:]) is None:
                yield node.lineno, f"{'.'.join(parts)} does not exist"
        if isinstance(node, ast.Call) and (parts := dotted(node.func)) and parts[0] in known:
            yield from unknown_arguments(node, resolve(known[parts[0]], parts[1:]), ".".join(parts))


def dotted(node):
    """The parts of `a.b.c`, or `None` for any other expression."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return [node.id, *reversed(parts)] if isinstance(node, ast.Name) else None


def unknown_arguments(call, function, name):
    if not callable(function) or not getattr(function, "__module__", "").startswith("sparsity_tf"):
        return
    parameters = inspect.signature(function).parameters
    if any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        return
    for keyword in call.keywords:
        if keyword.arg is not None and keyword.arg not in parameters:
            yield call.lineno, f"{name} has no argument {keyword.arg}"


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("import sparsity_tf\nsparsity_tf.shrunk(1)", "sparsity_tf.shrunk does not exist"),
        (
            "from sparsity_tf import callbacks\ncallbacks.RigL(sparsness=0.9)",
            "callbacks.RigL has no argument sparsness",
        ),
        ("from sparsity_tf import Shrink", "sparsity_tf has no Shrink"),
        ("import keras\nkeras.layers.Danse(3)", "keras.layers.Danse does not exist"),
    ],
)
def test_the_check_finds_a_wrong_name(code, problem):
    assert [found for _, found in problems(ast.parse(code), {})] == [problem]


def test_the_lines_of_a_cell_are_those_of_the_guide():
    text = "# A\n\n```{code-cell} ipython3\n:tags: [hide-input]\nx = 1\n```\n"
    assert [(cell.code, cell.line, cell.file) for cell in guides.cells(text)] == [("x = 1\n", 5, None)]
    text = "# A\n\n```{code-cell} ipython3\n%%writefile a.py\ny\n```\n"
    assert [(cell.code, cell.line, cell.file) for cell in guides.cells(text)] == [("y\n", 5, "a.py")]
