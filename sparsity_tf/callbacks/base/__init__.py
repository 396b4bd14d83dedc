"""The common parts of the algorithms that change masks."""

__all__ = []


def __dir__():
    return __all__
