"""Channels, heads and units that training may prune, sorted by the layers that they belong to: `channel_families`.

A group (`channel_groups.py`) is one channel with all weights that make it. Groups that consist of the same parts of the
same layers form a *family*: for example the 64 channels of a stage of a residual network, the heads of one attention,
or the units of one LSTM. An algorithm ranks and counts the groups within a family, because any of them can be pruned in
place of any other.
"""

import operator
from dataclasses import dataclass

import keras
import numpy as np

from sparsity_tf.backend import runs_by_graph, sublayers
from sparsity_tf.checks import check_choice, check_model
from sparsity_tf.deploy.channel_groups import graph_and_groups
from sparsity_tf.deploy.rules import weight_value
from sparsity_tf.deploy.rules.attention import HEAD_AXES, AttentionRule
from sparsity_tf.masks.structures import TIED

_KINDS = ("members", "readers", "followers", "unweighted")


@dataclass(frozen=True)
class FamilyPart:
    """The part of one weight that belongs to a family.

    Args:
        layer: the Keras layer that the graph calls.
        weight: name of the layer's attribute, e.g. `"kernel"`, `"cell.bias"` or `"query_dense.kernel"`.
        axis: axis of the weight.
        indices: int array `(groups, indices of each group)` along the axis.
    """

    layer: object
    weight: str
    axis: int
    indices: np.ndarray

    @property
    def owner(self) -> keras.layers.Layer:
        """The layer that holds the variable: the cell of a recurrent layer, a projection of an attention."""
        holder = self.weight.rpartition(".")[0]
        return operator.attrgetter(holder)(self.layer) if holder else self.layer

    @property
    def name(self) -> str:
        """Name of the weight in its owner."""
        return self.weight.rpartition(".")[2]


@dataclass(frozen=True)
class ChannelFamily:
    """Groups of the same parts of the same layers.

    Args:
        size: number of groups.
        members: tuple of `FamilyPart`, the weights that must be zero for a group to be removed.
        readers: tuple of `FamilyPart`, the weights that are removed with a group: rows of the kernels that read a
            channel.
        followers: tuple of `FamilyPart`, weights that are removed with a group and need not be zero: moving statistics.
        unweighted: tuple of `FamilyPart`, the group's share of operations without a weight: channels of the inputs of
            global average pooling, heads of the products of queries and keys.
    """

    size: int
    members: tuple
    readers: tuple = ()
    followers: tuple = ()
    unweighted: tuple = ()

    @property
    def recurrent(self) -> bool:
        """Whether the groups are units of a recurrent layer."""
        return any(part.name == "recurrent_kernel" for part in self.members)


def channel_families(model: keras.Model, structure: str = "channel") -> list[ChannelFamily]:
    """Lists the families of channels, heads or units that training may prune.

    Args:
        model: Built functional or sequential Keras model, sparse or not; or a model that holds such models.
        structure: "channel", "unit" (units of recurrent layers only) or "head".

    Returns:
        List of `ChannelFamily`, in the order of the model's calls. Groups that can't be removed (outputs of the model)
        are in no family.

    Raises:
        ValueError: the model is not built, or is neither functional nor sequential and holds no such model.

    Example:

    ```python
    for family in channel_families(model):
        print(family.size, [(part.layer.name, part.weight) for part in family.members])
    ```
    """
    check_model("model", model)
    check_choice("structure", structure, TIED)
    graphs = graphs_in(model)
    if not graphs:
        raise ValueError(
            f"structure={structure!r} needs a built functional or sequential model, or a model that holds such "
            f"models. In other models it is not known which layers are connected. Received: model={model.name!r} "
            f"({type(model).__name__})"
        )
    found, seen = [], set()
    for graph in graphs:
        for family in _families_of(graph, structure):
            # Two models may share layers.
            keys = {(id(part.layer), part.name) for part in family.members}
            if not keys & seen:
                found.append(family)
            seen |= keys
    return found


def graphs_in(model):
    """List of the model itself if it is functional or sequential, else of the largest such models in it.

    A `keras.distillation.Distiller` holds two such models; a model with a `call` of the user's own holds any number.
    """
    if runs_by_graph(model):
        return [model]
    # Two layers may hold the same model.
    found = {id(graph): graph for layer in sublayers(model) for graph in graphs_in(layer)}
    return list(found.values())


def _families_of(model, structure):
    """`channel_families` for one functional or sequential model."""
    graph, groups = graph_and_groups(model)
    if structure == "head":
        rules = [call.rule for call in graph.calls if isinstance(call.rule, AttentionRule)]
        attentions = {id(rule.call.operation): rule.call.operation for rule in rules}
        return [_heads(layer) for layer in attentions.values()]
    families = {}
    for group in groups:
        if not group.fixed:
            key = tuple(
                (kind, id(part.layer), part.weight, part.axis, len(part.indices))
                for kind in _KINDS
                for part in getattr(group, kind)
            )
            families.setdefault(key, []).append(group)
    found = [_family(groups) for groups in families.values()]
    return [family for family in found if structure == "channel" or family.recurrent]


def _family(groups):
    def joined(kind):
        lists = [getattr(group, kind) for group in groups]
        return tuple(
            FamilyPart(parts[0].layer, parts[0].weight, parts[0].axis, np.array([part.indices for part in parts]))
            for parts in zip(*lists, strict=True)
        )

    return ChannelFamily(len(groups), *(joined(kind) for kind in _KINDS))


def _heads(layer):
    present = {name: axis for name, axis in HEAD_AXES.items() if weight_value(layer, name) is not None}
    every = np.arange(layer.num_heads)[:, None]
    members = tuple(FamilyPart(layer, *one, every) for one in present.items())
    return ChannelFamily(layer.num_heads, members, unweighted=(FamilyPart(layer, "", 0, every),))
