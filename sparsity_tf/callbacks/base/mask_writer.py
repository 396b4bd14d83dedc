"""Writes the masks of many weights at once."""

import numpy as np
from keras import ops

from sparsity_tf.backend import can_write_in_place, compiled_write, constant, write_in_place, zero_outside

# Weights of this many entries together are ranked and written at once.
_ENTRIES_AT_ONCE = 1 << 24


def portions(sizes):
    """Splits weights into portions of at most `_ENTRIES_AT_ONCE` entries (or one larger weight), in order.

    Args:
        sizes: List with the number of entries of each weight.

    Returns:
        List of lists: the positions of the weights of each portion.
    """
    found, size = [], 0
    for position, more in enumerate(sizes):
        if not found or size + more > _ENTRIES_AT_ONCE:
            found.append([])
            size = 0
        found[-1].append(position)
        size += more
    return found


class MaskWriter:
    """Sets the masks of the same weights again and again, faster than `SparseWeight.assign_mask` for each weight.

    On TensorFlow, outside `tf.distribute`, one compiled function writes all variables in place (if nothing else holds
    their memory). The function is traced at the first call.

    Args:
        weights: List of `SparseWeight`s of the technique "masked".
        others: List with a list for each weight: pairs of a `keras.Variable` and the number that its cleared entries
            become.
    """

    def __init__(self, weights, others):
        self.weights, self.others = weights, others
        self._compiled = None

    def __call__(self, masks, kept, cleared):
        """Writes masks, weights and the other variables.

        Args:
            masks: List of bool arrays of the weights' shapes.
            kept: List of bool arrays: outside `kept` a weight becomes zero, even where its mask is True.
            cleared: List of bool arrays: the entries of the other variables that become their number.
        """
        if self._writes_in_place():
            self._write_in_place(masks, kept, [~clear for clear in cleared])
            return
        for weight, mask, keep in zip(self.weights, masks, kept, strict=True):
            if keep is not mask:
                weight.assign_mask(keep)
            weight.assign_mask(mask)
        for pairs, clear in zip(self.others, cleared, strict=True):
            for variable, number in pairs if clear.any() else ():
                variable.assign(_filled(ops.convert_to_tensor(~clear), ops.convert_to_tensor(variable), number))

    def _writes_in_place(self):
        return can_write_in_place([weight.variable for weight in self.weights])

    def _write_in_place(self, masks, kept, remembered):
        # An array that is passed twice becomes one tensor.
        arrays = [*masks, *kept, *remembered]
        tensors = {key: constant(array) for key, array in {id(array): array for array in arrays}.items()}
        tensors = [tensors[id(array)] for array in arrays]
        if self._compiled is None:
            self._compiled = compiled_write(self._write, tensors)
        self._compiled(*tensors)

    def _write(self, *tensors):
        count = len(self.weights)
        masks, kept, remembered = tensors[:count], tensors[count : 2 * count], tensors[2 * count :]
        for weight, mask, keep in zip(self.weights, masks, kept, strict=True):
            write_in_place(weight.extra_variable("mask"), mask)
            write_in_place(weight.variable, zero_outside(keep, weight.variable.value))
        for pairs, keep in zip(self.others, remembered, strict=True):
            for variable, number in pairs:
                write_in_place(variable, _filled(keep, variable.value, number))


def _filled(keep, tensor, number):
    return ops.where(keep, tensor, ops.cast(number, tensor.dtype)) if number else zero_outside(keep, tensor)


def bool_mask(view, mask):
    """Checks a mask for the weight of a `WeightView`, and returns it as a bool array."""
    mask = np.asarray(mask, bool)
    if mask.shape != view.mask.shape:
        raise ValueError(
            f"`masks` must have the shape {view.mask.shape} for {view.path!r}. Received: shape={mask.shape}"
        )
    return mask
