"""Computes the cost of a model after channels are removed, without removing them: `ShrunkCost`.

`shrink` removes all members and readers of a group whose members are zero. The number of groups that stay in each
family determines how many entries each weight has left. So a sparsity that meets a budget can be found without building
a model.
"""

import math
from collections import defaultdict

import numpy as np

from sparsity_tf.backend import own_variables, stored_variable
from sparsity_tf.inspection.layer_operations import operations_of
from sparsity_tf.inspection.tracing import trace_calls
from sparsity_tf.layers import SparseLayer, flatten_layers


class ShrunkCost:
    """Parameters and operations of the model that `shrink` makes, given how many groups of each family stay.

    The result is exact if activations map 0 to 0 (with e.g. a sigmoid `shrink` may have to add biases) and if no other
    zeros allow more to be removed.

    Args:
        model: Built Keras model, sparse or not.
        families: List of its `ChannelFamily`s.
    """

    def __init__(self, model, families):
        self.model, self.families = model, list(families)
        # (layer, weight) -> axis -> list of (number of the family, indices of each group of it)
        self._cuts, self._unweighted = defaultdict(lambda: defaultdict(list)), defaultdict(list)
        for number, family in enumerate(self.families):
            for part in (*family.members, *family.readers, *family.followers):
                shape = _shape(part.owner, part.name)
                entry = (number, part.indices.shape[1])
                self._cuts[id(part.owner), part.name][part.axis % len(shape)].append(entry)
            for part in family.unweighted:
                self._unweighted[id(part.layer)].append((number, part.indices.shape[1]))
        self._operations = None

    def parameters(self, kept=None):
        """Number of parameters, non-trainable parameters included.

        Args:
            kept: List of integers, the number of groups of each family that stay. Default: all.
        """
        return sum(
            self._entries(layer, name, shape, kept)
            for layer in flatten_layers(self.model)
            for name, shape in _own_shapes(layer)
        )

    def flops(self, kept=None):
        """Multiply-accumulates of one example, as `inspection.count_flops` counts them.

        Raises:
            ValueError: the shapes are not known.
        """
        if self._operations is None:
            calls = trace_calls(self.model)
            self._operations = [(call, one) for call in calls for one in operations_of(call, "mac").operations]
        return sum(self._uses(call, operation, kept) for call, operation in self._operations)

    def _uses(self, call, operation, kept):
        layer, name = operation.layer, operation.weight
        if name is not None:
            return operation.uses * self._entries(layer, name, _shape(layer, name), kept)
        cuts = self._unweighted.get(id(layer), [])
        if not cuts or kept is None:
            return operation.uses
        channels = getattr(layer, "num_heads", None)
        if channels is None:
            channels = call.input_shape[1 if layer.data_format == "channels_first" else -1]
        return operation.uses * (channels - self._gone(cuts, kept)) // channels

    def _entries(self, layer, name, shape, kept):
        sizes = list(shape)
        if kept is not None:
            for axis, cuts in self._cuts.get((id(layer), name), {}).items():
                sizes[axis] -= self._gone(cuts, kept)
        return math.prod(sizes)

    def _gone(self, cuts, kept):
        return sum((self.families[number].size - kept[number]) * each for number, each in cuts)


def _shape(layer, name):
    return tuple(stored_variable(layer, name).shape)


def _own_shapes(layer):
    """`(name, shape)` of the layer's own weights, without variables that a technique added."""
    added = layer.technique_variables if isinstance(layer, SparseLayer) else ()
    return [(variable.name, tuple(variable.shape)) for variable in own_variables(layer) if variable.name not in added]


def sparsity_that_meets(cost, target, counts_at):
    """Finds the smallest sparsity at which a model costs at most a target.

    Args:
        cost: Function that takes a list of counts, as `ShrunkCost.parameters` does, and returns a number.
        target: Largest cost that the model may have.
        counts_at: Function that takes a sparsity in [0, 1) and returns the number of groups of each family that stay.

    Returns:
        Float with few digits. No smaller sparsity with as few digits meets the target.

    Raises:
        ValueError: the target is below the cost at the highest sparsity.
    """
    low, high = 0.0, 1 - 2.0**-30
    least = cost(counts_at(high))
    if least > target:
        raise ValueError(f"even the smallest model costs {least:,}")
    if cost(counts_at(low)) <= target:
        return low
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (low, middle) if cost(counts_at(middle)) <= target else (middle, high)
    found = counts_at(high)
    for digits in range(1, 10):
        rounded = math.ceil(high * 10**digits) / 10**digits
        if rounded < 1 and np.array_equal(counts_at(rounded), found):
            return rounded
    return high
