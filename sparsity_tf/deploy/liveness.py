"""Finds the channels of a model that its outputs need, and decides which channels stay: `plan_channels`."""

import numpy as np

from sparsity_tf.deploy.ties import tie_channels


class Plan:
    """Says which channels of each tensor stay.

    Attributes:
        constants: `Constants`.
        needed: dict, `Tensor` -> bool array, True if some output of the model depends on the channel. A channel whose
            constant is folded into a bias is not needed.
        folds: dict, layer -> the way it treats constant inputs.
        select_inputs: bool, whether a layer may pick the channels that it reads by a gather.
    """

    def __init__(self, constants, needed, folds, kept, select_inputs=False):
        self.constants, self.needed, self.folds, self._kept = constants, needed, folds, kept
        self.select_inputs = select_inputs

    def kept(self, tensor):
        """Int array of the channels that stay, in order."""
        return np.flatnonzero(self._kept[tensor])

    def keeps_all(self, tensor):
        """Whether every channel stays."""
        return bool(self._kept[tensor].all())

    def needed_anywhere(self, call):
        """Bool array: which output channels of a call's layer are needed in any of its calls."""
        return np.any([self.needed[other.outputs[0]] for other in call.rule.calls], axis=0)


def plan_channels(graph, constants, select_inputs=False):
    """Decides which channels stay: all channels of a group stay if one of them is needed.

    Args:
        graph: `Graph` whose calls have rules.
        constants: `Constants` of the graph.
        select_inputs: whether a layer may pick its channels out of a tensor that keeps more channels for other layers.

    Returns:
        `Plan`.
    """
    needed = {tensor: np.zeros(tensor.channels, bool) for tensor in graph.tensors}
    folds = {}
    for tensor in graph.outputs:
        needed[tensor][:] = True
    for call in reversed(graph.calls):
        masks = call.rule.needed_channels(needed, constants, folds)
        for tensor, mask in zip(call.inputs, masks, strict=True):
            needed[tensor] |= mask
        for tensor in call.masks:
            needed[tensor][:] = True
    ties = tie_channels(graph)
    alive = ties.fixed.copy()
    for tensor, mask in needed.items():
        alive[ties.groups[tensor][mask]] = True
    for groups in ties.groups.values():
        # A layer can't have 0 channels, so a tensor without a needed channel keeps the first.
        if not alive[groups].any():
            alive[groups[0]] = True
    kept = {tensor: alive[groups] for tensor, groups in ties.groups.items()}
    return Plan(constants, needed, folds, kept, select_inputs)


def drop_zero_operands(graph, constants):
    """Removes operands of sums that are constantly 0, such as a residual branch whose last kernel is all zeros.

    Args:
        graph: `Graph`, changed in place.
        constants: `Constants` of the graph.

    Returns:
        List of the calls that are removed.
    """
    if graph.makes_masks:
        # All operands must stay: the sum's mask of time steps comes from them.
        return []
    for call in graph.calls:
        if type(call.rule).__name__ == "AddRule" and call.outputs[0] not in graph.outputs:
            _drop_zero_operands(graph, call, constants)
    return graph.drop_unread_calls()


def _drop_zero_operands(graph, call, constants):
    output = call.outputs[0]
    live = [tensor for tensor in call.inputs if not constants.zeros(tensor).all()]
    if not live or len(live) == len(call.inputs) or len(call.inputs) != _count_operands(call):
        return
    same = [t for t in live if t.shape == output.shape and t.dtype == output.dtype and t.axis == output.axis]
    if len(live) == 1 and same:
        graph.replace(output, live[0])


def _count_operands(call):
    args, kwargs = call.arguments
    first = args[0] if call.is_layer and args else args
    return len(first) if isinstance(first, list | tuple) and not kwargs else -1
