"""The kinds: how each Keras layer applies a given kernel.

A kind supplies the linear operation on (inputs, kernel), the bias and the activation; what the kernel is, in training
and at inference, is the technique's business (`technique.py`). The constructors, shapes and configs are those of the
Keras layer that the kind extends.
"""

import keras
from keras import ops

from sparsity_tf.backend import causal_padding, set_mask, stored_variable
from sparsity_tf.layers.sparse_layer import SparseLayer


class SparseDense(SparseLayer, keras.layers.Dense):
    """`keras.layers.Dense` whose kernel is sparse."""

    def call(self, inputs, training=False):
        outputs = self.apply_weight("kernel", ops.matmul, inputs, training)
        return _bias_and_activation(self, outputs, training)

    def filter_axes(self, name="kernel"):
        return (1,)


class SparseEinsumDense(SparseLayer, keras.layers.EinsumDense):
    """`keras.layers.EinsumDense` whose kernel is sparse."""

    def call(self, inputs, training=False):
        outputs = self.apply_weight("kernel", self._contract, inputs, training)
        return _bias_and_activation(self, outputs, training)

    def _contract(self, inputs, kernel):
        return ops.einsum(self.equation, inputs, kernel)

    def filter_axes(self, name="kernel"):
        _, kernel, output = self._subscripts()
        return tuple(axis for axis, letter in enumerate(kernel) if letter in output)

    def position_axes(self, rank):
        _, kernel, output = self._subscripts()
        # An ellipsis stands for as many leading axes as the written ones leave.
        output = output.replace("...", "." * (rank - len(output.replace("...", ""))))
        return tuple(axis for axis, letter in enumerate(output) if axis > 0 and letter not in kernel)

    def _subscripts(self):
        operands, output = self.equation.replace(" ", "").split("->")
        inputs, kernel = operands.split(",")
        return inputs, kernel.replace("...", ""), output


class _SparseConv(SparseLayer):
    """What the convolutions share; the operation itself is Keras's `convolution_op`."""

    def call(self, inputs, training=False):
        outputs = self.apply_weight("kernel", self.convolution_op, inputs, training)
        return _bias_and_activation(self, outputs, training, self.data_format)

    def filter_axes(self, name="kernel"):
        return (self.rank + 1,)

    def position_axes(self, rank):
        return _spatial_axes(self)


class SparseConv1D(_SparseConv, keras.layers.Conv1D):
    """`keras.layers.Conv1D` whose kernel is sparse."""

    def convolution_op(self, inputs, kernel):
        if self.padding != "causal":
            return super().convolution_op(inputs, kernel)
        inputs = ops.pad(inputs, causal_padding(self))
        return ops.conv(
            inputs,
            kernel,
            strides=list(self.strides),
            padding="valid",
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )


class SparseConv2D(_SparseConv, keras.layers.Conv2D):
    """`keras.layers.Conv2D` whose kernel is sparse."""


class SparseConv3D(_SparseConv, keras.layers.Conv3D):
    """`keras.layers.Conv3D` whose kernel is sparse."""


class _SparseConvTranspose(SparseLayer):
    """What the transposed convolutions share.

    Their kernels are stored as `(*size, output units, input channels)`: a block "4x1" is four output units of an input.
    """

    def call(self, inputs, training=False):
        outputs = self.apply_weight("kernel", self._convolve, inputs, training)
        return _bias_and_activation(self, outputs, training, self.data_format)

    def _convolve(self, inputs, kernel):
        return ops.conv_transpose(
            inputs,
            kernel,
            strides=list(self.strides),
            padding=self.padding,
            output_padding=self.output_padding,
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )

    def filter_axes(self, name="kernel"):
        return (self.rank,)

    def position_axes(self, rank):
        return _spatial_axes(self)


class SparseConv1DTranspose(_SparseConvTranspose, keras.layers.Conv1DTranspose):
    """`keras.layers.Conv1DTranspose` whose kernel is sparse."""


class SparseConv2DTranspose(_SparseConvTranspose, keras.layers.Conv2DTranspose):
    """`keras.layers.Conv2DTranspose` whose kernel is sparse."""


class SparseConv3DTranspose(_SparseConvTranspose, keras.layers.Conv3DTranspose):
    """`keras.layers.Conv3DTranspose` whose kernel is sparse."""


class _SparseDepthwise(SparseLayer):
    """What the layers with a depthwise kernel share."""

    def position_axes(self, rank):
        return _spatial_axes(self)

    def _convolve_depthwise(self, inputs, kernel):
        return ops.depthwise_conv(
            inputs,
            kernel,
            strides=self.strides,
            padding=self.padding,
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )


class _SparseDepthwiseConv(_SparseDepthwise):
    """What the depthwise convolutions share."""

    def call(self, inputs, training=False):
        outputs = self.apply_weight("kernel", self._convolve_depthwise, inputs, training)
        return _bias_and_activation(self, outputs, training, self.data_format)

    def filter_axes(self, name="kernel"):
        return (self.rank, self.rank + 1)


class SparseDepthwiseConv1D(_SparseDepthwiseConv, keras.layers.DepthwiseConv1D):
    """`keras.layers.DepthwiseConv1D` whose kernel is sparse."""


class SparseDepthwiseConv2D(_SparseDepthwiseConv, keras.layers.DepthwiseConv2D):
    """`keras.layers.DepthwiseConv2D` whose kernel is sparse."""


class _SparseSeparableConv(_SparseDepthwise):
    """What the separable convolutions share: a depthwise convolution, then one of size 1, each with a sparse kernel.

    They are two linear operations one after the other, so a technique that works on pre-activations (variational
    dropout) does so after each of them.
    """

    sparse_weight_names = ("depthwise_kernel", "pointwise_kernel")

    def call(self, inputs, training=False):
        hidden = self.apply_weight("depthwise_kernel", self._convolve_depthwise, inputs, training)
        outputs = self.apply_weight("pointwise_kernel", self._mix_channels, hidden, training)
        return _bias_and_activation(self, outputs, training, self.data_format)

    def _mix_channels(self, inputs, kernel):
        return ops.conv(inputs, kernel, strides=1, padding="valid", data_format=self.data_format)

    def filter_axes(self, name="depthwise_kernel"):
        return (self.rank, self.rank + 1) if name == "depthwise_kernel" else (self.rank + 1,)


class SparseSeparableConv1D(_SparseSeparableConv, keras.layers.SeparableConv1D):
    """`keras.layers.SeparableConv1D` whose kernels are sparse."""


class SparseSeparableConv2D(_SparseSeparableConv, keras.layers.SeparableConv2D):
    """`keras.layers.SeparableConv2D` whose kernels are sparse."""


class SparseEmbedding(SparseLayer, keras.layers.Embedding):
    """`keras.layers.Embedding` whose table is sparse."""

    sparse_weight_names = ("embeddings",)

    def __init__(self, *args, weights=None, **kwargs):
        super().__init__(*args, **kwargs)
        if weights is not None:
            # Keras's constructor would want values for the technique's variables, too.
            (self._given_table,) = weights if isinstance(weights, list) and len(weights) == 1 else [weights]
            self.build()

    def build_technique(self):
        # Before a mask cuts it.
        table = vars(self).pop("_given_table", None)
        if table is not None:
            stored_variable(self, "embeddings").assign(table)
        super().build_technique()

    def call(self, inputs, training=False):
        return self._lookup(inputs, training)

    def compute_output_spec(self, inputs, training=False):
        return super().compute_output_spec(inputs)

    def filter_axes(self, name="embeddings"):
        # A row is a symbol: the output unit of a tied softmax. The untied projection has symbols as columns.
        return (0,) if name == "embeddings" else (1,)

    def _lookup(self, inputs, training):
        ids = ops.cast(inputs, "int32") if inputs.dtype not in ("int32", "int64") else inputs
        # Only the rows that the call looks up are worked on, and each position sees its own row.
        rows = self.apply_weight(
            "embeddings", lambda _, rows: rows, None, training, select=lambda table: ops.take(table, ids, axis=0)
        )
        return ops.cast(rows, self.compute_dtype)


def _bias_and_activation(layer, outputs, training, data_format="channels_last"):
    if layer.bias is not None:
        bias = ops.cast(layer.bound_value("bias", training), outputs.dtype)
        if data_format == "channels_first":
            bias = ops.reshape(bias, (1, -1) + (1,) * layer.rank)
        outputs = ops.add(outputs, bias)
    if layer.activation is not None:
        outputs = layer.activation(outputs)
    return outputs


def _spatial_axes(layer):
    first = 1 if layer.data_format == "channels_last" else 2
    return tuple(range(first, first + layer.rank))


if hasattr(keras.layers, "ReversibleEmbedding"):  # Keras >= 3.13

    class SparseReversibleEmbedding(SparseEmbedding, keras.layers.ReversibleEmbedding):
        """`keras.layers.ReversibleEmbedding` whose table (tied softmax), or tables, are sparse."""

        keras_class = keras.layers.ReversibleEmbedding

        @property
        def sparse_weight_names(self):
            return ("embeddings",) if self.tie_weights else ("embeddings", "reverse_embeddings")

        def call(self, inputs, reverse=False, training=False):
            if not reverse:
                outputs = self._lookup(inputs, training)
                # As in the stock layer: a reverse call must not carry a mask, so `compute_mask` can't set it.
                if self.mask_zero:
                    set_mask(outputs, ops.not_equal(inputs, 0))
                return outputs
            name = "embeddings" if self.tie_weights else "reverse_embeddings"
            logits = self.apply_weight(name, self._project, inputs, training)
            if self.logit_soft_cap is not None:
                logits = ops.multiply(ops.tanh(ops.divide(logits, self.logit_soft_cap)), self.logit_soft_cap)
            return logits

        def compute_output_spec(self, inputs, reverse=False, training=False):
            return keras.layers.ReversibleEmbedding.compute_output_spec(self, inputs, reverse)

        def _project(self, inputs, table):
            kernel = ops.transpose(table) if self.tie_weights else table
            if self.reverse_dtype is not None:
                inputs, kernel = ops.cast(inputs, self.reverse_dtype), ops.cast(kernel, self.reverse_dtype)
            return ops.matmul(inputs, kernel)
else:
    SparseReversibleEmbedding = None
