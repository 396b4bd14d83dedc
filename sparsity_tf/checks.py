"""Checks of arguments, one set for the whole package: each error names the argument, its value and what is allowed.

A check raises a `ValueError`, whatever is wrong with the value, its type included.
"""

import math
import numbers
import os
import re

import keras


def check_integer(name, value, least=None, most=None):
    """Raises a ValueError unless `value` is an integer (numpy's count, bools don't) within the bounds."""
    right = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not right or (least is not None and value < least) or (most is not None and value > most):
        bounds = " and".join(
            f" {word} {bound}" for word, bound in (("of at least", least), ("at most", most)) if bound is not None
        )
        raise ValueError(f"`{name}` must be an integer{bounds}. Received: {name}={value!r}")


def check_number(name, value, least=None, above=None, most=None, below=None):
    """Raises a ValueError unless `value` is a finite real number (bools are none) within the bounds."""
    bounds = {"at least": least, "above": above, "at most": most, "below": below}
    right = is_number(value) and math.isfinite(value)
    right = right and (least is None or value >= least) and (above is None or value > above)
    right = right and (most is None or value <= most) and (below is None or value < below)
    if not right:
        wanted = " and ".join(f"{word} {bound}" for word, bound in bounds.items() if bound is not None)
        raise ValueError(f"`{name}` must be a finite number {wanted}".rstrip() + f". Received: {name}={value!r}")


def check_fraction(name, value, closed=False):
    """Raises a ValueError unless `value` is a number in [0, 1), or in [0, 1] if `closed`."""
    right = is_number(value) and 0 <= value
    if not right or not (value <= 1 if closed else value < 1):
        bounds = "[0, 1]" if closed else "[0, 1)"
        raise ValueError(f"`{name}` must be a number in {bounds}. Received: {name}={value!r}")


def check_bool(name, value):
    """Raises a ValueError unless `value` is True or False: a string such as "false" would count as true."""
    if not isinstance(value, bool):
        raise ValueError(f"`{name}` must be True or False. Received: {name}={value!r}")


def check_choice(name, value, choices):
    """Raises a ValueError unless `value` equals one of `choices`."""
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        raise ValueError(f"`{name}` must be one of {list(choices)}. Received: {name}={value!r}")


def check_string(name, value):
    """Raises a ValueError unless `value` is a string with at least one character."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"`{name}` must be a string that is not empty. Received: {name}={value!r}")


def check_path(name, value):
    """Raises a ValueError unless `value` is a path: a string that is not empty, or an `os.PathLike`."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise ValueError(f"`{name}` must be a path, a string or `os.PathLike`. Received: {name}={value!r}")


def check_callable(name, value):
    """Raises a ValueError unless `value` can be called."""
    if not callable(value):
        raise ValueError(f"`{name}` must be a function. Received: {name}={value!r}")


def check_selection(name, value):
    """Raises a ValueError unless `value` is `None`, a predicate, a name or regular expression, or a list of them."""
    entries = [value] if isinstance(value, str) else value
    if value is None or callable(value) and not isinstance(value, keras.layers.Layer):
        return
    if not isinstance(entries, list | tuple | set | frozenset) or not entries:
        raise ValueError(
            f"`{name}` must be None, a predicate, a name or regular expression, or a list of at least one of them. "
            f"Received: {name}={value!r}"
        )
    for entry in entries:
        try:
            re.compile(entry)
        except (TypeError, re.error) as error:
            raise ValueError(
                f"`{name}` must hold names or regular expressions. Received the entry {entry!r}: {error}"
            ) from None


def check_seed(name, value):
    """Raises a ValueError unless `value` is `None` or an integer that is not negative."""
    if value is not None:
        check_integer(name, value, 0)


def check_model(name, value):
    """Raises a ValueError unless `value` is a Keras model."""
    if not isinstance(value, keras.Model):
        raise ValueError(f"`{name}` must be a Keras model. Received: {name}={value!r}")


def is_number(value):
    """Whether `value` is a real number; bools are none."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
