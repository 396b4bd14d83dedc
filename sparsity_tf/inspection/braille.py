"""Pictures of masks as text: each character of Unicode's Braille block shows four rows and two columns of a mask.

The function is `mask2braille` of the `dst` package (by the authors of DSR: Mostafa & Wang, ICML 2019, arXiv
1902.05967).
"""

import keras
import numpy as np

from sparsity_tf.checks import check_array, check_integer, check_integers
from sparsity_tf.type_names import Tensor

# The character without dots.
_BLANK = 0x2800
# The bit of each dot, by its row and column.
_BITS = np.array([[0, 3], [1, 4], [2, 5], [6, 7]])


def mask_to_braille(mask: Tensor, axes: tuple[int, int] = (-2, -1), width: int | None = None) -> str:
    """Draws a mask, or the entries of a weight that are not zero, in Braille characters.

    Args:
        mask: Array or tensor of rank 1 or more. Entries that are not zero are live. A vector is drawn as one row.
        axes: The axes that become the rows and the columns of the picture. A dot stands for all entries along the other
            axes, and is drawn if any of them is live. By default these are the inputs and the outputs of a kernel, so
            a dot of a convolution is a whole window.
        width: Most characters in a line, or `None` for any number. In a picture that would be wider, a dot stands for a
            square of entries, and is drawn if any of them is live.

    Returns:
        String of lines of equal length. Each character shows four rows and two columns; beyond the edge of the mask
        there are no dots.

    Raises:
        ValueError: The mask is no array or has no entries, or an argument has another form.

    Example:

    >>> print(mask_to_braille(np.eye(8)))
    ⠑⢄⠀⠀
    ⠀⠀⠑⢄
    """
    check_integers("axes", axes, length=2)
    if width is not None:
        check_integer("width", width, 1)
    check_array("mask", mask)
    live = keras.ops.convert_to_numpy(mask) != 0
    if live.ndim == 1 and tuple(axes) == (-2, -1):
        live = live[np.newaxis]
    if not live.size or len({axis % max(live.ndim, 1) for axis in axes}) < 2:
        raise ValueError(
            f"`mask` must have entries, and `axes` must name two of its axes. Received: a mask of shape {live.shape}, "
            f"axes={tuple(axes)}"
        )
    if any(not -live.ndim <= axis < live.ndim for axis in axes):
        raise ValueError(f"`axes` must name axes of a mask of {live.ndim} axes. Received: axes={tuple(axes)}")
    live = np.moveaxis(live, axes, (0, 1))
    live = live.any(axis=tuple(range(2, live.ndim)))
    if width is not None:
        live = _coarser(live, -(-live.shape[1] // (2 * width)))
    rows, columns = live.shape
    live = np.pad(live, ((0, -rows % 4), (0, -columns % 2)))
    tiles = live.reshape(live.shape[0] // 4, 4, live.shape[1] // 2, 2)
    codes = _BLANK + (tiles << _BITS[:, np.newaxis]).sum(axis=(1, 3))
    return "\n".join("".join(map(chr, line)) for line in codes)


def _coarser(live, side):
    """A picture in which each square of `side` x `side` entries has become one."""
    for axis in (0, 1):
        live = np.logical_or.reduceat(live, np.arange(0, live.shape[axis], side), axis=axis)
    return live
