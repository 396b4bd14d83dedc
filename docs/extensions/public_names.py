"""What is public: the names of every `__all__`, the page of the reference that shows each, and links to them."""

import ast
import functools
import importlib
import inspect
import pathlib
import types

import markdown_docstrings

# What is documented under the first module that offers it.
PACKAGES = "callbacks checkpoints datasets decoding deploy distributions inspection layers masks models study".split()
# Modules without `__all__`: the names that they define themselves are public.
MODULES = (
    "sparsity_tf.schedules",
    "sparsity_tf.initializers",
    "sparsity_tf.regularizers",
    "sparsity_tf.masks.structures",
    "sparsity_tf.distributions.budgets",
    "sparsity_tf.datasets.text.subwords",
)
OFFERED = ("sparsity_tf", *(f"sparsity_tf.{name}" for name in PACKAGES), *MODULES)


def offered(module_name):
    """Dict from a public name of a module to its object. Modules are left out, and what `backend` lends."""
    module = importlib.import_module(module_name)
    names = getattr(module, "__all__", None)
    if names is None:
        own = (module_name, "sparsity_tf.schedule_base")
        names = [key for key, value in vars(module).items() if getattr(value, "__module__", None) in own]
        names = [name for name in names if not name.startswith("_") and name != "plain"]
    found = {name: getattr(module, name) for name in names}
    return {
        name: value
        for name, value in found.items()
        if callable(value) and not getattr(value, "__module__", "").startswith("sparsity_tf.backend")
    }


@functools.cache
def homes():
    """Dict from the id of a public object to the full name under which it is documented."""
    found = {}
    for module in OFFERED:
        for name, value in offered(module).items():
            found.setdefault(id(value), f"{module}.{name}")
    return found


@functools.cache
def links():
    """Dict from a name in a docstring, such as "RigL" or "callbacks.RigL", to the full name that it links to."""
    found, twice = {}, set()
    for full in homes().values():
        parts = full.split(".")
        for start in range(len(parts)):
            short = ".".join(parts[start:])
            if found.setdefault(short, full) != full:
                twice.add(short)
    # "get" and the like mean something else in most places.
    common = {"get", "read", "load", "export", "train", "uniform"}
    return {short: full for short, full in found.items() if short not in twice | common}


def names(module, only=(), without=()):
    """The public names of a module that are documented with it, sorted; `only`, `without`: modules that define them."""

    def chosen(value):
        origin = value.__module__.rpartition(".")[2]
        return (not only or origin in only) and origin not in without

    found = offered(module)
    return sorted(
        (name for name, value in found.items() if homes()[id(value)] == f"{module}.{name}" and chosen(value)),
        key=lambda name: (name.lower(), name),
    )


def constants(module_name):
    """Public names of a package that are neither classes, functions nor modules: dict name -> (value, its comment)."""
    module = importlib.import_module(module_name)
    values = {name: getattr(module, name) for name in getattr(module, "__all__", ())}
    values = {name: value for name, value in values.items() if not callable(value)}
    return {
        name: (value, _comment_above(module, name))
        for name, value in values.items()
        if not isinstance(value, types.ModuleType)
    }


def _comment_above(package, name):
    """The comment above the line that defines a name in one of the files of a package: a str."""
    for path in sorted(pathlib.Path(package.__file__).parent.glob("*.py")):
        text = path.read_text(encoding="utf-8")
        for node in ast.parse(text).body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == name:
                comment = []
                for line in reversed(text.splitlines()[: node.lineno - 1]):
                    if not line.startswith("# "):
                        break
                    comment.insert(0, line.removeprefix("# "))
                return "\n".join(comment)
    raise LookupError(f"{package.__name__} defines no {name}")


def elsewhere(module):
    """Dict from a public name of a module to the full name under which it is documented, with another module."""
    found = {name: homes()[id(value)] for name, value in offered(module).items()}
    return {name: home for name, home in found.items() if home != f"{module}.{name}"}


def source(module, only=(), without=()):
    """The reStructuredText that documents the names, first as a table, then one by one: list of lines."""
    listed = names(module, only, without)
    lines = [".. autosummary::", "   :nosignatures:", "", *(f"   ~{module}.{name}" for name in listed), ""]
    others = {} if only or without else elsewhere(module)
    if others:
        text = ", ".join(f":py:obj:`{name} <{home}>`" for name, home in sorted(others.items()))
        lines += [f"The package also offers, under these names: {text}.", ""]
    for name in listed:
        value = getattr(importlib.import_module(module), name)
        if inspect.isclass(value):
            lines += [f".. autoclass:: {module}.{name}", "   :members:", "   :show-inheritance:", ""]
        elif inspect.isroutine(value):
            lines += [f".. autofunction:: {module}.{name}", ""]
        else:
            raise TypeError(f"{module}.{name} is neither a class nor a function")
    for name, (value, comment) in [] if only else sorted(constants(module).items()):
        lines += [f".. py:data:: {module}.{name}"]
        lines += [f"   :value: {value!r}"] if 0 < len(value) and len(repr(value)) < 200 else []
        lines += ["", *(f"   {line}" for line in markdown_docstrings.to_rst(comment.split("\n"))), ""]
    return lines
