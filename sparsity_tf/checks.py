"""The checks of arguments for the whole package. Each error names the argument, its value and the allowed values.

A check raises a `ValueError` for every wrong value, also for a value of the wrong type.
"""

import difflib
import inspect
import math
import numbers
import os
import re

import keras
import numpy as np

# No tensor holds a larger integer.
_LARGEST_INTEGER = 2**63 - 1
# The most characters of a value that a message shows.
_SHOWN = 200


def shown(value):
    """The text of a value in messages: at most 200 characters of its `repr`; for an array its shape and dtype."""
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and len(shape) and not isinstance(value, type):
        return f"<{type(value).__name__} of shape {shape}, {getattr(value, 'dtype', '?')}>"
    try:
        text = repr(value)
    except Exception:  # The value may be anything, and the message about it must come.
        return f"<{type(value).__name__}>"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def check_integer(name, value, least=None, most=None):
    """Raises a ValueError unless `value` is an integer within the bounds (a numpy integer is one, a bool is not)."""
    right = is_integer(value)
    if right and most is None and value > _LARGEST_INTEGER:
        most = _LARGEST_INTEGER
    if right and least is None and value < -_LARGEST_INTEGER:
        least = -_LARGEST_INTEGER
    if not right or (least is not None and value < least) or (most is not None and value > most):
        bounds = " and".join(
            f" {word} {bound}" for word, bound in (("of at least", least), ("at most", most)) if bound is not None
        )
        raise ValueError(f"`{name}` must be an integer{bounds}. Received: {name}={shown(value)}")


def check_number(name, value, least=None, above=None, most=None, below=None):
    """Raises a ValueError unless `value` is a finite real number (not a bool) within the bounds."""
    bounds = {"at least": least, "above": above, "at most": most, "below": below}
    right = is_finite_number(value)
    right = right and (least is None or value >= least) and (above is None or value > above)
    right = right and (most is None or value <= most) and (below is None or value < below)
    if not right:
        wanted = " and ".join(f"{word} {bound}" for word, bound in bounds.items() if bound is not None)
        raise ValueError(f"`{name}` must be a finite number {wanted}".rstrip() + f". Received: {name}={shown(value)}")


def check_fraction(name, value, closed=False):
    """Raises a ValueError unless `value` is a number in [0, 1), or in [0, 1] if `closed`."""
    right = is_number(value) and 0 <= value
    if not right or not (value <= 1 if closed else value < 1):
        bounds = "[0, 1]" if closed else "[0, 1)"
        raise ValueError(f"`{name}` must be a number in {bounds}. Received: {name}={shown(value)}")


def check_bool(name, value):
    """Raises a ValueError unless `value` is True or False, of Python or numpy. (The string "false" would be true.)"""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"`{name}` must be True or False. Received: {name}={shown(value)}")


def check_choice(name, value, choices):
    """Raises a ValueError unless `value` equals one of `choices`."""
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        raise ValueError(
            f"`{name}` must be one of {list(choices)}. Received: {name}={shown(value)}{meant(value, choices)}"
        )


def meant(value, choices):
    """The end of a message about a misspelt name, " (Did you mean 'masked'?)", or "" if no choice is like the value."""
    names = [choice for choice in choices if isinstance(choice, str)]
    close = difflib.get_close_matches(value, names, n=1) if isinstance(value, str) else []
    return f" (Did you mean {close[0]!r}?)" if close else ""


def check_string(name, value):
    """Raises a ValueError unless `value` is a string with at least one character."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"`{name}` must be a string that is not empty. Received: {name}={shown(value)}")


def check_path(name, value):
    """Raises a ValueError unless `value` is a path: a string that is not empty, or an `os.PathLike`."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise ValueError(f"`{name}` must be a path, a string or `os.PathLike`. Received: {name}={shown(value)}")


def check_callable(name, value, *arguments):
    """Raises a ValueError unless `value` is a function that takes one positional argument for each of `arguments`."""
    right = callable(value) and not isinstance(value, type | keras.layers.Layer)
    if not right or not _takes(value, arguments):
        of = f" of ({', '.join(arguments)})" if arguments else ""
        raise ValueError(f"`{name}` must be a function{of}. Received: {name}={shown(value)}")


def _takes(function, arguments):
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # Some functions written in C have no signature.
        return True
    try:
        signature.bind(*arguments)
    except TypeError:
        return not arguments
    return True


def check_instance(name, value, *classes):
    """Raises a ValueError unless `value` is an instance of one of `classes`."""
    if not isinstance(value, classes):
        names = " or ".join(f"`{cls.__name__}`" for cls in classes)
        raise ValueError(f"`{name}` must be of type {names}. Received: {name}={shown(value)}")


def check_integers(name, value, least=None, length=None, unknown=False):
    """Raises a ValueError unless `value` is a tuple or list of integers.

    Args:
        name: Name of the argument.
        value: Value of the argument.
        least: The smallest integer allowed, or `None`.
        length: The number of entries, or `None` for any number but 0.
        unknown: Whether entries before the last may be `None`, which stands for an unknown size.
    """
    right = isinstance(value, list | tuple) and len(value) == (length or len(value)) and len(value) > 0
    right = right and all(
        (is_integer(entry) and abs(entry) <= _LARGEST_INTEGER and (least is None or entry >= least))
        or (unknown and entry is None and position < len(value) - 1)
        for position, entry in enumerate(value)
    )
    if not right:
        entries = "positive integers" if least == 1 else "integers" + ("" if least is None else f" of at least {least}")
        count = "" if length is None else f"{length} "
        raise ValueError(f"`{name}` must be a tuple of {count}{entries}. Received: {name}={shown(value)}")


def check_array(name, value, shape=None):
    """Raises a ValueError unless `value` is a tensor or array of numbers or bools, or nested lists of them.

    Args:
        name: Name of the argument.
        value: Value of the argument.
        shape: The required shape, a tuple, or `None` for any shape.
    """
    array = value
    if not (hasattr(value, "shape") and hasattr(value, "dtype")):
        try:
            array = np.asarray(value)
        except (TypeError, ValueError, RecursionError):  # For example, lists of unequal lengths.
            array = None
    kind = getattr(getattr(array, "dtype", None), "kind", "f")  # Tensors of other libraries pass as numbers.
    if array is None or kind in "OSUMmc":
        raise ValueError(f"`{name}` must be an array of numbers. Received: {name}={shown(value)}")
    if shape is not None and tuple(array.shape) != tuple(shape):
        raise ValueError(f"`{name}` must have the shape {tuple(shape)}. Received: shape={tuple(array.shape)}")


def check_selection(name, value, argument, empty=False):
    """Raises a ValueError unless `value` is `None`, a predicate, a name or regular expression, or a list of them.

    Args:
        name: Name of the argument.
        value: Value of the argument.
        argument: Name of a predicate's argument, for the message: "layer" or "tensor".
        empty: Whether an empty list is allowed.
    """
    if value is None or (empty and isinstance(value, list | tuple) and not value):
        return
    if callable(value):
        check_callable(name, value, argument)
    else:
        selection_entries(name, value)


def selection_entries(name, value):
    """The names and regular expressions of a selection that is not a predicate.

    Args:
        name: Name of the argument.
        value: A string or compiled regular expression, or a list of them.

    Returns:
        List of strings and compiled regular expressions, which `re.fullmatch` takes.

    Raises:
        ValueError: `value` is of another type, or an entry is not a regular expression.
    """
    entries = [value] if isinstance(value, re.Pattern) or (isinstance(value, str) and value) else value
    if not isinstance(entries, list | tuple | set | frozenset) or not entries:
        raise ValueError(
            f"`{name}` must be None, a predicate, a name or regular expression, or a list of at least one of them. "
            f"Received: {name}={shown(value)}"
        )
    for entry in entries:
        try:
            re.compile(entry)
        except (TypeError, re.error) as error:
            hint = "give the layer's name" if isinstance(entry, keras.layers.Layer) else error
            raise ValueError(
                f"`{name}` must hold names or regular expressions. Received: the entry {entry!r} ({hint})"
            ) from None
    return list(entries)


def check_seed(name, value):
    """Raises a ValueError unless `value` is `None` or an integer of at least 0."""
    if value is not None:
        check_integer(name, value, 0)


def check_model(name, value):
    """Raises a ValueError unless `value` is a Keras model."""
    if not isinstance(value, keras.Model):
        raise ValueError(f"`{name}` must be a Keras model. Received: {name}={shown(value)}")


def check_layer(name, value):
    """Raises a ValueError unless `value` is a Keras model or layer."""
    if not isinstance(value, keras.layers.Layer):
        raise ValueError(f"`{name}` must be a Keras model or layer. Received: {name}={shown(value)}")


def check_built(name, value):
    """Raises a ValueError unless `value` is a Keras model or layer with variables."""
    check_layer(name, value)
    if not value.built:
        raise ValueError(
            f"`{name}` must be built: call it on data, or `{name}.build(input_shape)`. "
            f"Received: {name}={value.name!r}, which is not built."
        )


def check_initializer(name, value):
    """Returns the Keras initializer that `value` stands for. Raises a ValueError if it stands for none."""
    return _from_keras(name, value, keras.initializers, "initializer", "shape")


def check_regularizer(name, value):
    """Returns the Keras regularizer that `value` stands for, or `None`. Raises a ValueError for any other value."""
    return _from_keras(name, value, keras.regularizers, "regularizer", "x")


def check_activation(name, value):
    """Returns the Keras activation that `value` stands for. Raises a ValueError if it stands for none."""
    return _from_keras(name, value, keras.activations, "activation", "x")


def _from_keras(name, value, module, kind, argument):
    try:
        found = module.get(value)
    except Exception as error:  # Keras's `get` functions raise nearly every kind of error.
        found, cause = NotImplemented, error
    else:
        cause = None
    # Keras also makes an initializer from an array, but it can't save such an initializer.
    right = value is None or isinstance(value, str | dict) or callable(value)
    right = right and (found is None or (callable(found) and _takes(found, (argument,))))
    if not right or isinstance(found, type) or (isinstance(found, keras.layers.Layer) and kind != "activation"):
        raise ValueError(
            f"`{name}` must be a Keras {kind}, its name or config, or a function of ({argument}). "
            f"Received: {name}={shown(value)}"
        ) from cause
    return found


def is_number(value):
    """Whether `value` is a real number. A bool is not a number here."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def is_integer(value):
    """Whether `value` is an integer. A bool is not an integer here."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_finite_number(value):
    """Whether `value` is a finite real number that a float can hold. A bool is not a number here."""
    try:
        return is_number(value) and math.isfinite(value)
    except OverflowError:  # An integer of more than 308 digits.
        return False
