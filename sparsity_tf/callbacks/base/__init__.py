"""What the algorithms that change masks have in common."""

__all__ = []


def __dir__():
    return __all__
