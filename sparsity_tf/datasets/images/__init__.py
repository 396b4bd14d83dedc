"""Data sets of images, and functions that make batches of images."""

__all__ = []


def __dir__():
    return __all__
