"""The groups of channels that training may prune together: `channel_groups`.

An addition ties the channels of its operands, so pruning a filter of only one operand makes nothing smaller (see
`ties.py`). A group lists all weights that must be zero together: columns of kernels, with bias, gamma and beta.
"""

from dataclasses import dataclass

import keras
import numpy as np
from keras import layers

from sparsity_tf.checks import check_model
from sparsity_tf.deploy.rules import analysed_graph, weight_value
from sparsity_tf.deploy.ties import tie_channels

_POOLING = (layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D, layers.GlobalAveragePooling3D)


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
    """Channels that can only be removed together.

    Args:
        members: tuple of `GroupMember`, all weights that make the channels: columns of kernels, biases, gamma and beta.
        readers: tuple of `GroupMember`, rows of the kernels that read the channels.
        followers: tuple of `GroupMember`, other weights with an entry for each channel, which need not be zero: moving
            statistics, slopes.
        unweighted: tuple of `GroupMember`, channels of operations without a weight: the inputs of global average
            pooling.
        fixed: whether the group can't be removed (an output of the model, a layer that needs all channels).
    """

    members: tuple
    readers: tuple
    followers: tuple
    unweighted: tuple
    fixed: bool


def channel_groups(model: keras.Model) -> list[ChannelGroup]:
    """Lists the groups of channels, with the weights that make them and the weights that read them.

    If a group is not fixed and all its `members` are set to zero, its channels become constantly 0 (if the activations
    map 0 to 0). `shrink` then removes the channels, whatever layers read them.

    Args:
        model: Built Keras model, as in `shrink`. Its layers may be sparse. The members then name the weights of the
            stock Keras layer that the sparse layer replaces.

    Returns:
        List of `ChannelGroup`, without groups that have no weights. The groups refer to the model's own layers.

    Raises:
        ValueError: as for `shrink`.

    Example:

    ```python
    groups = [group for group in channel_groups(model) if not group.fixed]
    for member in groups[0].members:
        print(member.layer.name, member.weight, member.axis, member.indices)
    ```
    """
    check_model("model", model)
    return graph_and_groups(model)[1]


def graph_and_groups(model):
    """The `Graph` of a model, and its `ChannelGroup`s as `channel_groups` lists them."""
    graph = analysed_graph(model)
    ties = tie_channels(graph)
    members, readers, followers, unweighted = ([{} for _ in range(ties.count)] for _ in range(4))
    for call in graph.calls:
        if isinstance(call.operation, _POOLING):
            for channel, group in enumerate(ties.groups[call.inputs[0]]):
                unweighted[group].setdefault((id(call.operation), "", 0), (call.operation, set()))[1].add(channel)
        for part in call.rule.slices():
            place = members if part.member else readers if part.reads else followers
            if weight_value(call.operation, part.weight) is None:
                continue
            tensor = call.inputs[0] if part.reads else call.outputs[0]
            for channel, group in enumerate(ties.groups[tensor]):
                key = (id(call.operation), part.weight, part.axis)
                indices = place[group].setdefault(key, (call.operation, set()))[1]
                indices.update(part.indices(np.array([channel]), tensor.channels).tolist())
    groups = [
        ChannelGroup(*(_as_members(kind[g]) for kind in (members, readers, followers, unweighted)), bool(ties.fixed[g]))
        for g in range(ties.count)
        if members[g]
    ]
    return graph, groups


def _as_members(found):
    return tuple(
        GroupMember(layer, weight, axis, tuple(sorted(indices)))
        for (_, weight, axis), (layer, indices) in found.items()
    )
