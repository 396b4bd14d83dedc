"""Finds the channels of a model that are constant for all inputs: `find_constants`.

A channel is constant if its non-zero weights read only constants, and if its value is the same at every position. The
rules of the calls (see `rules`) decide the first condition. For the second, the layer itself runs once on its constant
inputs. This needs no rule for each kind of border: for example, the border of a padded convolution reads zeros in the
place of the constant, and the run shows it.
"""

import keras
import numpy as np

# Sizes that stand for an unknown size when a layer is run. An image must be large, because it may be halved several
# times; a sequence must be short, because its positions may be limited.
_IMAGE_SIZE, _SEQUENCE_SIZE = 32, 8
# A call whose input has unknown sizes also runs on sizes that are larger by these numbers. A strided convolution, for
# example, pads only inputs whose size is not a multiple of the stride.
_LARGER = (1, 2, 3)
# Positions of a channel whose values differ by less than this count as equal: a convolution may sum in different
# orders.
_ROUNDING = 1e-5


class Constants:
    """The constant channels of every tensor.

    Attributes:
        mask: dict, `Tensor` -> bool array, True for constant channels.
        value: dict, `Tensor` -> float64 array, the values of the constant channels and 0 for all others.
    """

    def __init__(self):
        self.mask, self.value, self.shape = {}, {}, {}

    def set(self, tensor, mask=None, value=None):
        """Stores the constant channels of a tensor; by default there are none."""
        self.mask[tensor] = np.zeros(tensor.channels, bool) if mask is None else mask
        self.value[tensor] = np.zeros(tensor.channels) if value is None else np.where(mask, value, 0.0)

    def zeros(self, tensor):
        """Bool array, True for channels that are constantly 0."""
        return self.mask[tensor] & (self.value[tensor] == 0)

    def example(self, tensor, larger=0):
        """An example of a tensor: constant channels have their values, all others are 1.

        Sizes that are not known are larger than the assumed ones by `larger`.
        """
        values = np.where(self.mask[tensor], self.value[tensor], 1.0)
        shape = self.shape[tensor]
        unknown = [axis for axis, size in enumerate(tensor.shape) if axis and size is None]
        shape = tuple(size + larger * (axis in unknown) for axis, size in enumerate(shape))
        if tensor.axis is not None:
            values = values.reshape([-1] + [1] * (tensor.last_axis - tensor.axis))
        return keras.ops.convert_to_tensor(np.broadcast_to(values, shape), dtype=tensor.dtype)


def find_constants(graph):
    """Finds the constant channels, call by call.

    Args:
        graph: `Graph` whose calls have rules.

    Returns:
        `Constants`.
    """
    constants = Constants()
    for _, tensor in graph.inputs:
        constants.set(tensor)
        constants.shape[tensor] = concrete_shape(tensor.shape)
    dynamic = any(None in tensor.shape[1:] for tensor in graph.tensors) or any(map(_may_change_batch, graph.calls))
    for call in graph.calls:
        _set_shapes(call, constants, dynamic)
        masks = call.rule.constant_channels(constants)
        if not any(mask.any() for mask in masks):
            for tensor in call.outputs:
                constants.set(tensor)
            continue
        runs = [call.run(call.operation, constants.example)]
        if len(call.inputs) == 1 and None in call.inputs[0].shape[1:]:
            # A sum or a border may depend on a size that is not known. (Calls of several inputs have neither.)
            runs += [call.run(call.operation, lambda x, more=more: constants.example(x, more)) for more in _LARGER]
        for tensor, mask, *outputs in zip(call.outputs, masks, *runs, strict=True):
            constants.set(tensor, *_uniform(tensor, mask, outputs))
    return constants


def concrete_shape(shape, batch=1, larger=0):
    """Replaces the unknown sizes of a shape by numbers: the assumed ones, or `larger` more."""
    if not shape:  # A scalar, e.g. a sum over the batch.
        return ()
    assumed = (_IMAGE_SIZE if len(shape) > 3 else _SEQUENCE_SIZE) + larger
    return (batch if shape[0] is None else shape[0], *(assumed if size is None else size for size in shape[1:]))


def _may_change_batch(call):
    """Whether a call may change the batch size: an operation, a layer of the user, or the stock layer `Lambda`."""
    kind = type(call.operation)
    return not call.is_layer or kind.__module__.partition(".")[0] != "keras" or kind is keras.layers.Lambda


def _set_shapes(call, constants, dynamic):
    if not dynamic:
        specs = call.outputs
    else:
        specs = call.run(
            call.operation.compute_output_spec, lambda x: keras.KerasTensor(constants.shape[x], dtype=x.dtype)
        )
    for tensor, spec in zip(call.outputs, specs, strict=True):
        constants.shape[tensor] = concrete_shape(tuple(spec.shape))


def _uniform(tensor, mask, outputs):
    """Finds the channels in `mask` that have one finite value at all positions of all outputs.

    Returns:
        These channels and their values.
    """
    arrays = [keras.ops.convert_to_numpy(output).astype("float64") for output in outputs]
    if tensor.axis is not None:
        arrays = [np.moveaxis(array, tensor.axis, -1) for array in arrays]
    flat = np.concatenate([array.reshape(-1, tensor.channels) for array in arrays])
    low, high = flat.min(axis=0), flat.max(axis=0)
    with np.errstate(invalid="ignore"):
        same = high - low <= _ROUNDING * np.maximum(np.abs(low), np.abs(high))
    return mask & same & np.isfinite(flat[0]), flat[0]
