"""Readable objects: `repr` is the call that made the object, with the arguments that differ from their defaults."""

import dataclasses
import inspect
import reprlib

import numpy as np

# Longer texts are cut, and arrays of more entries are named by their shape.
_LONGEST = 80
_MOST_ENTRIES = 8
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _LONGEST


class CallRepr:
    """A mixin: the object is written as the call that made it, such as `RigL(sparsity=0.8, end_step=1000)`.

    The text is made when the object is: it keeps no argument alive, and goes along with copies.
    """

    _repr = ""

    def __new__(cls, *args, **kwargs):
        self = super().__new__(cls)
        # Frozen dataclasses refuse the plain assignment.
        object.__setattr__(self, "_repr", f"{cls.__name__}({arguments_of(cls, args, kwargs)})")
        return self

    def __repr__(self):
        return self._repr


def arguments_of(cls, args, kwargs):
    """The arguments of a call of a class that differ from their defaults: a string such as `"sparsity=0.9, seed=1"`."""
    signature = inspect.signature(cls.__init__)
    try:
        bound = signature.bind(None, *args, **kwargs).arguments
    except TypeError:  # The call will fail, or is none: a copy is made.
        return "..."
    texts = []
    for name, value in list(bound.items())[1:]:
        parameter = signature.parameters[name]
        if parameter.kind is parameter.VAR_POSITIONAL:
            texts += map(short_repr, value)
        elif parameter.kind is parameter.VAR_KEYWORD:
            texts += [f"{key}={short_repr(one)}" for key, one in value.items()]
        elif not _is_same(value, parameter.default):
            texts.append(f"{name}={short_repr(value)}")
    return ", ".join(texts)


def _is_same(value, default):
    return type(value) is type(default) and isinstance(value, str | int | float | None) and value == default


def short_repr(value):
    """A short text of any value: functions and objects with a name by it, large arrays by dtype and shape."""
    if isinstance(value, np.ndarray) and value.size > _MOST_ENTRIES:
        return f"<{value.dtype} array of shape {value.shape}>"
    if isinstance(value, np.generic):
        return repr(value.item())
    if isinstance(value, list | tuple) and len(value) <= _MOST_ENTRIES:
        inner = ", ".join(map(short_repr, value))
        return f"[{inner}]" if isinstance(value, list) else f"({inner}{',' * (len(value) == 1)})"
    if inspect.isroutine(value) or isinstance(value, type):
        return getattr(value, "__qualname__", value.__name__)
    if isinstance(getattr(value, "name", None), str) and not dataclasses.is_dataclass(value):
        return f"<{type(value).__name__} {value.name!r}>"
    text = _SHORT.repr(value) if isinstance(value, str | dict | list | tuple | set) else repr(value)
    if len(text) > _LONGEST or text.startswith("<"):
        name = getattr(value, "name", None)
        return f"<{type(value).__name__}{f' {name!r}' if isinstance(name, str) else ''}>"
    return text
