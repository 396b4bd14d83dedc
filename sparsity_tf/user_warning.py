"""Warnings that point to the user's line, however many calls of this package and of Keras lie in between."""

import inspect
import warnings

# Frames of these packages are never the user's. A backend is between the user and us when it traces a function, and
# `threading` when a thread calls us.
_NOT_THE_USERS = {"sparsity_tf", "keras", "tensorflow", "jax", "torch", "threading", "concurrent"}


def warn_user(message: str) -> None:
    """Gives a `UserWarning` whose file and line are the last ones outside this package, Keras and the backends.

    Args:
        message: The text of the warning.
    """
    frame, level = inspect.currentframe().f_back, 2
    while frame is not None and (frame.f_globals.get("__name__") or "").partition(".")[0] in _NOT_THE_USERS:
        frame, level = frame.f_back, level + 1
    # A thread may have no frame of the user's. Then the warning points to the function that calls this one.
    warnings.warn(message, stacklevel=2 if frame is None else level)
