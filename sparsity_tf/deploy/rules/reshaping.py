"""Rules of calls that move entries: flatten, reshape, permute, reductions."""

import math

import numpy as np
from keras import layers

from sparsity_tf.deploy.rules.rule import ChannelwiseRule
from sparsity_tf.deploy.ties import components


class ReshapeRule(ChannelwiseRule):
    """`Flatten` and `Reshape`: an entry keeps its place in the row-major order.

    A channel of the input belongs to the channels of the output that hold some of its entries. The channel axis of the
    output is the axis that keeps the most channels apart, or the last such axis if there are several.
    """

    @classmethod
    def reason_against(cls, call):
        [tensor], [output] = call.inputs[:1], call.outputs
        if len(call.inputs) != 1:
            return "it is called with more than one input"
        if tensor.axis is None or None in tensor.shape[1:] or None in output.shape[1:]:
            return "the shape of its input is not known"
        if _changes_batch(call) and (tensor.axis != tensor.last_axis or output.shape[-1] != tensor.channels):
            return "it moves channels into the batch"
        if isinstance(call.operation, layers.Flatten) and len(tensor.shape) > 2:
            if tensor.axis != (1 if call.operation.data_format == "channels_first" else tensor.last_axis):
                return "the channels of its input lie along another axis"
        return None

    def set_axes(self):
        [output] = self.call.outputs
        if _changes_batch(self.call):
            output.set_axis(output.last_axis)
            return
        axes = range(len(output.shape) - 1, 0, -1)
        output.set_axis(max(axes, key=self._count_groups))

    def _count_groups(self, axis):
        channels, outputs = self._pairs(axis)
        one = self.call.inputs[0].channels
        return len(np.unique(components(one + self.call.outputs[0].shape[axis], channels, one + outputs)))

    def pairs(self, position):
        if _changes_batch(self.call):
            return super().pairs(position)
        return self._pairs(self.call.outputs[0].axis)

    def _pairs(self, out_axis):
        [tensor], [output] = self.call.inputs, self.call.outputs
        shape, axis = tensor.shape, tensor.axis
        if isinstance(self.call.operation, layers.Flatten) and axis == 1:
            # Keras moves the channels to the end before it flattens.
            shape, axis = (shape[0], *shape[2:], shape[1]), len(shape) - 1
        place = np.arange(math.prod(shape[1:]))
        channels = place // math.prod(shape[axis + 1 :]) % shape[axis]
        outputs = place // math.prod(output.shape[out_axis + 1 :]) % output.shape[out_axis]
        both = np.unique(channels * output.shape[out_axis] + outputs)
        return both // output.shape[out_axis], both % output.shape[out_axis]

    def _shape(self, plan):
        [output] = self.call.outputs
        shape = list(output.shape[1:])
        if output.axis is not None:
            shape[output.axis - 1] = len(plan.kept(output))
        return tuple(shape)

    def config_changes(self, plan):
        return {"target_shape": self._shape(plan)} if isinstance(self.call.operation, layers.Reshape) else {}

    def narrowed_operation(self, plan):
        shape = (-1, *self._shape(plan))
        return type(self.call.operation)(shape, name=self.call.operation.name)


def _changes_batch(call):
    """Whether a reshape makes another number of examples, such as steps out of sequences, or sequences out of steps."""
    return math.prod(call.inputs[0].shape[1:]) != math.prod(call.outputs[0].shape[1:])


class PermuteRule(ChannelwiseRule):
    """`Permute` and `keras.ops.transpose`: the channel axis moves."""

    @classmethod
    def reason_against(cls, call):
        order = _order(call)
        if len(call.inputs) != 1 or order[0] != 0 or call.inputs[0].axis is None:
            return "it moves the batch axis"
        return None

    def set_axes(self):
        self.call.outputs[0].set_axis(_order(self.call).index(self.call.inputs[0].axis))


def _order(call):
    rank = len(call.inputs[0].shape)
    if call.is_layer:
        return (0, *call.operation.dims)
    return tuple(axis % rank for axis in call.operation.axes or range(rank - 1, -1, -1))


class ReduceRule(ChannelwiseRule):
    """`keras.ops.mean`, `max` and similar operations over axes that are not the channel axis."""

    @classmethod
    def reason_against(cls, call):
        [tensor] = call.inputs[:1]
        axes = _reduced(call)
        if len(call.inputs) != 1 or tensor.axis is None or tensor.axis in axes or 0 in axes:
            return "it reduces the channel axis"
        return None

    def set_axes(self):
        [tensor], [output] = self.call.inputs, self.call.outputs
        gone = 0 if self.call.operation.keepdims else sum(axis < tensor.axis for axis in _reduced(self.call))
        output.set_axis(tensor.axis - gone)


def _reduced(call):
    rank = len(call.inputs[0].shape)
    axis = call.operation.axis
    axes = range(rank) if axis is None else [axis] if isinstance(axis, int) else axis
    return {a % rank for a in axes}


class RepeatVectorRule(ChannelwiseRule):
    """`RepeatVector`: the same vector at every step."""

    @classmethod
    def reason_against(cls, call):
        return None if len(call.inputs) == 1 else "it is called with more than one input"

    def set_axes(self):
        [output] = self.call.outputs
        output.set_axis(output.last_axis)
