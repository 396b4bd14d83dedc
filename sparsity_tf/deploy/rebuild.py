"""Builds a plain Keras model from a graph and a plan of its channels: `rebuild`."""

import math
import operator

import keras
import numpy as np

from sparsity_tf.backend import forget_calls, functional_inside
from sparsity_tf.deploy.shrink_report import ShrinkRow


def rebuild(graph, plan):
    """Builds the model that has only the channels that stay.

    Layers that lose channels are made anew from their config. All other layers are used as they are.

    Args:
        graph: `Graph` whose calls have rules. Its layers become part of the new model.
        plan: `Plan`.

    Returns:
        `(model, rows)`: the new model and a list of `ShrinkRow`. The model is functional; it is sequential if the given
        model is and no operation is called between the layers.
    """
    before = {id(call.operation): _parameters(call) for call in graph.calls}
    inputs_structure, outputs_structure = _structures(graph.model)
    network = _Network(plan)
    inputs = []
    for layer, tensor in graph.inputs:
        inputs.append(type(layer).from_config(layer.get_config()).output)
        network.values[tensor] = inputs[-1]
        network.names.add(layer.name)
    for call in graph.calls:
        forget_calls(call.operation)
    for call in graph.calls:
        network.add(call)
    outputs = [network.values[tensor] for tensor in graph.outputs]
    model = keras.Model(
        keras.tree.pack_sequence_as(inputs_structure, inputs),
        keras.tree.pack_sequence_as(outputs_structure, outputs),
        name=graph.model.name,
        trainable=graph.model.trainable,
    )
    if isinstance(graph.model, keras.Sequential) and all(isinstance(x, keras.layers.Layer) for x in model.operations):
        model = keras.Sequential(model.layers, name=model.name, trainable=model.trainable)
    return model, network.rows(before)


class _Network:
    """The new graph while it is built."""

    def __init__(self, plan):
        self.plan = plan
        self.values, self.names = {}, set()
        self._made, self._calls = {}, []

    def add(self, call):
        """Adds one call. A shared layer is made only once."""
        key = id(call.operation)
        is_new = key not in self._made
        if is_new:
            self._made[key] = call.rule.rebuilt(self.plan)
            self._calls.append(call)
            self._rename(self._made[key].operation, call.path)
        rebuilt = self._made[key]
        outputs = call.run(rebuilt.operation, lambda tensor: self._value(tensor, call, rebuilt.rows))
        if is_new:
            for name, value in rebuilt.weights.items():
                operator.attrgetter(name)(rebuilt.operation).assign(value)
        self.values.update(zip(call.outputs, outputs, strict=True))

    def _value(self, tensor, call, rows):
        value = self.values[tensor]
        if rows is None or tensor is not call.inputs[0]:
            return value
        return keras.ops.take(value, rows.tolist(), axis=tensor.axis)

    def _rename(self, operation, path):
        """Renames layers of nested models that have the same name: in one model names must differ."""
        name, count = path.rpartition("/")[2], 0
        while name in self.names:
            name = path.replace("/", "_") + (f"_{count}" if count else "")
            count += 1
        self.names.add(name)
        if operation.name != name:
            operation.name = name

    def rows(self, before):
        """One `ShrinkRow` for each layer that has weights, and for each call that needs all channels."""
        rows = []
        for call in self._calls:
            rebuilt = self._made[id(call.operation)]
            output = call.outputs[0]
            kept = len(self.plan.kept(output))
            after = _count(rebuilt.operation)
            if before[id(call.operation)] or after or (call.rule.reason and output.channels > 1):
                why = rebuilt.note or call.rule.reason or _why(self.plan, call, rebuilt)
                kind = type(call.operation).__name__
                rows.append(ShrinkRow(call.path, kind, output.channels, kept, before[id(call.operation)], after, why))
        return rows


def _why(plan, call, rebuilt):
    output = call.outputs[0]
    constant = plan.constants.mask[output]
    gone = np.ones(output.channels, bool)
    gone[plan.kept(output)] = False
    idle = ~plan.needed_anywhere(call) & ~gone
    held = constant & ~gone & ~idle
    parts = [
        (gone & ~constant, "not needed"),
        (gone & constant, "constant"),
        (idle, "not needed, but kept for tied layers"),
        (held, "constant, but needed by a border, a layer or an output"),
    ]
    texts = [f"{mask.sum()} {text}" for mask, text in parts if mask.any()]
    tensor = call.inputs[0]
    read = len(plan.kept(tensor)) if rebuilt.rows is None else len(rebuilt.rows)
    if read < tensor.channels:
        texts.append(f"reads {read} of {tensor.channels}" + ("" if rebuilt.rows is None else ", gathered"))
    if getattr(call.rule, "needs_all_outputs", False):
        texts.append("its activation looks at all channels")
    return "; ".join(texts) or "all channels are needed"


def _parameters(call):
    return _count(call.operation)


def _count(operation):
    return sum(math.prod(v.shape) for v in getattr(operation, "weights", []))


def _structures(model):
    functional = functional_inside(model)
    return functional.input, functional.output
