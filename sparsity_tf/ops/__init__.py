"""Operations on tensors that layers and callbacks share."""

__all__ = []


def __dir__():
    return __all__
