"""Which channels of a model live or go together: `tie_channels`, and `channel_groups` for training.

An addition binds channel 3 of its operands and of its output: none of the three can be removed alone. So do batch
normalisation, pooling, activations, depthwise convolutions, concatenation (at an offset) and flattening; a layer that
is called several times binds its calls. The channels that are bound form a *group*; Torch-Pruning (Fang et al., CVPR
2023, "DepGraph: towards any structural pruning") uses the same notion. `shrink` removes the groups of which no channel
is needed. A training algorithm that prunes whole groups, with bias, gamma and beta, makes models that shrink best.
"""

from dataclasses import dataclass

import numpy as np


class Ties:
    """The group of every channel of every tensor.

    Args:
        groups: dict, `Tensor` -> int array, the number of the group of each of its channels.
        count: number of groups.
        fixed: bool array, which groups can't be removed: a channel in them is an input or output of the model, or is
            read by a call that needs all channels.
    """

    def __init__(self, groups, count, fixed):
        self.groups, self.count, self.fixed = groups, count, fixed


def tie_channels(graph):
    """Finds the groups of channels that only live or go together.

    Args:
        graph: `Graph` whose calls have rules.

    Returns:
        `Ties`.
    """
    offsets, count = {}, 0
    for tensor in graph.tensors:
        offsets[tensor] = count
        count += tensor.channels
    pairs = [_edges(offsets, *tie) for call in graph.calls for tie in call.rule.ties()]
    pairs += [_edges(offsets, *tie) for tie in _ties_of_shared_layers(graph)]
    one, two = np.concatenate(pairs, axis=1) if pairs else np.zeros((2, 0), int)
    labels = components(count, one, two)
    names, labels = np.unique(labels, return_inverse=True)
    groups = {t: labels[offsets[t] : offsets[t] + t.channels] for t in graph.tensors}
    fixed = np.zeros(len(names), bool)
    bound = [tensor for _, tensor in graph.inputs] + graph.outputs
    for call in graph.calls:
        bound += [*call.rule.fixed(), *call.masks]
    for tensor in bound:
        fixed[groups[tensor]] = True
    return Ties(groups, len(names), fixed)


def _ties_of_shared_layers(graph):
    first = {}
    for call in graph.calls:
        other = first.setdefault(id(call.operation), call)
        if call is not other and call.is_layer:
            for one, two in zip(other.inputs + other.outputs, call.inputs + call.outputs, strict=True):
                if one.channels == two.channels:
                    every = np.arange(one.channels)
                    yield one, every, two, every


def _edges(offsets, one, channels, two, other_channels):
    return np.stack([offsets[one] + np.asarray(channels), offsets[two] + np.asarray(other_channels)])


def components(count, one, two):
    """Connected components of a graph.

    Args:
        count: number of nodes.
        one: int array, for each edge the node at one end.
        two: int array, for each edge the node at the other end.

    Returns:
        Int array, for each node the smallest node of its component.
    """
    labels = np.arange(count)
    while True:
        at_one, at_two = labels[one], labels[two]
        low = np.minimum(at_one, at_two)
        if np.array_equal(at_one, at_two):
            return labels
        # The roots of both sides take the smaller label, then every node that of its root.
        np.minimum.at(labels, at_one, low)
        np.minimum.at(labels, at_two, low)
        while not np.array_equal(labels, labels[labels]):
            labels = labels[labels]


@dataclass(frozen=True)
class GroupMember:
    """The part of one weight that belongs to a group.

    Args:
        layer: the Keras layer.
        weight: name of the layer's attribute, e.g. `"kernel"`, `"gamma"` or `"cell.bias"`.
        axis: axis of the weight.
        indices: tuple of indices along the axis.
    """

    layer: object
    weight: str
    axis: int
    indices: tuple


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that live or go together.

    Args:
        members: tuple of `GroupMember`, all that makes the channels: columns of kernels, biases, gamma and beta.
        readers: tuple of `GroupMember`, rows of the kernels that read the channels.
        fixed: whether the group can't be removed (an output of the model, a layer that needs all channels).
    """

    members: tuple
    readers: tuple
    fixed: bool


def channel_groups(graph):
    """Lists the groups of channels with the weights that make and read them.

    Setting all `members` of a group that is not fixed to zero makes its channels constantly 0 (where the activations
    map 0 to 0), and `shrink` removes them, whatever reads them.

    Args:
        graph: `Graph` whose calls have rules, see `deploy.analysed_graph`.

    Returns:
        List of `ChannelGroup`, those without weights left out.
    """
    ties = tie_channels(graph)
    members, readers = [{} for _ in range(ties.count)], [{} for _ in range(ties.count)]
    for call in graph.calls:
        for part in call.rule.slices():
            tensor = call.inputs[0] if part.reads else call.outputs[0]
            for channel, group in enumerate(ties.groups[tensor]):
                place = readers if part.reads and not part.own else members
                key = (id(call.operation), part.weight, part.axis)
                indices = place[group].setdefault(key, (call.operation, set()))[1]
                indices.update(part.indices(np.array([channel]), tensor.channels).tolist())
    return [
        ChannelGroup(_as_members(members[g]), _as_members(readers[g]), bool(ties.fixed[g]))
        for g in range(ties.count)
        if members[g]
    ]


def _as_members(found):
    return tuple(
        GroupMember(layer, weight, axis, tuple(sorted(indices)))
        for (_, weight, axis), (layer, indices) in found.items()
    )
