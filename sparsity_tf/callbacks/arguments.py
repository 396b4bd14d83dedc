"""Checks of arguments that the algorithms share."""

import numbers


def check_integer(name, value, least):
    """Raises a ValueError that names the argument unless it is an integer, `least` or more."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"`{name}` must be an integer of at least {least}. Received: {name}={value!r}")


def check_fraction(name, value, closed=False):
    """Raises a ValueError that names the argument unless it is a number in [0, 1), or [0, 1] if `closed`."""
    right = isinstance(value, numbers.Real) and not isinstance(value, bool) and 0 <= value
    if not right or not (value <= 1 if closed else value < 1):
        bounds = "[0, 1]" if closed else "[0, 1)"
        raise ValueError(f"`{name}` must be a number in {bounds}. Received: {name}={value!r}")
