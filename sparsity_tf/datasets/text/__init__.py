"""Data sets of text, vocabularies, and the way from sentences to batches."""

__all__ = []


def __dir__():
    return __all__
