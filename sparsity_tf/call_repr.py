"""Readable objects: `repr` is the call that made the object, with the arguments that differ from their defaults."""

import dataclasses
import functools
import inspect
import reprlib

import numpy as np

# Longer texts are cut. Arrays with more entries are shown by their dtype and shape.
_LONGEST = 80
_MOST_ENTRIES = 8
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _LONGEST


class CallRepr:
    """A mixin: the `repr` of an object is the call that made it, such as `RigL(sparsity=0.8, end_step=1000)`.

    The text is made together with the object. So it keeps no argument alive, and copies of the object have it, too.
    """

    _repr = None

    # A `__new__` could also do this, but it would hide the constructor's signature from `help` and editors.
    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            cls.__init__ = _recording(cls.__init__)

    def __repr__(self):
        return self._repr or f"{type(self).__name__}()"


def _recording(init):
    """A constructor that also records the arguments of the call, unless the constructor of a subclass has done so."""

    @functools.wraps(init)
    def __init__(self, *args, **kwargs):
        if self._repr is None:
            # Frozen dataclasses refuse the plain assignment.
            object.__setattr__(self, "_repr", f"{type(self).__name__}({_arguments(init, args, kwargs)})")
        init(self, *args, **kwargs)

    return __init__


def _arguments(function, args, kwargs):
    """The arguments of a call of a constructor that differ from their defaults, such as `"sparsity=0.9, seed=1"`."""
    signature = inspect.signature(function)
    try:
        bound = signature.bind(None, *args, **kwargs).arguments
    except TypeError:  # The call itself will fail and say why.
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


def short_repr(value, depth=3):
    """A short text for any value. Functions and named objects are shown by name, large arrays by dtype and shape.

    Nested lists are shown up to a depth, because a list may contain itself. The value may be one that a constructor is
    about to refuse, so nothing of it is trusted, not even its `repr`.
    """
    try:
        return _short_repr(value, depth)
    except Exception:
        return f"<{type(value).__name__}>"


def _short_repr(value, depth):
    if isinstance(value, np.ndarray) and value.size > _MOST_ENTRIES:
        return f"<{value.dtype} array of shape {value.shape}>"
    if isinstance(value, np.generic):
        return repr(value.item())
    if isinstance(value, list | tuple) and len(value) <= _MOST_ENTRIES and depth:
        inner = ", ".join(short_repr(entry, depth - 1) for entry in value)
        return f"[{inner}]" if isinstance(value, list) else f"({inner}{',' * (len(value) == 1)})"
    if inspect.isroutine(value) or isinstance(value, type | np.ufunc):
        return value.__name__
    if isinstance(value, str | dict | list | tuple | set):
        return _SHORT.repr(value)
    name = getattr(value, "name", None)
    if isinstance(name, str) and not dataclasses.is_dataclass(value):
        return f"<{type(value).__name__} {name!r}>"
    text = repr(value)
    if len(text) > _LONGEST or text.startswith("<"):
        return f"<{type(value).__name__}{f' {name!r}' if isinstance(name, str) else ''}>"
    return text
