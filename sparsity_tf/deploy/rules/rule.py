"""The base classes of rules. A rule holds what shrinking must know about one call.

A rule answers four questions about the channels of a call's inputs and outputs:

1. which outputs are constant if their inputs are (`constant_channels`),
2. which inputs matter to the outputs that are needed (`needed_channels`),
3. which channels can only be removed together (`ties`), and which can't be removed at all (`fixed`),
4. which layer does the same for the channels that stay (`rebuilt`).

There are three kinds of rules. A `ChannelwiseRule` does not mix channels (addition, pooling, batch normalisation). A
mixing rule (`kernels.py`) reads all channels through a kernel, whose zeros say which channels are not read. All other
calls have an `OpaqueRule`, which needs every channel and says why.
"""

import inspect
import operator
from dataclasses import dataclass

import keras
import numpy as np


@dataclass(frozen=True)
class Slice:
    """The axis of a weight that follows the channels of a call's input or output.

    Args:
        weight: name of the layer's attribute, e.g. `"kernel"` or `"cell.bias"`.
        axis: axis of the weight.
        reads: whether the axis follows the channels of the first input. Otherwise it follows the channels of the first
            output.
        member: whether the weight makes the channel, so that zeros in the weight make the channel 0. Default: True for
            weights that follow the output. It is also True for a depthwise kernel, and False for moving statistics.
        tiles: how often the whole sequence of channels repeats along the axis: 4 for the gates of an LSTM.
        block: number of neighbouring indices that belong to one channel.
        period: if set, the channels repeat with this period (the groups of a convolution) and share their indices.
    """

    weight: str
    axis: int
    reads: bool = False
    member: bool | None = None
    tiles: int = 1
    block: int = 1
    period: int | None = None

    def __post_init__(self):
        if self.member is None:
            object.__setattr__(self, "member", not self.reads)

    def indices(self, channels, count):
        """The indices along the axis that belong to the given `channels` out of `count`."""
        if self.period is not None:
            return np.unique(np.asarray(channels) % self.period)
        within = (np.asarray(channels)[:, None] * self.block + np.arange(self.block)).reshape(-1)
        return (np.arange(self.tiles)[:, None] * (count * self.block) + within).reshape(-1)


@dataclass
class Rebuilt:
    """The layer or operation that replaces another one.

    Args:
        operation: layer or operation to call with the call's arguments, in which narrower tensors replace the old ones.
        weights: dict, name of an attribute -> array to assign after the first call.
        rows: the channels of its only input that it reads, as positions among the channels that stay; `None` for all.
        note: a few words for the report: why channels were removed, or why not.
    """

    operation: object
    weights: dict
    rows: np.ndarray | None = None
    note: str = ""


class Rule:
    """The rule of one call; see the top of this file.

    Args:
        call: `Call` whose inputs have their channel axes set.

    Attributes:
        graph: the `Graph` of the call.
    """

    # Why the rule keeps every channel; empty if it does not.
    reason = ""

    def __init__(self, call):
        self.call = call
        self.graph = None

    @property
    def calls(self):
        """All calls of the same layer. A shared layer has several."""
        return self.graph.calls_of(self.call.operation)

    @classmethod
    def reason_against(cls, call):
        """A few words that say why the rule does not fit this call, or `None` if it fits."""
        return None

    def set_axes(self):
        """Sets the channel axes of the outputs. By default they equal the channel axis of the first input."""
        for tensor in self.call.outputs:
            tensor.set_axis(self.call.inputs[0].axis)

    def constant_channels(self, constants):
        """Says which channels of each output read only constants.

        Args:
            constants: `Constants` of the inputs.

        Returns:
            List of bool arrays, one for each output.
        """
        raise NotImplementedError

    def needed_channels(self, needed, constants, folds):
        """Says which channels of each input matter.

        Args:
            needed: dict, `Tensor` -> bool array, the needed channels of the outputs.
            constants: `Constants`.
            folds: dict in which a rule may store, under its operation, how it treats constant inputs.

        Returns:
            List of bool arrays, one for each input.
        """
        raise NotImplementedError

    def ties(self):
        """Yields `(tensor, channels, tensor, channels)` for tied channels, which are int arrays of equal length."""
        return ()

    def fixed(self):
        """The tensors that must keep every channel."""
        return ()

    def slices(self):
        """List of `Slice`: the axes of the layer's weights that follow channels."""
        return []

    def config_changes(self, plan):
        """Dict of the changes to the layer's config."""
        return {}

    def changed_weights(self, plan):
        """Weights whose values change, before their channels are cut: dict, name of attribute -> array."""
        return {}

    def rebuilt(self, plan):
        """Makes the operation for the channels that stay.

        Args:
            plan: `Plan`.

        Returns:
            `Rebuilt`.
        """
        call = self.call
        changed = self.changed_weights(plan)
        if not changed and all(plan.keeps_all(tensor) for tensor in call.inputs + call.outputs):
            return Rebuilt(call.operation, {})
        if not call.is_layer:
            return Rebuilt(self.narrowed_operation(plan), {})
        weights = {part.weight: None for part in self.slices()}
        weights = {name: changed.get(name, weight_value(call.operation, name)) for name in {**weights, **changed}}
        weights = {name: value for name, value in weights.items() if value is not None}
        for part in self.slices():
            if part.weight in weights:
                tensor = call.inputs[0] if part.reads else call.outputs[0]
                indices = part.indices(plan.kept(tensor), tensor.channels)
                weights[part.weight] = np.take(weights[part.weight], indices, part.axis)
        config = {**_config(call.operation), **self.config_changes(plan)}
        return Rebuilt(type(call.operation).from_config(config), weights)

    def narrowed_operation(self, plan):
        """The operation of `keras.ops` for fewer channels. Most operations don't depend on the number of channels."""
        return self.call.operation


def _config(layer):
    """A layer's config. Activation functions stay objects: Keras can't read back functions that it does not know."""
    functions = {name: getattr(layer, name, None) for name in ("activation", "recurrent_activation")}
    return {**layer.get_config(), **{name: one for name, one in functions.items() if inspect.isfunction(one)}}


class OpaqueRule(Rule):
    """A call that needs all channels of its inputs and makes all of its outputs.

    Args:
        call: `Call`.
        reason: a few words that say why.
    """

    def __init__(self, call, reason):
        super().__init__(call)
        self.reason = reason

    def set_axes(self):
        for tensor in self.call.outputs:
            axis = self.call.inputs[0].axis if self.call.inputs else None
            moves = axis is not None and len(tensor.shape) == len(self.call.inputs[0].shape)
            tensor.set_axis(axis if moves else tensor.last_axis)

    def constant_channels(self, constants):
        return [np.zeros(tensor.channels, bool) for tensor in self.call.outputs]

    def needed_channels(self, needed, constants, folds):
        any_needed = any(needed[tensor].any() for tensor in self.call.outputs)
        if any_needed:
            for tensor in self.call.outputs:
                needed[tensor][:] = True
        return [np.full(tensor.channels, any_needed) for tensor in self.call.inputs]

    def fixed(self):
        return self.call.inputs + self.call.outputs

    def rebuilt(self, plan):
        return Rebuilt(self.call.operation, {}, note=self.reason)


class ChannelwiseRule(Rule):
    """A call in which each output channel reads one channel of each input, by default the channel of the same index."""

    def pairs(self, position):
        """Says which channels of an input belong to which channels of the output.

        Args:
            position: position of the input.

        Returns:
            Two int arrays of equal length: channels of the input, channels of the output.
        """
        every = np.arange(self.call.inputs[position].channels)
        return every, every

    def broadcasts(self, position):
        """Whether an input has a single channel, which every channel of the output reads."""
        return False

    def constant_channels(self, constants):
        [output] = self.call.outputs
        constant = np.ones(output.channels, bool)
        for position, tensor in enumerate(self.call.inputs):
            channels, outputs = self._all_pairs(position)
            np.logical_and.at(constant, outputs, constants.mask[tensor][channels])
        return [constant]

    def needed_channels(self, needed, constants, folds):
        masks = []
        for position, tensor in enumerate(self.call.inputs):
            channels, outputs = self._all_pairs(position)
            mask = np.zeros(tensor.channels, bool)
            np.logical_or.at(mask, channels, needed[self.call.outputs[0]][outputs])
            masks.append(mask)
        return masks

    def ties(self):
        for position, tensor in enumerate(self.call.inputs):
            if not self.broadcasts(position):
                channels, outputs = self.pairs(position)
                yield tensor, channels, self.call.outputs[0], outputs

    def _all_pairs(self, position):
        if self.broadcasts(position):
            every = np.arange(self.call.outputs[0].channels)
            return np.zeros_like(every), every
        return self.pairs(position)


def weight_value(layer, name):
    """A layer's weight as a numpy array (half precision as float32), or `None` if no weight has this name."""
    try:
        variable = operator.attrgetter(name)(layer)
    except AttributeError:
        return None
    if variable is None:
        return None
    value = keras.ops.convert_to_numpy(variable)
    return value.astype("float32") if value.dtype.name in ("float16", "bfloat16") else value
