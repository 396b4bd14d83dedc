"""Rule of `SimpleRNN`, `LSTM` and `GRU`: removes units that are always 0 or that nothing reads."""

import keras
import numpy as np
from keras import layers

from sparsity_tf.deploy.rules.kernels import Fold, KernelRule, is_elementwise
from sparsity_tf.deploy.rules.rule import Slice, weight_value

# Number of gates, and index of the candidate gate. A unit starts at 0 and stays there if its candidate is always 0.
_GATES = {layers.SimpleRNN: (1, 0), layers.LSTM: (4, 2), layers.GRU: (3, 2)}
# Another gate keeps its unit at 0, too, if it is always at this value: a closed input or output gate of an LSTM, an
# update gate of a GRU that is fully open to the last state. Only activations such as `hard_sigmoid` reach the value.
_OUTPUT_GATE = 3
_SILENT = {layers.SimpleRNN: {}, layers.LSTM: {0: 0.0, _OUTPUT_GATE: 0.0}, layers.GRU: {0: 1.0}}


class RecurrentRule(KernelRule):
    """A recurrent layer. Its units also read each other.

    A unit is always 0 if its candidate gate has no bias and reads only inputs and units that are always 0. It is also
    always 0 if another gate that reads only these is closed by its bias. A unit is needed if its output is needed, or
    if a needed unit reads it.
    """

    kernel_name = "cell.kernel"
    in_axis = 0
    can_merge = False

    @classmethod
    def reason_against(cls, call):
        layer = call.operation
        if len(call.inputs) != 1:
            return "it is called with an initial state"
        if layer.stateful:
            return "it is stateful"
        functions = [layer.activation, getattr(layer, "recurrent_activation", None)]
        if not all(is_elementwise(function) for function in functions):
            return "its activation looks at all units"
        return super().reason_against(call)

    @classmethod
    def kind(cls, layer):
        """`(number of gates, index of the candidate gate)`."""
        return next(gates for kind, gates in _GATES.items() if isinstance(layer, kind))

    @property
    def needs_all_outputs(self):
        return False

    def set_axes(self):
        for tensor in self.call.outputs:
            tensor.set_axis(tensor.last_axis)

    def _gates(self, name):
        """A weight as an array `(rows, gates, units)`."""
        weight = weight_value(self.call.operation, f"cell.{name}")
        return None if weight is None else weight.reshape(-1, self.kind(self.call.operation)[0], self._units)

    @property
    def _units(self):
        return self.call.operation.units

    def _always_zero(self, constants, calls):
        """Bool array, True for units that stay at 0 in all of the calls."""
        layer = self.call.operation
        if float(layer.activation(keras.ops.zeros(()))) != 0:
            return np.zeros(self._units, bool)
        varying = ~np.all([constants.zeros(call.inputs[0]) for call in calls], axis=0)
        kernel, recurrent = (self._gates(name) != 0 for name in ("kernel", "recurrent_kernel"))
        # For each gate: the units that it keeps at 0 as long as all units that it reads are at 0.
        silent = {gate: ~kernel[varying, gate].any(axis=0) & value for gate, value in self._silent_biases()}
        zero = np.any(list(silent.values()), axis=0)
        while True:
            still = zero & np.any(
                [units & ~recurrent[~zero, gate].any(axis=0) for gate, units in silent.items()], axis=0
            )
            if np.array_equal(still, zero):
                return zero
            zero = still

    def _silent_biases(self):
        """Pairs of a gate, and a bool array that is True for units whose bias in this gate keeps them at 0."""
        layer, bias = self.call.operation, self._gates("bias")
        if bias is None:
            bias = np.zeros((1, self.kind(layer)[0], self._units), "float32")
        candidate = self.kind(layer)[1]
        yield candidate, ~(bias[:, candidate] != 0).any(axis=0)
        for gate, value in next(gates for kind, gates in _SILENT.items() if isinstance(layer, kind)).items():
            if gate == _OUTPUT_GATE and len(self.call.outputs) > 1:
                continue  # Behind a closed output gate, the carry state that the layer returns is not 0.
            # A GRU may have two biases, which are added in this gate.
            opened = layer.recurrent_activation(keras.ops.convert_to_tensor(bias[:, gate].sum(axis=0)))
            yield gate, keras.ops.convert_to_numpy(opened) == value

    def constant_channels(self, constants):
        zero = self._always_zero(constants, [self.call])
        return [zero.copy() for _ in self.call.outputs]

    def _live(self, needed, constants):
        """Bool array, True for units that are needed and not always 0, in any call of a shared layer."""
        zero = self._always_zero(constants, self.calls)
        live = np.any([needed[tensor] for call in self.calls for tensor in call.outputs], axis=0) & ~zero
        reads = (self._gates("recurrent_kernel") != 0).any(axis=1)
        while True:
            more = live | (reads[:, live].any(axis=1) & ~zero)
            if np.array_equal(more, live):
                return live
            live = more

    def needed_channels(self, needed, constants, folds):
        live = self._live(needed, constants)
        # A unit that a needed unit reads must stay, even if its output is not needed.
        needed[self.call.outputs[0]] |= live
        fold = folds.setdefault(self.call.operation, Fold.of(self, constants))
        return [(self._gates("kernel")[:, :, live] != 0).any(axis=(1, 2)) & ~fold.gone]

    def ties(self):
        first = self.call.outputs[0]
        every = np.arange(first.channels)
        for tensor in self.call.outputs[1:]:
            yield first, every, tensor, every

    def slices(self):
        gates = self.kind(self.call.operation)[0]
        return [
            Slice("cell.kernel", 0, reads=True),
            Slice("cell.kernel", 1, tiles=gates),
            Slice("cell.recurrent_kernel", 0),
            Slice("cell.recurrent_kernel", 1, tiles=gates),
            Slice("cell.bias", -1, tiles=gates),
        ]

    def changed_weights(self, plan):
        fold = plan.folds[self.call.operation]
        idle = ~self._live(plan.needed, plan.constants)
        if not (fold.gone.any() or idle.any()):
            return {}
        kernel, recurrent = self._gates("kernel").copy(), self._gates("recurrent_kernel").copy()
        kernel[fold.gone] = 0
        kernel[:, :, idle] = 0
        recurrent[:, :, idle] = 0
        recurrent[idle] = 0
        weights = {"cell.kernel": kernel, "cell.recurrent_kernel": recurrent}
        weights = {name: value.reshape(len(value), -1) for name, value in weights.items()}
        bias = self._folded_bias(plan)
        return weights if bias is None else {**weights, "cell.bias": bias}

    def _folded_bias(self, plan):
        fold = plan.folds[self.call.operation]
        if not (fold.into_bias & (fold.value != 0)).any():
            return None
        added = self.contribution(fold.into_bias, fold.value)
        if not added.any():
            return None
        if getattr(self.call.operation, "reset_after", False):
            # The first of the two biases belongs to the inputs, the second to the units.
            added = np.stack([added, np.zeros_like(added)])
        bias = weight_value(self.call.operation, "cell.bias")
        return (added if bias is None else bias + added).astype("float32")
