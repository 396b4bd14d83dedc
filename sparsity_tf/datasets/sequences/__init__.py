"""Data sets of labelled sequences: Google-12 and HAR-2, on which FastGRNN was measured."""

__all__ = []


def __dir__():
    return __all__
