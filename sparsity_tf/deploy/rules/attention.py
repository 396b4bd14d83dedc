"""Rule of `MultiHeadAttention`: dead heads are removed; the channels of its inputs and outputs stay."""

import numpy as np

from sparsity_tf.deploy.rules.rule import OpaqueRule, Rebuilt, weight_value

# The axis of the heads in each weight that has one.
HEAD_AXES = {
    **{f"{name}_dense.kernel": -2 for name in ("query", "key", "value", "_gate")},
    **{f"{name}_dense.bias": 0 for name in ("query", "key", "value", "_gate")},
    "output_dense.kernel": 0,
}


class AttentionRule(OpaqueRule):
    """`MultiHeadAttention`. A head is dead if its value projection is all zero, or its output projection is.

    The query and key projections of a dead head may hold any values. All heads stay if something reads the scores that
    a call puts out, because they have an axis of heads.
    """

    def __init__(self, call):
        super().__init__(call, "all its heads are needed, and its inputs and outputs keep all channels")

    def rebuilt(self, plan):
        layer = self.call.operation
        if self._scores_are_used():
            return Rebuilt(layer, {}, note="its attention scores are used, and have an axis of heads")
        live = self._live_heads()
        if live.all():
            return Rebuilt(layer, {}, note=self.reason)
        kept = np.flatnonzero(live) if live.any() else np.array([0])
        names = [*HEAD_AXES, "output_dense.bias"]
        weights = {name: weight_value(layer, name) for name in names}
        weights = {name: value for name, value in weights.items() if value is not None}
        for name, axis in HEAD_AXES.items():
            if name in weights:
                weights[name] = np.take(weights[name], kept, axis)
        config = {**layer.get_config(), "num_heads": len(kept)}
        note = f"{len(live) - len(kept)} of {len(live)} heads were dead"
        return Rebuilt(type(layer).from_config(config), weights, note=note)

    def _scores_are_used(self):
        scores = [tensor for call in self.calls for tensor in call.outputs[1:]]
        read = [*self.graph.outputs, *(tensor for call in self.graph.calls for tensor in call.read)]
        return any(one is tensor for one in scores for tensor in read)

    def _live_heads(self):
        layer = self.call.operation
        value, bias = weight_value(layer.value_dense, "kernel"), weight_value(layer.value_dense, "bias")
        made = (np.moveaxis(value, -2, 0) != 0).reshape(layer.num_heads, -1).any(axis=1)
        if bias is not None:
            made |= (bias != 0).any(axis=1)
        read = (weight_value(layer.output_dense, "kernel") != 0).reshape(layer.num_heads, -1).any(axis=1)
        return made & read
