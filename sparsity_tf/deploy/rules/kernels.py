"""Rules of the layers that read all channels through a kernel: dense layers, convolutions, embeddings."""

import functools
import warnings

import keras
import numpy as np
from keras import layers

from sparsity_tf.deploy.rules.rule import Rule, Slice, weight_value

# Activations that work on each entry alone. Other activations (softmax) may look at all channels.
_ELEMENTWISE = {
    *("celu", "elu", "exponential", "gelu", "hard_shrink", "hard_sigmoid", "hard_silu", "hard_tanh"),
    *("leaky_relu", "linear", "log_sigmoid", "mish", "relu", "relu6", "selu", "sigmoid", "silu", "soft_shrink"),
    *("softplus", "softsign", "sparse_plus", "sparse_sigmoid", "squareplus", "tanh", "tanh_shrink", "threshold"),
}

# A layer picks its inputs only if it reads less than this fraction of them, because the gather costs time, too.
_WORTH_A_GATHER = 0.75


def is_elementwise(activation):
    """Whether an activation function works on each entry alone, by the list above or by a trial run."""
    if isinstance(activation, layers.Layer):
        return isinstance(activation, layers.ReLU | layers.LeakyReLU | layers.ELU)
    name = getattr(activation, "__name__", None)
    known = name in _ELEMENTWISE and activation is keras.activations.get(name)
    if activation is None or known:
        return True
    # Functions are tried once. An object of the user's own class may have no hash.
    return _tried(activation) if getattr(activation, "__hash__", None) else _treats_entries_alike(activation)


def _treats_entries_alike(activation):
    """Whether an unknown function gives the same result for entries together as for each entry alone."""
    entries = np.linspace(-6.0, 6.0, 48, dtype="float32").reshape(3, 16)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras warns of a softmax over one entry.
            together, alone = (
                keras.ops.convert_to_numpy(activation(keras.ops.convert_to_tensor(x)))
                for x in (entries, entries.reshape(-1, 1))
            )
        return np.allclose(together.reshape(-1), alone.reshape(-1), rtol=1e-4, atol=1e-6, equal_nan=True)
    except Exception:  # The user's own code runs here and may raise anything.
        return False


_tried = functools.cache(_treats_entries_alike)


class KernelRule(Rule):
    """A layer with one kernel between input and output channels, with or without a bias.

    A constant input channel is *folded*: its contribution to the output is constant, too, and is added to the bias.
    This fails if the border of a padded convolution reads zeros in the place of the constant. Then all constant
    channels are *merged* into one of them, whose kernel takes over their kernels, scaled by the ratios of the
    constants.
    """

    kernel_name = "kernel"
    in_axis, out_axis = -2, -1
    can_merge = True

    @classmethod
    def reason_against(cls, call):
        [tensor] = call.inputs
        if tensor.axis is None:
            return "the number of its inputs is not known"
        if getattr(getattr(call.operation, "activation", None), "weights", None):
            return "its activation has weights of its own"
        if tensor.axis != cls.input_axis(call):
            return "its inputs are not the channels of the tensor that it reads"
        return None

    @classmethod
    def input_axis(cls, call):
        """The axis of the input that the kernel reads."""
        first = getattr(call.operation, "data_format", None) == "channels_first"
        return 1 if first else call.inputs[0].last_axis

    def set_axes(self):
        [tensor] = self.call.outputs
        first = getattr(self.call.operation, "data_format", None) == "channels_first"
        tensor.set_axis(1 if first else tensor.last_axis)

    def kernel(self):
        """The kernel as a numpy array that the caller may change."""
        return np.array(weight_value(self.call.operation, self.kernel_name))

    def reads(self):
        """Bool array `(in, out)`: True if the kernel holds a non-zero number between the two channels."""
        live = np.moveaxis(self.kernel() != 0, (self.in_axis, self.out_axis), (0, 1))
        return live.any(axis=tuple(range(2, live.ndim)))

    def sees_border(self):
        """Whether some outputs read zeros of the border in the place of an input."""
        return False

    def can_have_bias(self):
        """Whether constants can be added to a bias."""
        return True

    @property
    def needs_all_outputs(self):
        """Whether the activation looks at all channels, as a softmax does."""
        return not is_elementwise(self.call.operation.activation)

    def constant_channels(self, constants):
        if self.needs_all_outputs:
            return [np.zeros(self.call.outputs[0].channels, bool)]
        varying = ~constants.mask[self.call.inputs[0]]
        return [~self.reads()[varying].any(axis=0)]

    def fixed(self):
        return self.call.outputs if self.needs_all_outputs else []

    def needed_channels(self, needed, constants, folds):
        [tensor], [output] = self.call.inputs, self.call.outputs
        if self.needs_all_outputs:
            needed[output][:] |= needed[output].any()
        reads = self.reads()[:, needed[output]].any(axis=1)
        fold = folds.setdefault(self.call.operation, Fold.of(self, constants))
        if self.can_merge:
            fold.choose_merges(reads & constants.mask[tensor], needed[tensor])
        return [reads & ~fold.gone]

    def slices(self):
        return [
            Slice(self.kernel_name, self.in_axis, reads=True),
            Slice(self.kernel_name, self.out_axis),
            Slice("bias", -1),
        ]

    def config_changes(self, plan):
        size = len(plan.kept(self.call.outputs[0]))
        changes = {"units" if hasattr(self.call.operation, "units") else "filters": size}
        if self._folded_bias(plan) is not None:
            changes["use_bias"] = True
        return changes

    def changed_weights(self, plan):
        fold = plan.folds[self.call.operation]
        idle = ~plan.needed_anywhere(self.call)
        if not (fold.gone.any() or idle.any()):
            return {}
        kernel = self.kernel()
        rows = np.moveaxis(kernel, self.in_axis, 0)
        for channel, other, ratio in fold.merges:
            rows[other] += ratio * rows[channel]
        rows[fold.gone] = 0
        # A channel that stays only for the other channels of its group gets a kernel of zeros, so that its inputs can
        # be removed.
        np.moveaxis(kernel, self.out_axis, 0)[idle] = 0
        bias = self._folded_bias(plan)
        return {self.kernel_name: kernel} if bias is None else {self.kernel_name: kernel, "bias": bias}

    def rebuilt(self, plan):
        rebuilt = super().rebuilt(plan)
        if plan.select_inputs and len(self.calls) == 1 and self.kernel_name == "kernel":
            self._select_inputs(plan, rebuilt)
        return rebuilt

    def _select_inputs(self, plan, rebuilt):
        """Leaves out the inputs that stay only for other layers, if there are enough of them to pay for a gather."""
        kernel = rebuilt.weights.get("kernel")
        if kernel is None:
            kernel = self.kernel()
        live = np.moveaxis(kernel != 0, self.in_axis, 0)
        rows = np.flatnonzero(live.any(axis=tuple(range(1, live.ndim))))
        if 0 < len(rows) < _WORTH_A_GATHER * len(live):
            if not rebuilt.weights:
                fresh = type(self.call.operation).from_config(self.call.operation.get_config())
                bias = weight_value(self.call.operation, "bias")
                rebuilt.operation, rebuilt.weights = fresh, {} if bias is None else {"bias": bias}
            rebuilt.rows = rows
            rebuilt.weights["kernel"] = np.take(kernel, rows, self.in_axis)

    def _folded_bias(self, plan):
        """The bias with the folded constants, or `None` if there are none."""
        fold = plan.folds[self.call.operation]
        if not (fold.into_bias & (fold.value != 0)).any():
            return None
        added = self.contribution(fold.into_bias, fold.value)
        # Outputs that nothing needs are no reason to add a bias.
        added = np.where(plan.needed_anywhere(self.call), added, 0.0)
        if not added.any():
            return None
        bias = weight_value(self.call.operation, "bias")
        dtype = self.call.operation.variable_dtype
        return (added if bias is None else bias + added).astype("float64" if dtype == "float64" else "float32")

    def contribution(self, channels, value):
        """The contribution of constant inputs to each output.

        Args:
            channels: bool array, True for the constant inputs to add.
            value: float64 array of the values of all inputs.

        Returns:
            Float64 array of the shape of the bias.
        """
        rows = np.moveaxis(self.kernel(), self.in_axis, 0)[channels].astype("float64")
        return np.tensordot(value[channels], rows, 1).reshape(-1, rows.shape[-1]).sum(axis=0)


class Fold:
    """The way in which a layer treats the constants that it reads.

    Attributes:
        into_bias: bool array, the input channels that are folded into the bias.
        merges: list of `(channel, other, ratio)`: the kernel of `other` takes over the kernel of `channel`.
        value: float64 array, the constants.
        gone: bool array, input channels that are no longer read, because they are folded or merged.
    """

    def __init__(self, into_bias, mergeable, value):
        self.into_bias, self.value = into_bias, value
        self.gone = into_bias.copy()
        self._mergeable, self.merges = mergeable, []

    @classmethod
    def of(cls, rule, constants):
        """The fold of the layer of a rule. A shared layer has one bias, so its calls must see the same constants."""
        calls = rule.calls
        first = calls[0].inputs[0]
        mask, value = constants.mask[first].copy(), constants.value[first]
        for call in calls[1:]:
            mask &= constants.mask[call.inputs[0]] & (constants.value[call.inputs[0]] == value)
        zero = mask & (value == 0)
        if rule.sees_border():
            none = np.zeros_like(mask)
            return cls(zero, mask & ~zero if len(calls) == 1 else none, value)
        return cls(mask if rule.can_have_bias() else zero, np.zeros_like(mask), value)

    def choose_merges(self, constant, needed):
        """Merges the constant channels that can't be folded into one of them; if possible, one that other layers need.

        Args:
            constant: bool array, the constant input channels that the layer reads.
            needed: bool array, the input channels that other layers need.
        """
        channels = np.flatnonzero(self._mergeable & constant)
        if len(channels) < 2:
            return
        candidates = [c for c in channels if needed[c]] or list(channels)
        other = max(candidates, key=lambda c: abs(self.value[c]))
        self.merges = [(c, other, self.value[c] / self.value[other]) for c in channels if c != other]
        self.gone[[c for c, _, _ in self.merges]] = True


class DenseRule(KernelRule):
    """`Dense`."""


class ConvRule(KernelRule):
    """`Conv1D`, `Conv2D` and `Conv3D` of one group."""

    @classmethod
    def reason_against(cls, call):
        return "it has groups" if call.operation.groups > 1 else super().reason_against(call)

    def sees_border(self):
        layer = self.call.operation
        return layer.padding != "valid" and max(layer.kernel_size) > 1


class ConvTransposeRule(KernelRule):
    """`Conv1DTranspose`, `Conv2DTranspose` and `Conv3DTranspose`; positions read different parts of the kernel."""

    in_axis, out_axis = -1, -2

    def sees_border(self):
        return True

    def contribution(self, channels, value):
        return np.zeros(self.call.outputs[0].channels)


class SeparableConvRule(KernelRule):
    """`SeparableConv1D` and `SeparableConv2D`: `m` depthwise kernels for each channel, then a 1x1 kernel."""

    # Two channels with different depthwise kernels can't be merged.
    can_merge = False

    def kernel(self):
        """The product of both kernels as one kernel, `(*size, in, out)`."""
        depthwise, pointwise = (weight_value(self.call.operation, name) for name in self._names)
        multiplier, channels = depthwise.shape[-1], depthwise.shape[-2]
        pointwise = pointwise.reshape(channels, multiplier, -1)
        return np.einsum("...im,imo->...io", depthwise, pointwise)

    _names = ("depthwise_kernel", "pointwise_kernel")

    def reads(self):
        depthwise, pointwise = (weight_value(self.call.operation, name) != 0 for name in self._names)
        multiplier, channels = depthwise.shape[-1], depthwise.shape[-2]
        live = depthwise.reshape(-1, channels * multiplier).any(axis=0)[:, None] & pointwise.reshape(
            channels * multiplier, -1
        )
        return live.reshape(channels, multiplier, -1).any(axis=1)

    def sees_border(self):
        return self.call.operation.padding != "valid"

    def slices(self):
        multiplier = weight_value(self.call.operation, "depthwise_kernel").shape[-1]
        return [
            Slice("depthwise_kernel", -2, reads=True),
            Slice("pointwise_kernel", -2, reads=True, block=multiplier),
            Slice("pointwise_kernel", -1),
            Slice("bias", -1),
        ]

    def changed_weights(self, plan):
        fold = plan.folds[self.call.operation]
        idle = ~plan.needed_anywhere(self.call)
        if not (fold.gone.any() or idle.any()):
            return {}
        depthwise, pointwise = (np.array(weight_value(self.call.operation, name)) for name in self._names)
        pointwise[..., np.repeat(fold.gone, depthwise.shape[-1]), :] = 0
        pointwise[..., idle] = 0
        bias = self._folded_bias(plan)
        return {"pointwise_kernel": pointwise} if bias is None else {"pointwise_kernel": pointwise, "bias": bias}


class EmbeddingRule(Rule):
    """`Embedding`. A column with the same value in all rows is a constant channel."""

    @classmethod
    def reason_against(cls, call):
        return None if len(call.inputs) == 1 else "it is called with more than one input"

    def set_axes(self):
        [tensor] = self.call.outputs
        tensor.set_axis(tensor.last_axis)

    def constant_channels(self, constants):
        table = weight_value(self.call.operation, "embeddings")
        return [(table == table[:1]).all(axis=0)]

    def needed_channels(self, needed, constants, folds):
        [tensor] = self.call.inputs
        return [np.full(tensor.channels, needed[self.call.outputs[0]].any())]

    def fixed(self):
        return self.call.inputs

    def slices(self):
        return [Slice("embeddings", 1)]

    def config_changes(self, plan):
        return {"output_dim": len(plan.kept(self.call.outputs[0]))}
