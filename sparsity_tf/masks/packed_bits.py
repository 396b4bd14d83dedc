"""Packs bool arrays into float64 numbers, the form in which a masked layer keeps states (`Masked.states`)."""

import math

import numpy as np

# A float64 holds every integer of so many bits exactly.
_BITS = 48


def pack(bits: np.ndarray) -> np.ndarray:
    """Packs a bool array: `_BITS` entries in a number.

    Example:

    >>> pack(np.array([True, False]))
    array([128.])
    """
    words = np.packbits(bits)
    words = np.pad(words, (0, -len(words) % 6)).reshape(-1, 6)
    return words.astype("float64") @ 256.0 ** np.arange(6)


def unpack(numbers: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of `pack`: a bool array of a shape.

    Example:

    >>> unpack(np.array([128.0]), (1, 2)).tolist()
    [[True, False]]
    """
    words = numbers.astype("uint64")[:, np.newaxis] >> np.arange(0, _BITS, 8, dtype="uint64")
    return (
        np.unpackbits((words & np.uint64(255)).astype("uint8").reshape(-1), count=math.prod(shape))
        .astype(bool)
        .reshape(shape)
    )


def length(size: int) -> int:
    """The number of numbers that `size` entries take.

    Example:

    >>> length(49)
    2
    """
    return -(-size // _BITS)
