"""Training binaries: thin. Flags -> data set + model + callbacks + fit; no algorithm lives here."""

# The programs are modules, run with `python -m` or `sparsity-tf`.
__all__ = []


def __dir__():
    return __all__
