"""The training programs. They turn flags into a data set, a model, callbacks and `fit`; algorithms live elsewhere."""

# Users run the programs as modules, with `python -m` or `sparsity-tf`, so there is nothing to import from here.
__all__ = []


def __dir__():
    return __all__
