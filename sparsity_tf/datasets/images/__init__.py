"""Data sets of images, and the way from images to batches."""

__all__ = []


def __dir__():
    return __all__
