"""Reads IDX files, the format in which MNIST and its relatives are published.

An IDX file is: two zero bytes, one byte for the element type, one byte for the number of
dimensions, the dimensions as big-endian 32-bit integers, then the elements in C order
(description: Y. LeCun, "The MNIST database of handwritten digits"). Two ideas live here. The first
is to parse one file and to report every fault of it as a `ValueError` that names the file. The second
is to find the four files of a data set under all the names that are in use.
"""

import math
import os

import numpy as np

from sparsity_tf.bounded_files import MOST_DIMENSIONS, open_unpacked, read_at_most
from sparsity_tf.checks import check_path
from sparsity_tf.type_names import PathLike

_ELEMENT_TYPES = {
    0x08: np.dtype(">u1"),
    0x09: np.dtype(">i1"),
    0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"),
    0x0D: np.dtype(">f4"),
    0x0E: np.dtype(">f8"),
}

# part of a data set -> (stem, number of dimensions)
_PARTS = {
    "x_train": ("train-images", 3),
    "y_train": ("train-labels", 1),
    "x_test": ("t10k-images", 3),
    "y_test": ("t10k-labels", 1),
}


def _spellings(stem, ndim):
    plain = [f"{stem}-idx{ndim}-ubyte", f"{stem}.idx{ndim}-ubyte"]
    return plain + [f"{name}.gz" for name in plain]


def read_idx(path: PathLike) -> np.ndarray:
    """Reads one IDX file, gzipped or not. The content tells which, not the name.

    Args:
        path: Path of the file.

    Returns:
        A numpy array in native byte order, with the shape and element type from the file's header.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not IDX (wrong magic number), its gzip stream is damaged, or it
            holds fewer or more bytes than its header promises. The message names the file.

    Example:

    >>> with open("labels-idx1-ubyte", "wb") as file:  # Bytes (8) in one dimension (1), of size 3.
    ...     length = file.write(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 2, 1]))
    >>> read_idx("labels-idx1-ubyte")
    array([7, 2, 1], dtype=uint8)
    """
    check_path("path", path)
    with open(path, "rb") as file:
        packing = ".gz" if file.read(2) == b"\x1f\x8b" else None
    with open_unpacked(path, packing) as file:
        start = file.read(4)
        if len(start) < 4 or start[:2] != b"\0\0" or start[2] not in _ELEMENT_TYPES:
            raise ValueError(
                f"{path} is not an IDX file: it must begin with two zero bytes, an element type "
                f"(one of {', '.join(f'0x{code:02x}' for code in _ELEMENT_TYPES)}) and the number of "
                f"dimensions. Received: 0x{start.hex()}"
            )
        dtype, ndim = _ELEMENT_TYPES[start[2]], start[3]
        if ndim > MOST_DIMENSIONS:
            raise ValueError(f"{path} is not an IDX file: its header promises {ndim} dimensions.")
        sizes = file.read(4 * ndim)
        if len(sizes) < 4 * ndim:
            raise ValueError(
                f"{path} is truncated: its header needs {4 + 4 * ndim} bytes, it has {len(start + sizes)}."
            )
        shape = tuple(int(size) for size in np.frombuffer(sizes, ">u4"))
        expected = math.prod(shape) * dtype.itemsize
        # Asks for one more byte than the header promises, to notice a file that is too long.
        content = read_at_most(file, expected + 1)
    if len(content) < expected:
        raise ValueError(
            f"{path} is truncated: shape {shape} needs {expected:,} bytes after the header, it has {len(content):,}."
        )
    if len(content) > expected:
        raise ValueError(f"{path} has bytes after its last element: shape {shape} needs {expected:,} of them.")
    array = np.frombuffer(content, dtype).reshape(shape)
    return array.astype(dtype.newbyteorder("="))


def find_idx_files(folder):
    """Finds the four IDX files of an MNIST-like data set in a folder.

    Args:
        folder: Path of a folder.

    Returns:
        A dict with the keys `x_train`, `y_train`, `x_test`, `y_test` and the paths as values; an
        empty dict if the folder holds none of the four.

    Raises:
        FileNotFoundError: Some of the four files are there and some are missing. The message names a
            missing file and the accepted names.
    """
    found, missing = {}, []
    for part, (stem, ndim) in _PARTS.items():
        names = _spellings(stem, ndim)
        paths = [os.path.join(folder, name) for name in names]
        path = next((path for path in paths if os.path.isfile(path)), None)
        if path is None:
            missing.append(names)
        else:
            found[part] = path
    if found and missing:
        raise FileNotFoundError(
            f"{os.path.join(folder, missing[0][0])} is missing (accepted names: "
            f"{', '.join(missing[0])}), although {len(found)} of the four IDX files are there."
        )
    return found
