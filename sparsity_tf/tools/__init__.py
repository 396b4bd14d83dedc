"""The small commands: `sparsity-tf convert`, `sparsity-tf evaluate`, `sparsity-tf budget` and others."""

__all__ = []


def __dir__():
    return __all__
