"""Finds the channels of a model that can only be removed together: `tie_channels`.

An addition ties e.g. channel 3 of both operands and of its output: none of the three can be removed alone. Batch
normalisation, pooling, activations, depthwise convolutions, concatenation (at an offset) and flattening also tie
channels. A layer that is called several times ties the channels of its calls. Channels that are tied form a *group*;
Torch-Pruning (Fang et al., CVPR 2023, "DepGraph: towards any structural pruning") uses the same notion. `shrink`
removes the groups in which no channel is needed. Models shrink best if training prunes whole groups, with bias, gamma
and beta.
"""

import numpy as np


class Ties:
    """The group of every channel of every tensor.

    Args:
        groups: dict, `Tensor` -> int array, the number of the group of each of its channels.
        count: number of groups.
        fixed: bool array, True for groups that can't be removed: one of their channels is an input or output of the
            model, or is read by a call that needs all channels.
    """

    def __init__(self, groups, count, fixed):
        self.groups, self.count, self.fixed = groups, count, fixed


def tie_channels(graph):
    """Finds the groups of channels that can only be removed together.

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
        # The roots of both ends take the smaller label. Then every node takes the label of its root.
        np.minimum.at(labels, at_one, low)
        np.minimum.at(labels, at_two, low)
        while not np.array_equal(labels, labels[labels]):
            labels = labels[labels]
