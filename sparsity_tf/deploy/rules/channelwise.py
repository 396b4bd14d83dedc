"""Rules of calls that do not mix channels: activations, merges, pooling, batch normalisation, depthwise."""

import keras
import numpy as np
from keras import layers

from sparsity_tf.deploy.rules.kernels import is_elementwise
from sparsity_tf.deploy.rules.rule import ChannelwiseRule, Slice, weight_value


class ElementwiseRule(ChannelwiseRule):
    """A function of each entry, or of entries at the same place of several tensors."""

    @classmethod
    def reason_against(cls, call):
        if len(call.outputs) != 1:
            return "it has several outputs"
        if _reads_arrays(call):
            return "it is called with a fixed array"
        if _has_numbers_of_channels(call):
            return "it holds numbers for each channel"
        output = call.outputs[0]
        for tensor in call.inputs:
            if len(tensor.shape) != len(output.shape):
                return "its inputs have different numbers of axes"
        axes = {tensor.axis for tensor in call.inputs}
        if len(axes) > 1 or any(_size(t.shape, t.axis) is None for t in call.inputs + [output] if t.axis is not None):
            return "its inputs count channels along different axes"
        return None

    def broadcasts(self, position):
        tensor, [output] = self.call.inputs[position], self.call.outputs
        return tensor.channels == 1 and output.channels > 1

    def set_axes(self):
        [output] = self.call.outputs
        output.set_axis(self.call.inputs[0].axis)


class ActivationRule(ElementwiseRule):
    """`Activation` with an elementwise function."""

    @classmethod
    def reason_against(cls, call):
        if not is_elementwise(call.operation.activation):
            return "its activation looks at all channels"
        return super().reason_against(call)


class MultiplyRule(ElementwiseRule):
    """A product. A channel is constantly 0 if it is constantly 0 in one factor."""

    def constant_channels(self, constants):
        [constant] = super().constant_channels(constants)
        return [constant | np.any(self._zero_factors(constants), axis=0)]

    def needed_channels(self, needed, constants, folds):
        # Where one factor is 0, the other factors don't matter.
        [output] = self.call.outputs
        zero = self._zero_factors(constants)
        matters = ~zero.any(axis=0) | (np.arange(len(zero))[:, None] == zero.argmax(axis=0))
        masks = []
        for position, tensor in enumerate(self.call.inputs):
            channels, outputs = self._all_pairs(position)
            mask = np.zeros(tensor.channels, bool)
            np.logical_or.at(mask, channels, (needed[output] & matters[position])[outputs])
            masks.append(mask)
        return masks

    def _zero_factors(self, constants):
        """Bool array `(inputs, channels of the output)`: True where a factor is constantly 0."""
        zero = np.zeros((len(self.call.inputs), self.call.outputs[0].channels), bool)
        for position, tensor in enumerate(self.call.inputs):
            channels, outputs = self._all_pairs(position)
            zero[position, outputs] = constants.zeros(tensor)[channels]
        return zero


class AddRule(ElementwiseRule):
    """A sum. An operand that is constantly 0 can be left out."""


class PReLURule(ElementwiseRule):
    """`PReLU`, with a slope for each channel."""

    def slices(self):
        [tensor] = self.call.inputs
        alpha = self.call.operation.alpha
        own = alpha.shape[tensor.axis - 1] == tensor.channels if tensor.axis is not None else False
        return [Slice("alpha", tensor.axis - 1, member=False)] if own else []


class SoftmaxRule(ElementwiseRule):
    """A softmax along an axis that is not the channel axis."""

    @classmethod
    def reason_against(cls, call):
        [tensor] = call.inputs[:1]
        axis = call.operation.axis
        axes = [a % len(tensor.shape) for a in ([axis] if isinstance(axis, int) else axis)]
        if len(call.inputs) != 1 or tensor.axis is None or tensor.axis in axes:
            return "a softmax looks at all channels"
        return super().reason_against(call)


class SpatialRule(ChannelwiseRule):
    """A layer of images or sequences that does not mix channels: pooling, padding, cropping, up-sampling.

    If the output has fewer axes than the input, the channels are its only axis besides the batch.
    """

    @classmethod
    def reason_against(cls, call):
        first = getattr(call.operation, "data_format", None) == "channels_first"
        [tensor] = call.inputs[:1]
        if len(call.inputs) != 1:
            return "it is called with more than one input"
        if tensor.axis != (1 if first else tensor.last_axis):
            return "the channels of its input lie along another axis"
        return None

    def set_axes(self):
        [tensor], [output] = self.call.inputs, self.call.outputs
        output.set_axis(1 if tensor.axis == 1 else output.last_axis)


class BatchNormalizationRule(ChannelwiseRule):
    """`BatchNormalization` in inference. A gamma of 0 makes a constant channel."""

    @classmethod
    def reason_against(cls, call):
        [tensor] = call.inputs[:1]
        if len(call.inputs) != 1 or tensor.axis is None or call.operation.axis % len(tensor.shape) != tensor.axis:
            return "it normalises along another axis than the channels'"
        return None

    def constant_channels(self, constants):
        [constant] = super().constant_channels(constants)
        gamma = weight_value(self.call.operation, "gamma")
        return [constant if gamma is None else constant | (gamma == 0)]

    def needed_channels(self, needed, constants, folds):
        [mask] = super().needed_channels(needed, constants, folds)
        gamma = weight_value(self.call.operation, "gamma")
        return [mask if gamma is None else mask & (gamma != 0)]

    def slices(self):
        statistics = [Slice(name, 0, member=False) for name in ("moving_mean", "moving_variance")]
        return [Slice("gamma", 0), Slice("beta", 0), *statistics]


class DepthwiseConvRule(SpatialRule):
    """`DepthwiseConv1D` and `DepthwiseConv2D`, with `m` kernels for each channel."""

    @classmethod
    def reason_against(cls, call):
        if not is_elementwise(call.operation.activation):
            return "its activation looks at all channels"
        return super().reason_against(call)

    def pairs(self, position):
        outputs = np.arange(self.call.outputs[0].channels)
        return outputs // self._multiplier, outputs

    def constant_channels(self, constants):
        [constant] = super().constant_channels(constants)
        kernel = self._kernel()
        return [constant | ~(kernel.reshape(-1, kernel.shape[-2] * kernel.shape[-1]) != 0).any(axis=0)]

    def needed_channels(self, needed, constants, folds):
        kernel = self._kernel()
        live = (kernel.reshape(-1, kernel.shape[-2] * kernel.shape[-1]) != 0).any(axis=0)
        return [(needed[self.call.outputs[0]] & live).reshape(-1, self._multiplier).any(axis=1)]

    def slices(self):
        return [Slice("kernel", -2, reads=True, member=True), Slice("bias", -1)]

    def _kernel(self):
        return weight_value(self.call.operation, "kernel")

    @property
    def _multiplier(self):
        return self.call.outputs[0].channels // self.call.inputs[0].channels


class GroupedChannelsRule(DepthwiseConvRule):
    """A convolution in which each channel is a group: a depthwise convolution by another name."""

    @classmethod
    def reason_against(cls, call):
        [tensor] = call.inputs
        if call.operation.groups != tensor.channels:
            return "its groups have several inputs"
        return super().reason_against(call)

    def slices(self):
        return [Slice("kernel", -1), Slice("bias", -1)]

    def config_changes(self, plan):
        return {
            "filters": len(plan.kept(self.call.outputs[0])),
            "groups": len(plan.kept(self.call.inputs[0])),
        }


class ConcatenateRule(ChannelwiseRule):
    """A concatenation along the channels, with each operand at its offset, or along another axis."""

    @classmethod
    def reason_against(cls, call):
        axes = {tensor.axis for tensor in call.inputs}
        if _reads_arrays(call):
            return "it is called with a fixed array"
        if len(axes) > 1 or None in axes:
            return "its inputs count channels along different axes"
        return None

    @property
    def _along_channels(self):
        [tensor] = self.call.inputs[:1]
        return self.call.operation.axis % len(tensor.shape) == tensor.axis

    def pairs(self, position):
        channels, outputs = super().pairs(position)
        before = sum(t.channels for t in self.call.inputs[:position]) if self._along_channels else 0
        return channels, outputs + before


def _reads_arrays(call):
    """Whether some arguments are arrays, variables or lists of numbers: they may have an entry for each channel."""
    args, kwargs = call.arguments
    if not call.is_layer and any(
        isinstance(x, list | tuple) and all(np.isscalar(one) for one in keras.tree.flatten(x)) for x in args
    ):
        return True
    return any(getattr(x, "ndim", 0) > 0 or isinstance(x, layers.Layer) for x in keras.tree.flatten((args, kwargs)))


def _has_numbers_of_channels(call):
    """Whether the config of a layer has an entry for each channel: `Rescaling` by lists, the noise of `Dropout`."""
    layer, axis = call.operation, call.inputs[0].axis
    if any(np.size(getattr(layer, name, 0)) > 1 for name in ("scale", "offset")):
        return True
    noise = getattr(layer, "noise_shape", None)
    return noise is not None and axis is not None and noise[axis] not in (None, 1)


def _size(shape, axis):
    return shape[axis] if axis < len(shape) else None
