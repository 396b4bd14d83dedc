"""Data sets of text, vocabularies, and functions that make batches of sentences."""

__all__ = []


def __dir__():
    return __all__
