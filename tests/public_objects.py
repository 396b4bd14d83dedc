"""What is public: the classes and functions of every `__all__`, and of the modules that are used with a dot."""

import doctest
import functools
import importlib
import inspect
import re

_BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
ROOMS = "callbacks checkpoints datasets decoding deploy distributions inspection layers masks models study".split()
# Modules without `__all__`: the names that they define themselves are public.
MODULES = (
    "sparsity_tf.schedules",
    "sparsity_tf.initializers",
    "sparsity_tf.regularizers",
    "sparsity_tf.masks.structures",
    "sparsity_tf.distributions.budgets",
    "sparsity_tf.datasets.text.subwords",
)


@functools.cache
def public_objects():
    """Dict from the full name of a public class or function to (the module that offers it, the object), each once."""
    found, seen = {}, set()
    for name in ("sparsity_tf", *(f"sparsity_tf.{room}" for room in ROOMS), *MODULES):
        module = importlib.import_module(name)
        for key in getattr(module, "__all__", None) or names_defined_in(module):
            value = getattr(module, key)
            # What `backend` lends to a room is documented there.
            lent = getattr(value, "__module__", "").startswith("sparsity_tf.backend")
            if inspect.ismodule(value) or not callable(value) or id(value) in seen or lent:
                continue
            seen.add(id(value))
            found[f"{name}.{key}"] = module, value
    return found


def names_defined_in(module):
    """The public names of a module without `__all__`, and those that a base module of it gives."""
    own = (module.__name__, "sparsity_tf.schedule_base")
    return [
        key
        for key, value in vars(module).items()
        if not key.startswith("_") and key != "plain" and getattr(value, "__module__", None) in own
    ]


def examples_of(docstring):
    """The runnable parts of a docstring, in order: source text, of statements or of a session with `>>>`."""
    text = inspect.cleandoc(docstring or "")
    blocks = [match.group(1) for match in _BLOCK.finditer(text)]
    rest = _BLOCK.sub("", text)
    sessions = doctest.DocTestParser().get_examples(rest)
    return blocks, sessions
