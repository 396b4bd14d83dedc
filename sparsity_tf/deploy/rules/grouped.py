"""Rules of layers whose kernels are not simply `(in, out)`: grouped convolutions and `EinsumDense`."""

import numpy as np

from sparsity_tf.deploy.rules.kernels import ConvRule, KernelRule
from sparsity_tf.deploy.rules.rule import Slice, weight_value


class GroupedConvRule(ConvRule):
    """A convolution with several groups of several channels.

    All groups must stay equally large. So the channels at the same place of every group are tied, in the input and in
    the output.
    """

    # The kernel of one group can't take a channel of another group.
    can_merge = False

    @classmethod
    def reason_against(cls, call):
        return KernelRule.reason_against.__func__(cls, call)

    def kernel(self):
        """The full kernel, with zeros between channels of different groups."""
        kernel = weight_value(self.call.operation, "kernel")
        groups, (width, filters) = self.call.operation.groups, kernel.shape[-2:]
        full = np.zeros((*kernel.shape[:-2], groups * width, filters), kernel.dtype)
        for rows, columns in self._blocks(width, filters // groups):
            full[..., rows, columns] = kernel[..., columns]
        return full

    def _blocks(self, width, filters):
        for group in range(self.call.operation.groups):
            yield slice(group * width, (group + 1) * width), slice(group * filters, (group + 1) * filters)

    def changed_weights(self, plan):
        weights = super().changed_weights(plan)
        if "kernel" in weights:
            full, groups = weights["kernel"], self.call.operation.groups
            blocks = self._blocks(full.shape[-2] // groups, full.shape[-1] // groups)
            weights["kernel"] = np.concatenate([full[..., rows, columns] for rows, columns in blocks], axis=-1)
        return weights

    def ties(self):
        for tensor in (self.call.inputs[0], self.call.outputs[0]):
            channels = np.arange(tensor.channels)
            yield tensor, channels, tensor, channels % (tensor.channels // self.call.operation.groups)

    def slices(self):
        width = self.call.inputs[0].channels // self.call.operation.groups
        return [Slice("kernel", -2, reads=True, period=width), Slice("kernel", -1), Slice("bias", -1)]

    def _select_inputs(self, plan, rebuilt):
        """Picks no inputs: every group must read the same number."""


class EinsumDenseRule(KernelRule):
    """`EinsumDense` that sums over the last axis of its input and makes the last axis of its output."""

    def __init__(self, call):
        super().__init__(call)
        self._read, self._made, self._kernel = _letters(call)
        self.in_axis, self.out_axis = self._kernel.index(self._read[-1]), self._kernel.index(self._made[-1])

    @classmethod
    def reason_against(cls, call):
        read, made, kernel = _letters(call)
        if read[-1] not in kernel or read[-1] in made or made[-1] not in kernel or made[-1] in read:
            return f"the equation {call.operation.equation!r} doesn't map the last axis to the last axis"
        return super().reason_against(call)

    @property
    def _free(self):
        """The output letters that stay after a constant input is summed, in the order of the output."""
        return "".join(letter for letter in self._made if letter in self._kernel)

    @property
    def _bias_axes(self):
        return self.call.operation.bias_axes or self._free

    def can_have_bias(self):
        return set(self._free) <= set(self._bias_axes)

    def contribution(self, channels, value):
        rows = np.moveaxis(self.kernel(), self.in_axis, 0)[channels].astype("float64")
        left = self._kernel.replace(self._read[-1], "")
        summed = np.tensordot(value[channels], rows, 1)
        added = np.einsum(f"{left}->{self._free}", summed)
        sizes = dict(zip(self._free, added.shape, strict=True))
        first = min(self._made.index(letter) for letter in self._bias_axes)
        return added.reshape([sizes.get(letter, 1) for letter in self._made[first:]])

    def slices(self):
        bias = self.call.operation.bias_axes
        follows = bias is None or self._made[-1] in bias
        return [
            Slice("kernel", self.in_axis, reads=True),
            Slice("kernel", self.out_axis),
            *([Slice("bias", -1)] if follows else []),
        ]

    def config_changes(self, plan):
        layer = self.call.operation
        shape = (*layer.partial_output_shape[:-1], len(plan.kept(self.call.outputs[0])))
        changes = {"output_shape": shape}
        if self._folded_bias(plan) is not None:
            changes["bias_axes"] = self._bias_axes
        return changes


def _letters(call):
    """The letters of the axes of input, output and kernel in the equation."""
    terms, made = call.operation.equation.replace(" ", "").split("->")
    read, kernel = terms.split(",")
    return read.replace("...", ""), made.replace("...", ""), kernel.replace("...", "")
