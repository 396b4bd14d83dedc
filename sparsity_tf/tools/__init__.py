"""The small commands: `sparsity-tf convert`, `evaluate`, `budget`, ..."""

__all__ = []


def __dir__():
    return __all__
