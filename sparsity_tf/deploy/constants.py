"""Which channels of a model are constant whatever the inputs are: `find_constants`.

A channel is constant if it reads nothing but constants through weights that are not zero, and if its value is the same
at every position. The rules of the calls (see `rules`) decide the first. The second is found out by running the layer
itself once on its constant inputs: it catches the border of a padded convolution, say, which sees zeros in the place of
the constant, without a rule for each kind of border.
"""

import keras
import numpy as np

# What an unknown size is taken to be when a layer is run: of an image, which may be halved several times, and of a
# sequence, whose positions may be limited.
_IMAGE_SIZE, _SEQUENCE_SIZE = 32, 8
# Positions of one channel count as equal within rounding: the sums of a convolution differ in their order.
_ROUNDING = 1e-5


class Constants:
    """The constant channels of every tensor.

    Attributes:
        mask: dict, `Tensor` -> bool array, which channels are constant.
        value: dict, `Tensor` -> float64 array of their values, 0 for the others.
    """

    def __init__(self):
        self.mask, self.value, self.shape = {}, {}, {}

    def set(self, tensor, mask=None, value=None):
        """Notes the constants of a tensor, none by default."""
        self.mask[tensor] = np.zeros(tensor.channels, bool) if mask is None else mask
        self.value[tensor] = np.zeros(tensor.channels) if value is None else np.where(mask, value, 0.0)

    def zeros(self, tensor):
        """Bool array: which channels are constantly 0."""
        return self.mask[tensor] & (self.value[tensor] == 0)

    def example(self, tensor):
        """A tensor of batch size 1 with these constants; 1 where a channel is not constant."""
        values = np.where(self.mask[tensor], self.value[tensor], 1.0)
        shape = self.shape[tensor]
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
    dynamic = any(None in tensor.shape[1:] for tensor in graph.tensors)
    for call in graph.calls:
        _set_shapes(call, constants, dynamic)
        masks = call.rule.constant_channels(constants)
        if not any(mask.any() for mask in masks):
            for tensor in call.outputs:
                constants.set(tensor)
            continue
        outputs = call.run(call.operation, constants.example)
        for tensor, mask, output in zip(call.outputs, masks, outputs, strict=True):
            mask, value = _uniform(tensor, mask, keras.ops.convert_to_numpy(output))
            constants.set(tensor, mask, value)
    return constants


def concrete_shape(shape, batch=1):
    """A shape without unknown sizes."""
    assumed = _IMAGE_SIZE if len(shape) > 3 else _SEQUENCE_SIZE
    return (batch, *(assumed if size is None else size for size in shape[1:]))


def _set_shapes(call, constants, dynamic):
    if not dynamic:
        specs = call.outputs
    else:
        specs = call.run(
            call.operation.compute_output_spec, lambda x: keras.KerasTensor(constants.shape[x], dtype=x.dtype)
        )
    for tensor, spec in zip(call.outputs, specs, strict=True):
        constants.shape[tensor] = concrete_shape(tuple(spec.shape))


def _uniform(tensor, mask, output):
    """Which of the channels in `mask` have one finite value at all positions, and the values."""
    output = output.astype("float64")
    flat = output.reshape(-1, 1) if tensor.axis is None else np.moveaxis(output, tensor.axis, -1)
    flat = flat.reshape(-1, tensor.channels)
    low, high = flat.min(axis=0), flat.max(axis=0)
    with np.errstate(invalid="ignore"):
        same = high - low <= _ROUNDING * np.maximum(np.abs(low), np.abs(high))
    return mask & same & np.isfinite(flat[0]), flat[0]
