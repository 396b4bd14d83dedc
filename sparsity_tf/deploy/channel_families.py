"""Channels, heads and units that training may prune, by the layers that they are tied to: `channel_families`.

A group (`channel_groups.py`) is one channel with all that makes it. The groups of the same parts of the same layers
form a *family*: the 64 channels of a stage of a residual network, say, the heads of one attention, the units of one
LSTM. A family is what an algorithm ranks and counts: any of its groups may go in the place of any other.
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
        indices: int array `(groups, indices of each)` along the axis.
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
        members: tuple of `FamilyPart`, all that must be zero for a group to be gone.
        readers: tuple of `FamilyPart`, what goes with it: rows of the kernels that read a channel.
        followers: tuple of `FamilyPart`, weights that go with it without being zero: moving statistics.
        unweighted: tuple of `FamilyPart`, what it has in operations without a weight: channels of inputs of global
            average pooling, heads of the products of queries and keys.
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
        model: Built functional or sequential Keras model, sparse or not; or one that holds such models.
        structure: "channel"; "unit", for those of recurrent layers alone; or "head".

    Returns:
        List of `ChannelFamily`, in the order of the model's calls. Groups that can't go (outputs of the model) are in
        none.

    Raises:
        ValueError: the model is neither functional nor sequential and holds none, or is not built.

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
            f"structure={structure!r} needs a functional or sequential model that is built, or one that holds such "
            "models: their graphs say what belongs together, and the calls of other models are not known. "
            f"Received: model={model.name!r} ({type(model).__name__})"
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
    """The model itself if it is functional or sequential, else the largest such models in it; a list.

    A `keras.distillation.Distiller` holds two, a model whose `call` is a user's own any number.
    """
    if runs_by_graph(model):
        return [model]
    return [found for layer in sublayers(model) for found in graphs_in(layer)]


def _families_of(model, structure):
    """`channel_families` of a functional or sequential model."""
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
